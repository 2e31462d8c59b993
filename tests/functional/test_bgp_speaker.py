"""The speaker against real routers: what the router sees while everything around it dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bgp import wire
from lab.routers_run import Bird, Frr
from tests.eventually import eventually
from tests.functional.bgp_fabric import (
    TOR,
    Agent,
    SpeakerProcess,
    Watch,
    bird_text,
    blocks,
    cable,
    frr_text,
    learned,
    neighbor,
    routes,
)


@dataclass
class World:
    agent: Agent
    speaker: SpeakerProcess
    bird: Bird
    frr: Frr
    directory: Path

    def new_agent(self) -> None:
        self.agent = Agent(self.directory / "run" / "bgp.sock")


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> Iterator[World]:
    node, tor = netns("node"), netns("tor")
    cable(node, tor)
    agent = Agent(tmp_path / "run" / "bgp.sock")
    speaker = SpeakerProcess(netns=node, run_dir=tmp_path / "run", own_dir=tmp_path / "own")
    bird = Bird(name="tor", directory=tmp_path / "bird", netns=tor)
    frr = Frr(name="tor", directory=tmp_path / "frr", netns=tor)
    made = World(agent=agent, speaker=speaker, bird=bird, frr=frr, directory=tmp_path)
    speaker.start()
    yield made
    speaker.stop()
    made.agent.stop()
    bird.stop()
    frr.stop()
    print((tmp_path / "run" / "speaker.log").read_text())


def is_up(world: World) -> bool:
    return world.agent.states().get(TOR) is wire.State.UP


@pytest.mark.parametrize("key", ["", "s3cret, with spaces"])
def test_a_bird_router_and_the_node_exchange_routes(world: World, key: str) -> None:
    world.bird.start(bird_text(md5=key))
    world.agent.want(neighbor(password=key), announced=routes(blocks(3)))

    eventually(lambda: learned(world.bird) == set(blocks(3)), within_s=20)
    eventually(lambda: world.agent.best() == {"10.200.0.0/24": {TOR}})
    eventually(lambda: world.agent.do(world.agent.link.synced))
    status = eventually(lambda: (s := world.agent.do(world.agent.link.status)).configured and s)
    assert [(view.received, view.sent, view.end_of_rib) for view in status.neighbors] == [(1, 3, True)]
    assert world.speaker.probe().returncode == 0


def test_a_wrong_key_brings_nothing_up_and_the_right_one_does(world: World) -> None:
    world.bird.start(bird_text(md5="right"))
    world.agent.want(neighbor(password="wrong"), announced=routes(blocks(1)))
    eventually(lambda: world.agent.do(world.agent.link.status).configured, within_s=20)
    assert world.agent.states() == {TOR: wire.State.NEVER}

    world.agent.want(neighbor(password="right"), announced=routes(blocks(1)))
    eventually(lambda: learned(world.bird) == set(blocks(1)), within_s=30)


@pytest.mark.parametrize("key", ["", "s3cret"])
def test_an_frr_router_and_the_node_exchange_routes(world: World, key: str) -> None:
    world.frr.start(frr_text(md5=key))
    world.agent.want(neighbor(password=key), announced=routes(blocks(3)))

    eventually(lambda: learned(world.frr) == set(blocks(3)), within_s=20)
    eventually(lambda: world.agent.best() == {"10.200.0.0/24": {TOR}})


@pytest.mark.parametrize("victim", ["exabgp", "supervisor", "relay"])
def test_a_killed_speaker_loses_no_route_at_the_router_though_the_agent_is_away(world: World, victim: str) -> None:
    world.bird.start(bird_text())
    mine = set(blocks(200))
    world.agent.want(neighbor(), announced=routes(blocks(200)))
    eventually(lambda: learned(world.bird) == mine, within_s=20)
    eventually((world.directory / "own" / "wanted.json").exists)
    world.agent.stop()

    with Watch(world.bird) as watch:
        for _ in range(3):
            before = world.speaker.exabgp()
            if victim == "exabgp":
                world.speaker.kill_exabgp()
            elif victim == "relay":
                os.kill(eventually(world.speaker.relay), signal.SIGKILL)
            else:
                world.speaker.kill()
                world.speaker.start()
            eventually(lambda: world.speaker.exabgp() not in {0, before}, within_s=20)  # noqa: B023
            eventually(lambda: "Established" in world.bird.ask("show", "protocols", "node"), within_s=20)
            eventually(lambda: " stale" not in world.bird.ask("show", "route", "all", "protocol", "node"), within_s=20)
            eventually(lambda: world.speaker.probe().returncode == 0, within_s=20)

    assert (watch.fewest, watch.looks > 20) == (200, True)
    world.new_agent()


def test_without_graceful_restart_the_same_kill_does_lose_routes(world: World) -> None:
    world.bird.start(bird_text(graceful=False))
    world.agent.want(neighbor(restart_time_s=0), announced=routes(blocks(50)))
    eventually(lambda: learned(world.bird) == set(blocks(50)), within_s=20)

    with Watch(world.bird) as watch:
        world.speaker.kill_exabgp()
        eventually(lambda: watch.fewest < 50)
    eventually(lambda: learned(world.bird) == set(blocks(50)), within_s=20)


def test_end_of_rib_waits_for_a_complete_wanted_set(world: World) -> None:
    world.bird.start(bird_text())
    world.agent.want(neighbor(), announced=routes(blocks(100)))
    eventually(lambda: learned(world.bird) == set(blocks(100)), within_s=20)

    with Watch(world.bird) as watch:
        world.speaker.kill()
        (world.directory / "own" / "wanted.json").unlink()
        world.agent.stop()
        world.new_agent()
        world.agent.want(neighbor(), announced=routes(blocks(1)), complete=False)
        world.speaker.start()
        eventually(lambda: is_up(world), within_s=20)
        world.agent.want(neighbor(), announced=routes(blocks(100)))
        eventually(lambda: world.agent.do(world.agent.link.status).neighbors[0].sent == 100, within_s=20)
    assert watch.fewest == 100


def test_an_added_neighbour_flaps_nobody_and_a_removed_one_withdraws_first(world: World) -> None:
    world.bird.start(bird_text())
    other = neighbor(peer="10.77.0.9")
    world.agent.want(neighbor(), announced=routes(blocks(5)))
    eventually(lambda: learned(world.bird) == set(blocks(5)), within_s=20)
    since_s = world.agent.do(world.agent.link.status).neighbors[0].since_s
    exabgp = world.speaker.exabgp()

    world.agent.want(neighbor(), other, announced=routes(blocks(5)))
    eventually(lambda: world.agent.do(world.agent.link.status).configured, within_s=20)
    assert world.agent.do(world.agent.link.status).neighbors[0].since_s == since_s
    assert world.speaker.exabgp() == exabgp

    world.agent.want(other, announced=routes(blocks(5)))
    eventually(lambda: learned(world.bird) == set())
    eventually(lambda: "Established" not in world.bird.ask("show", "protocols", "node"), within_s=20)
    assert world.speaker.exabgp() == exabgp


def test_a_changed_set_is_announced_and_withdrawn(world: World) -> None:
    world.bird.start(bird_text())
    world.agent.want(neighbor(), announced=routes(blocks(5)))
    eventually(lambda: learned(world.bird) == set(blocks(5)), within_s=20)
    world.agent.want(neighbor(), announced=routes(blocks(3)))
    eventually(lambda: learned(world.bird) == set(blocks(3)))
    world.agent.want(neighbor(), announced=routes(blocks(2, first="10.2")))
    eventually(lambda: learned(world.bird) == set(blocks(2, first="10.2")))


def test_what_was_withdrawn_while_the_router_was_away_does_not_come_back(world: World) -> None:
    world.bird.start(bird_text())
    world.agent.want(neighbor(), announced=routes(blocks(5)))
    eventually(lambda: learned(world.bird) == set(blocks(5)), within_s=20)
    world.bird.stop()
    eventually(lambda: not is_up(world))
    world.agent.want(neighbor(), announced=routes(blocks(2)))
    world.bird.start(bird_text())
    eventually(lambda: learned(world.bird) == set(blocks(2)), within_s=30)


def test_a_drained_node_withdraws_before_it_stops(world: World) -> None:
    world.bird.start(bird_text())
    world.agent.want(neighbor(), announced=routes(blocks(5)))
    eventually(lambda: learned(world.bird) == set(blocks(5)), within_s=20)
    os.kill(world.speaker.pid, signal.SIGUSR2)
    eventually(lambda: learned(world.bird) == set())
    world.speaker.stop()
    assert learned(world.bird) == set()


def test_a_speaker_that_is_updated_leaves_its_routes_to_graceful_restart(world: World) -> None:
    world.bird.start(bird_text())
    world.agent.want(neighbor(), announced=routes(blocks(5)))
    eventually(lambda: learned(world.bird) == set(blocks(5)), within_s=20)
    with Watch(world.bird) as watch:
        world.speaker.stop()
        world.speaker.start()
        eventually(
            lambda: world.agent.states()[TOR] is wire.State.UP and world.speaker.probe().returncode == 0, within_s=20
        )
        eventually(lambda: world.agent.do(world.agent.link.status).neighbors[0].sent == 5)
    assert watch.fewest == 5


def test_routes_of_a_restarting_router_stay_until_it_is_back(world: World) -> None:
    two = "route 10.200.0.0/24 blackhole; route 10.201.0.0/24 blackhole;"
    world.frr.start(frr_text())
    world.agent.want(neighbor(), announced=routes(blocks(1)))
    eventually(lambda: world.agent.best() == {"10.200.0.0/24": {TOR}}, within_s=20)
    world.frr.kill()
    eventually(lambda: world.agent.states()[TOR] is wire.State.DOWN)
    assert world.agent.best() == {"10.200.0.0/24": {TOR}}
    world.bird.start(bird_text(routes=two))
    eventually(lambda: set(world.agent.best()) == {"10.200.0.0/24", "10.201.0.0/24"}, within_s=30)


def test_routes_of_a_router_that_says_goodbye_go_at_once(world: World) -> None:
    world.bird.start(bird_text())
    world.agent.want(neighbor())
    eventually(lambda: world.agent.best() == {"10.200.0.0/24": {TOR}}, within_s=20)
    world.bird.stop()
    eventually(lambda: world.agent.best() == {})


def test_a_restarted_agent_gets_the_whole_table(world: World) -> None:
    world.bird.start(bird_text())
    world.agent.want(neighbor(), announced=routes(blocks(2)))
    eventually(lambda: world.agent.best() == {"10.200.0.0/24": {TOR}}, within_s=20)
    world.agent.stop()
    more = "route 10.201.0.0/24 blackhole;"
    world.bird.configure(bird_text(routes=more))
    world.new_agent()
    world.agent.want(neighbor(), announced=routes(blocks(2)))
    eventually(lambda: set(world.agent.best()) == {"10.201.0.0/24"}, within_s=20)
    eventually(lambda: world.agent.do(world.agent.link.synced))
    assert world.agent.do(world.agent.link.status).neighbors[0].sent == 2


def test_a_flood_beyond_the_limit_raises_a_problem_and_keeps_the_session(world: World) -> None:
    flood = "".join(f"route 10.210.{n}.0/24 blackhole;" for n in range(200))
    world.bird.start(bird_text(routes=flood))
    world.agent.want(neighbor(prefix_limit=50))
    problems = eventually(lambda: world.agent.do(world.agent.link.status).problems, within_s=20)
    assert "more than the limit of 50" in str(problems[0])
    assert len(world.agent.best()) == 50
    assert is_up(world)

    world.bird.configure(bird_text(routes="route 10.210.7.0/24 blackhole;"))
    eventually(lambda: set(world.agent.best()) == {"10.210.7.0/24"}, within_s=20)
    eventually(lambda: not world.agent.do(world.agent.link.status).problems)


def test_a_silent_neighbour_holds_up_no_reload(world: World) -> None:
    world.bird.start(bird_text())
    dead = neighbor(peer="10.99.0.1", local="10.77.0.1")
    world.agent.want(neighbor(), dead, announced=routes(blocks(5)))
    eventually(lambda: learned(world.bird) == set(blocks(5)), within_s=20)
    exabgp = world.speaker.exabgp()
    world.agent.want(neighbor(), dead, neighbor(peer="10.77.0.8"), announced=routes(blocks(6)))
    eventually(lambda: learned(world.bird) == set(blocks(6)), within_s=20)
    eventually(lambda: world.agent.do(world.agent.link.status).configured, within_s=20)
    assert world.speaker.exabgp() == exabgp


def test_a_bad_session_takes_no_other_with_it(world: World) -> None:
    world.bird.start(bird_text())
    bad = neighbor(peer="10.77.0.8", name='evil"; }\nprocess x { run /bin/sh; }')
    world.agent.want(neighbor(), bad, announced=routes(blocks(2)))
    eventually(lambda: learned(world.bird) == set(blocks(2)), within_s=20)
    eventually(lambda: "name: must match" in world.agent.do(world.agent.link.status).problem)
