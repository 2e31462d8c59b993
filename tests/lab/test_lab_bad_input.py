"""Objects that cannot be followed: each is told so in one sentence, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.controlplane import KubectlFailed
from lab.fabric import Lab
from tests.eventually import eventually
from tests.lab import world


@contextmanager
def _nothing_else_changes(lab: Lab) -> Iterator[None]:
    """Routes of all nodes and sessions of all routers are afterwards as they were."""
    fibs, sessions = world.all_fibs(lab), [router.established() for router in lab.routers]
    yield
    assert world.all_fibs(lab) == fibs
    assert [router.established() for router in lab.routers] == sessions


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"cidr": "10.252.0.1/24"}, "cidr"),
        ({"cidr": "10.252.0.0/24", "ipipMode": "Always"}, "ipipMode"),
        ({"cidr": "10.252.0.0/24", "vxlanMode": "Always"}, "vxlanMode"),
        ({"cidr": "10.252.0.0/24", "blockSize": 8}, "blockSize"),
        ({"cidr": "no network"}, "cidr"),
    ],
    ids=["not masked", "ipip", "vxlan", "block size", "no network"],
)
def test_the_api_server_refuses_a_pool_that_cannot_be(lab: Lab, spec: dict[str, Any], words: str) -> None:
    name = world.unique("bad")
    with _nothing_else_changes(lab):
        with pytest.raises(KubectlFailed) as refusal:
            lab.apply([world.calico("IPPool", name, spec)])
        said = str(refusal.value)
        assert words in said
        assert name in said
        assert world.absent(lab, f"{world.CALICO}/ippools/{name}")


def test_a_pool_that_overlaps_another_is_told_which_and_serves_nobody(lab: Lab) -> None:
    pool = world.calico("IPPool", world.unique("overlap"), {"cidr": "10.244.128.0/20"})
    with _nothing_else_changes(lab), world.applied(lab, pool):
        found = eventually(lambda: world.condition(lab, world.path_of(pool), "Allocatable"))
        assert (found["status"], found["reason"]) == ("False", "CIDROverlap")
        assert found["message"] == "10.244.128.0/20 overlaps 10.244.0.0/16 of pool pods-v4"


def test_the_api_server_refuses_a_bgppeer_whose_address_is_none(lab: Lab) -> None:
    peer = world.calico("BGPPeer", world.unique("bad"), {"peerIP": "10.1.1.999", "asNumber": 65101, "node": "n1"})
    with _nothing_else_changes(lab):
        with pytest.raises(KubectlFailed, match=r'spec\.peerIP: Invalid value: "10\.1\.1\.999"'):
            lab.apply([peer])
        assert world.absent(lab, world.path_of(peer))


def test_a_bgppeer_whose_secret_is_missing_says_so_and_harms_no_session(lab: Lab) -> None:
    secret = {"secretKeyRef": {"name": "nowhere", "key": "password"}}
    spec = {"peerIP": "10.1.1.77", "asNumber": 65101, "node": "n1", "password": secret}
    peer = world.calico("BGPPeer", world.unique("bad"), spec)
    name = peer["metadata"]["name"]
    with _nothing_else_changes(lab), world.applied(lab, peer):
        told = eventually(lambda: [line for line in world.log_of(lab, "n1").splitlines() if name in line])
        assert len(told) == 1, "said once"
        assert "nowhere" in told[0]
        assert "spec.password" in told[0]
