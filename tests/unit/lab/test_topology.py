"""What a topology file may say, and how it says no."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import topology
from lab.topology import BadTopology

DEFAULT = topology.find("default").read_text()


@pytest.mark.parametrize("name", ["default", "dual-tor"])
def test_shipped_topologies_are_whole(name: str) -> None:
    loaded = topology.load(topology.find(name))
    assert loaded.control_plane in loaded.names
    assert {router.kind for router in loaded.routers} == {"bird", "frr"}


@pytest.mark.parametrize("name", ["default", "dual-tor"])
def test_what_is_kept_in_the_run_directory_reads_back_the_same(name: str) -> None:
    loaded = topology.load(topology.find(name))
    assert topology.decode(topology.encode(loaded)) == loaded


@pytest.mark.parametrize(
    ("said", "instead", "complaint"),
    [
        ("asn: 65001", "asn: many", "nodes[0].asn: Expected `int`, got `str`"),
        ("asn: 65001", "asn: 4294967296", "n1.asn: is 4294967296; allowed: 1..4294967295"),
        ("asn: 65000", "asn: -5", "spine.asn: is -5; allowed: 1..4294967295"),
        ("kind: frr", "kind: cisco", "routers[2].kind: Invalid enum value 'cisco'; allowed: bird, frr"),
        (
            "segment: rack1, v4: 10.1.1.11",
            "segment: rack9, v4: 10.1.1.11",
            "nodes.n1.segment: is rack9; allowed: one of rack1, rack2, outside, control",
        ),
        ("v4: 10.1.1.12", "v4: 10.1.1.11", "n2.v4: is 10.1.1.11; allowed: an address that n1 has not"),
        ("v4: 10.1.1.12", "v4: 10.7.1.12", "n2.v4: is 10.7.1.12; allowed: within 10.1.1.0/24"),
        ("v4: 10.1.1.1/24", 'v4: "fd00::1/64"', "segments[0].v4: 'fd00::1/64' is not an IPv4Interface"),
        ("block_size: 26", "block_size: 8", "pools.pods-v4.block_size: is 8; allowed: 20..32"),
        ("cidr: 10.244.0.0/16", "cidr: 10.244.0.1/16", "pools.pods-v4.cidr: 10.244.0.1/16 has host bits set"),
        ("hold_s: 90", "hold_s: 2", "bgp.hold_s: is 2; allowed: 0 or 3 and more"),
        ("restart_s: 120", "restart_s: 4096", "bgp.restart_s: is 4096; allowed: 1..4095"),
        ("mtu: 1500", "mtuu: 1500", "file: Object contains unknown field `mtuu`"),
        ("name: n1,", "name: node-with-a-long-name,", "name: is node-with-a-long-name; allowed: at most 12"),
        ("name: client,", "name: n1,", "name: is n1; allowed: a name that nothing else has"),
        ("control_plane: cp", "control_plane: n1", "control_plane: is n1; allowed: one of client, cp"),
    ],
)
def test_a_mistake_is_answered_with_field_value_and_what_is_allowed(said: str, instead: str, complaint: str) -> None:
    with pytest.raises(BadTopology) as refused:
        topology.parse(DEFAULT.replace(said, instead, 1))
    assert str(refused.value).startswith(complaint)


def test_a_name_that_is_no_file_lists_the_shipped_ones() -> None:
    with pytest.raises(BadTopology, match="one of default, dual-tor"):
        topology.find("no-such-thing")


def test_a_file_that_is_no_text_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG")
    with pytest.raises(BadTopology, match=r"picture\.yaml is not text"):
        topology.load(tmp_path / "picture.yaml")
