"""BIRD and FRR from the cache: they speak with each other, and the machine does not notice."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.routers_run import Bird, Frr, RouterFailed, RouterProcess
from tests.eventually import eventually

Netns = Callable[[str], str]

BIRD = """
log stderr all; router id 10.9.0.1;
protocol device {}
protocol static { ipv4; route 192.0.2.0/24 blackhole; }
protocol bgp frr { local 10.9.0.1 as 65001; neighbor 10.9.0.2 as 65002; connect delay time 1;
  ipv4 { import all; export all; }; }
"""

FRR = """
router bgp 65002
 bgp router-id 10.9.0.2
 no bgp ebgp-requires-policy
 neighbor 10.9.0.1 remote-as 65001
 neighbor 10.9.0.1 timers connect 1
"""


@pytest.fixture
def pair(netns: Netns, tmp_path: Path) -> Iterator[tuple[Bird, Frr]]:
    """A BIRD and an FRR with a cable between them; not started."""
    one, other = netns("bird"), netns("frr")
    lines = [
        f"link add name eth0 netns {one} type veth peer name eth0 netns {other}",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
    for name, address in ((one, "10.9.0.1/24"), (other, "10.9.0.2/24")):
        subprocess.run(["ip", "-n", name, "address", "add", address, "dev", "eth0"], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "eth0", "up"], check=True)
    routers: tuple[Bird, Frr] = (
        Bird(name="tor1", directory=tmp_path / "tor1", netns=one),
        Frr(name="tor2", directory=tmp_path / "tor2", netns=other),
    )
    yield routers
    for router in routers:
        router.stop()


def marks() -> tuple[str, ...]:
    """What of the machine a router's package, or its overlays if they were not its own, would change."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    laid_over = sorted(place for place in mounts if place in ("/usr", "/etc", "/run", "/var/tmp"))
    files = [Path("/etc/group"), Path("/etc/passwd")]
    places = [Path("/etc/frr"), Path("/etc/bird"), Path("/run/frr"), Path("/var/tmp/frr"), Path("/usr/lib/frr")]
    return (*laid_over, *(path.read_text() for path in files), *(str(path.exists()) for path in places))


def test_bird_and_frr_exchange_a_route_and_the_machine_stays_as_it_was(pair: tuple[Bird, Frr]) -> None:
    before = marks()
    bird, frr = pair
    bird.start(BIRD)
    frr.start(FRR)
    eventually(lambda: "192.0.2.0/24" in frr.ask("show ip route bgp"), within_s=30, what="FRR learns BIRD's route")
    assert marks() == before


@pytest.mark.parametrize("which", [0, 1], ids=["bird", "frr"])
def test_a_bad_text_is_refused_with_the_routers_own_words_and_nothing_changes(
    pair: tuple[Bird, Frr], which: int
) -> None:
    router: RouterProcess = pair[which]
    router.start((BIRD, FRR)[which])
    with pytest.raises(RouterFailed, match=r"syntax error|Unknown command"):
        router.configure("nonsense 65002\n")
    assert all(router.processes().values())


def test_a_router_that_was_killed_starts_again(pair: tuple[Bird, Frr]) -> None:
    start_kill_start(pair[0], BIRD)
    start_kill_start(pair[1], FRR)


def start_kill_start(router: RouterProcess, text: str) -> None:
    router.start(text)
    router.kill()
    assert not any(router.processes().values())
    router.start(text)
