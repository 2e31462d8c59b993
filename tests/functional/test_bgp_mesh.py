"""Two nodes that speak with each other, both dialling and both listening, over IPv4 and IPv6."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from bgp import wire
from tests.eventually import eventually
from tests.functional.bgp_fabric import Agent, SpeakerProcess, cable, neighbor


def test_two_nodes_learn_each_others_blocks_and_keep_them_while_one_speaker_restarts(
    netns: Callable[[str], str], tmp_path: Path
) -> None:
    names = [netns("a"), netns("b")]
    cable(*names)
    for number, name in enumerate(names, start=1):
        subprocess.run(["ip", "-n", name, "address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad"], check=True)
    agents = [Agent(tmp_path / name / "bgp.sock") for name in "ab"]
    speakers = [
        SpeakerProcess(netns=netns_name, run_dir=tmp_path / name, own_dir=tmp_path / f"own-{name}")
        for name, netns_name in zip("ab", names, strict=True)
    ]
    try:
        for here, agent in enumerate(agents, start=1):
            there = 3 - here
            common = {"local_as": 65001, "peer_as": 65001, "router_id": f"10.77.0.{here}", "password": "mesh key"}
            four = neighbor(peer=f"10.77.0.{there}", local=f"10.77.0.{here}", **common)
            six = neighbor(peer=f"fd77::{there}", local=f"fd77::{here}", families=(wire.Family.IPV6,), **common)
            told = (
                wire.RouteGroup(family=wire.Family.IPV4, prefixes=(f"10.1.{here}.0/26",)),
                wire.RouteGroup(family=wire.Family.IPV6, prefixes=(f"2001:db8:{here}::/122",)),
            )
            agent.want(four, six, announced=told)
            speakers[here - 1].start()
        expected = {"10.1.2.0/26": {"10.77.0.2"}, "2001:db8:2::/122": {"fd77::2"}}
        eventually(lambda: agents[0].best() == expected, within_s=30)
        eventually(lambda: agents[0].do(agents[0].link.synced), within_s=30)

        seen = []
        speakers[1].kill()
        speakers[1].start()

        def is_back() -> bool:
            seen.append(agents[0].best())
            views = agents[0].do(agents[0].link.rib.neighbors)
            return all(view.state is wire.State.UP and view.end_of_rib and not view.stale for view in views)

        eventually(lambda: any(view.stale for view in agents[0].do(agents[0].link.rib.neighbors)), within_s=20)
        eventually(is_back, within_s=40)
        assert all(best == expected for best in seen)
    finally:
        for speaker in speakers:
            speaker.stop()
        for agent in agents:
            agent.stop()
        print((tmp_path / "a" / "speaker.log").read_text())
