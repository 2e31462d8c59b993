"""A real agent in a network namespace against a real API server, with the rights that deploy/rbac gives it.

Each test that shows "nothing was touched" first shows that the agent touches what it should.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.functional.agent_world import AgentWorld, agent_world

FOREIGN = "10.250.0.0/16 via 192.0.2.1 dev eth0 proto static"


def pool(name: str, cidr: str) -> str:
    return json.dumps(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "IPPool",
            "metadata": {"name": name},
            "spec": {"cidr": cidr, "blockSize": 28, "nodeSelector": f"kubernetes.io/hostname == '{name}'"},
        }
    )


@pytest.fixture
def world(api: Any, netns: Callable[..., str], tmp_path: Path) -> Iterator[AgentWorld]:
    node = api.unique("agent-node")
    with agent_world(api, netns=netns("agent"), node=node, directory=tmp_path) as world:
        api.kubectl("label", "node", node, f"kubernetes.io/hostname={node}")
        world.ip("route", "add", *FOREIGN.split()[:5], "proto", "static")
        yield world
        api.kubectl("delete", "ippool", node, "--ignore-not-found", "--wait=false")
        api.kubectl("delete", "node", node, "--ignore-not-found")


def blackhole(world: AgentWorld) -> str:
    """The agent's one blackhole, once it stands."""

    def found() -> str:
        holes = set(world.routes("type", "blackhole"))
        assert len(holes) == 1, f"{holes}\n{world.log[-3000:]}"
        return holes.pop()

    return eventually(found, within_s=20)


def foreign(world: AgentWorld) -> bool:
    return FOREIGN in {" ".join(line.split()) for line in world.ip("route", "show").splitlines()}


def confirmed(api: Any, node: str) -> list[str]:
    affinities = json.loads(api.kubectl("get", "blockaffinities.projectcalico.org", "-o", "json"))["items"]
    return [
        one["spec"]["cidr"] for one in affinities if one["spec"]["node"] == node and one["spec"]["state"] == "confirmed"
    ]


def test_a_pool_becomes_a_confirmed_block_and_a_blackhole(api: Any, world: AgentWorld) -> None:
    world.start()
    world.until_ready()
    assert world.routes() == set()
    api.kubectl("apply", "-f", "-", stdin=pool(world.node, "10.90.0.0/24"))
    hole = blackhole(world)
    (block,) = confirmed(api, world.node)
    assert hole == f"blackhole {block} metric 1024"
    assert foreign(world)


def test_a_killed_agent_leaves_its_routes_and_the_next_one_adopts_them(api: Any, world: AgentWorld) -> None:
    api.kubectl("apply", "-f", "-", stdin=pool(world.node, "10.91.0.0/24"))
    world.start()
    world.until_ready()
    hole = blackhole(world)
    stray = "10.91.9.9 dev eth0 scope link"
    world.kill()
    assert world.routes() == {hole}
    world.ip("route", "add", *stray.split(), "proto", "80")
    world.start()
    world.until_ready()
    eventually(lambda: world.routes() == {hole}, within_s=10, what="what nobody wants is swept, the rest adopted")
    said = world.log.rsplit("level=info from=felix.main start", 1)[1]
    assert "+ blackhole" not in said, "what stands is not written again"
    assert foreign(world)


def test_an_agent_that_is_told_to_stop_leaves_everything_as_it_is(api: Any, world: AgentWorld) -> None:
    api.kubectl("apply", "-f", "-", stdin=pool(world.node, "10.92.0.0/24"))
    world.start()
    world.until_ready()
    hole = blackhole(world)
    assert world.stop() == 0, world.log
    assert world.routes() == {hole}
    assert foreign(world)


def test_an_api_server_that_is_away_takes_nothing_away(api: Any, world: AgentWorld) -> None:
    api.kubectl("apply", "-f", "-", stdin=pool(world.node, "10.93.0.0/24"))
    world.start()
    world.until_ready()
    hole = blackhole(world)
    with api.away():
        eventually(lambda: "watch failed kind=Node " in world.log, within_s=20)
        assert world.get("/readyz")[0] == 200
        assert world.get("/healthz")[0] == 200
        assert world.routes() == {hole}
        # An agent that starts now knows nothing of the cluster, and therefore sweeps nothing either.
        world.kill()
        world.start()
        eventually(lambda: "waiting for a list of" in world.get("/readyz")[1], within_s=20)
        assert world.routes() == {hole}
    world.until_ready()
    assert world.routes() == {hole}


def test_a_blackhole_that_somebody_deletes_comes_back(api: Any, world: AgentWorld) -> None:
    api.kubectl("apply", "-f", "-", stdin=pool(world.node, "10.94.0.0/24"))
    world.start()
    world.until_ready()
    hole = blackhole(world)
    world.ip("route", "del", *hole.split())
    assert blackhole(world) == hole


def test_the_doors_say_what_they_wait_for_and_the_metrics_what_is(api: Any, world: AgentWorld) -> None:
    api.kubectl("apply", "-f", "-", stdin=pool(world.node, "10.95.0.0/24"))
    world.start()
    world.until_ready()
    blackhole(world)
    _, page = world.get("/metrics")
    figures = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert float(figures["felix_resync_state"]) == 3
    assert float(figures["felix_route_table_num_routes"]) == 1
    assert float(figures["tortie_ipam_blocks"]) == 1
    assert float(figures["tortie_bgp_speaker_connected"]) == 0
    assert (world.directory / "bin" / "tortie").exists()
    assert "k8s-pod-network" in (world.directory / "net.d" / "10-tortie.conflist").read_text()


def test_a_question_about_the_node_is_answered_by_its_agent(api: Any, world: AgentWorld) -> None:
    api.kubectl("apply", "-f", "-", stdin=pool(world.node, "10.96.0.0/24"))
    world.start()
    world.until_ready()
    hole = blackhole(world)
    question = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "CalicoNodeStatus",
        "metadata": {"name": world.node},
        "spec": {"node": world.node, "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 0},
    }
    api.kubectl("create", "-f", "-", stdin=json.dumps(question))

    def answered() -> dict[str, Any]:
        text = api.kubectl("get", "caliconodestatuses.projectcalico.org", world.node, "-o", "json")
        status: dict[str, Any] = json.loads(text).get("status", {})
        assert status.get("lastUpdated"), world.log[-2000:]
        return status

    status = eventually(answered, within_s=10)
    assert status["agent"]["birdV4"]["state"] == "NotReady"
    assert status["routes"]["routesV4"][0]["destination"] == hole.split()[1]


def test_a_node_without_a_name_is_refused_in_one_sentence(world: AgentWorld) -> None:
    world.node = ""
    world.start()
    assert world.process is not None
    assert world.process.wait(timeout=20) == 2
    assert "--node (or NODE_NAME) must name this node's Node object" in world.log
