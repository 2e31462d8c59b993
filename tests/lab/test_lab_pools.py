"""Pools beyond the first: another one while everything runs, one family alone, a full one, one that is deleted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from lab.api import ApiRefused
from lab.fabric import Lab
from lab.fabric_routers import FabricRouter
from tests.eventually import eventually
from tests.lab import world

ANNOTATION = "cni.projectcalico.org/"


def _only(*families: str, pool: str = "") -> dict[str, str]:
    """Annotations of a pod that wants these families, from this pool."""
    listed = ", ".join(f'"{family}"' for family in families)
    wanted = {f"{ANNOTATION}ipFamilies": f"[{listed}]"}
    if pool:
        wanted[f"{ANNOTATION}ipv{families[0][-1]}pools"] = f'["{pool}"]'
    return wanted


def _pool(name: str, cidr: str, block_size: int, **more: Any) -> dict[str, Any]:
    """A pool that only those get addresses from who ask for it by name."""
    return world.calico("IPPool", name, {"cidr": cidr, "blockSize": block_size, "assignmentMode": "Manual", **more})


@contextlib.contextmanager
def _accepted_by_routers(lab: Lab, cidr: str) -> Iterator[None]:
    """As a network team would do it before a new pool comes: the routers take its prefixes from the nodes."""
    version = ip_network(cidr).version
    present = next(str(pool.network) for pool in lab.topology.pools if pool.network.version == version)
    family = "ip" if version == 4 else "ipv6"
    lines = [
        f"{family} prefix-list {node.name}_v{version} permit {cidr} le {ip_network(cidr).max_prefixlen}"
        for node in lab.topology.nodes
    ]
    try:
        for router in lab.routers:
            if router.spec.kind == "bird":
                router.process.configure(_running(router).replace(f"{present}+", f"{present}+, {cidr}+"))
            else:
                router.process.configure("\n".join(lines) + "\n")
        yield
    finally:
        for router in lab.routers:
            if router.spec.kind == "bird":
                router.process.configure(_running(router).replace(f"{present}+, {cidr}+", f"{present}+"))
            else:
                router.process.configure("\n".join(f"no {line}" for line in lines) + "\n")


def _running(router: FabricRouter) -> str:
    """The configuration that BIRD runs with now."""
    return (router.directory / "run" / "bird.conf").read_text()


def test_a_pod_may_have_one_family_alone(lab: Lab) -> None:
    for family, version in (("IPv4", 4), ("IPv6", 6)):
        with world.running(lab, {"a": "n1", "b": "n4"}, annotations=_only(family)) as pods:
            targets = {pod.ip for pod in pods.values()}
            assert [ip_network(pod.ip).version for pod in pods.values()] == [version] * 2
            assert all(len(pod.addresses) == 1 for pod in pods.values())
            for network in (pods["a"].network(), pods["b"].network(), lab.network("client")):
                eventually(lambda n=network, t=targets: world.ping(n, sorted(t)) == t)  # type: ignore[misc]


def test_a_pool_that_comes_later_serves_pods_on_both_racks_and_goes_when_they_are_gone(lab: Lab) -> None:
    four, six = world.unique("later4"), world.unique("later6")
    pools = (_pool(four, "10.245.0.0/20", 28), _pool(six, "fd00:245::/64", 122))
    with (
        _accepted_by_routers(lab, "10.245.0.0/20"),
        _accepted_by_routers(lab, "fd00:245::/64"),
        world.applied(lab, *pools),
    ):
        for pool in pools:
            eventually(lambda p=pool: world.condition(lab, world.path_of(p), "Allocatable").get("status") == "True")  # type: ignore[misc]
        with (
            world.running(lab, {"a": "n1", "b": "n3"}, annotations=_only("IPv4", pool=four)) as fours,
            world.running(lab, {"a": "n2", "b": "n4"}, annotations=_only("IPv6", pool=six)) as sixes,
        ):
            for pods, cidr in ((fours, "10.245.0.0/20"), (sixes, "fd00:245::/64")):
                targets = {pod.ip for pod in pods.values()}
                assert all(ip_network(target).subnet_of(ip_network(cidr)) for target in targets)  # type: ignore[arg-type]
                for network in (pods["a"].network(), pods["b"].network(), lab.network("client")):
                    eventually(lambda n=network, t=targets: world.ping(n, sorted(t)) == t)  # type: ignore[misc]
    assert not [b for b in lab.api.get(f"{world.CALICO}/ipamblocks")["items"] if "245" in b["spec"]["cidr"][:9]]


def test_a_pod_that_finds_its_pool_full_says_so_and_starts_when_an_address_is_free_again(lab: Lab) -> None:
    name = world.unique("full")
    wanted = _only("IPv4", pool=name)
    late = world.unique("late")
    with (
        world.applied(lab, _pool(name, "10.251.0.0/30", 30)),
        world.running(lab, {"a": "n1", "b": "n1", "c": "n1", "d": "n1"}, annotations=wanted) as pods,
    ):
        assert len({pod.ip for pod in pods.values()}) == 4
        try:
            lab.create_pod(late, "n1", annotations=wanted)
            said = eventually(lambda: _complaint(lab, late))
            assert f"IPPools {name} have no free address" in said
            assert said.startswith("CNI code ")
            events = eventually(lambda: _events(lab, late))
            assert any(f"IPPools {name} have no free address" in event["message"] for event in events)
            pods["a"].delete()
            assert lab.pod(late, within_s=30).ip == pods["a"].ip
        finally:
            world.remove_pods(lab, late)


def test_no_other_node_gets_an_address_of_a_pool_whose_only_block_is_taken(lab: Lab) -> None:
    name, late = world.unique("small"), world.unique("late")
    wanted = _only("IPv4", pool=name)
    with (
        world.applied(lab, _pool(name, "10.251.4.0/28", 28)),
        world.running(lab, {"a": "n1"}, annotations=wanted),
    ):
        try:
            lab.create_pod(late, "n2", annotations=wanted)
            said = eventually(lambda: _complaint(lab, late))
            assert f"IPPools {name} have no free address: every block is taken by a node" in said
        finally:
            world.remove_pods(lab, late)


def test_a_pool_in_use_is_not_deleted_and_says_who_uses_it(lab: Lab) -> None:
    name = world.unique("used")
    pool = _pool(name, "10.251.8.0/24", 28)
    late = world.unique("late")
    with (
        world.applied(lab, pool),
        world.running(lab, {"user": "n2"}, annotations=_only("IPv4", pool=name)) as pods,
    ):
        user = pods["user"]
        eventually(lambda: world.attribute_of(lab, user.ip))
        with lab.probing("n2", user) as probing:
            lab.control_plane.kubectl("delete", "ippool", name, "--wait=false")
            verdict = eventually(lambda: _terminating(lab, pool))
            assert user.name in verdict["message"]
            assert "deletion waits for" in verdict["message"]
            try:
                lab.create_pod(late, "n2", annotations=_only("IPv4", pool=name))
                assert f"IPPool {name} does not exist, is disabled" in eventually(lambda: _complaint(lab, late))
            finally:
                world.remove_pods(lab, late)
            assert world.attribute_of(lab, user.ip)["secondary"]["pod"] == user.name
        assert probing.result["lost"] == probing.result["tcp_breaks"] == 0, probing.result
        user.delete()
        eventually(lambda: world.absent(lab, world.path_of(pool)), within_s=30, what="the pool is gone")


def _complaint(lab: Lab, pod: str) -> str:
    return str(lab.api.get(f"/api/v1/namespaces/default/pods/{pod}").get("status", {}).get("message", ""))


def _events(lab: Lab, pod: str) -> list[dict[str, Any]]:
    found = lab.api.get("/api/v1/namespaces/default/events", fieldSelector=f"involvedObject.name={pod}")["items"]
    return list(found)


def _terminating(lab: Lab, pool: dict[str, Any]) -> dict[str, Any]:
    try:
        found = world.condition(lab, world.path_of(pool), "Allocatable")
    except ApiRefused as refused:
        raise AssertionError(f"the pool did not stay: {refused}") from refused
    return found if found.get("reason") == "Terminating" and "deletion waits for" in found["message"] else {}
