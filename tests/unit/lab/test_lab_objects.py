"""The Kubernetes objects of a fabric."""

from __future__ import annotations

from lab import objects, topology


def test_a_rack_is_one_peer_for_each_family_selected_by_label() -> None:
    configuration, *peers = objects.bgp(topology.load(topology.find("default")))
    assert configuration["spec"] == {"nodeToNodeMeshEnabled": False}
    assert {peer["metadata"]["name"]: peer["spec"] for peer in peers} == {
        "rack1-tor1-v4": {"peerIP": "10.1.1.1", "asNumber": 65101, "nodeSelector": "rack == 'rack1'"},
        "rack1-tor1-v6": {"peerIP": "fd00:1:1::1", "asNumber": 65101, "nodeSelector": "rack == 'rack1'"},
        "rack2-tor2-v4": {"peerIP": "10.1.2.1", "asNumber": 65102, "nodeSelector": "rack == 'rack2'"},
        "rack2-tor2-v6": {"peerIP": "fd00:1:2::1", "asNumber": 65102, "nodeSelector": "rack == 'rack2'"},
    }


def test_an_uplink_is_a_peering_of_its_own_from_the_links_address() -> None:
    _, *peers = objects.bgp(topology.load(topology.find("dual-tor")))
    assert len(peers) == 8
    assert peers[0] == {
        "apiVersion": "projectcalico.org/v3",
        "kind": "BGPPeer",
        "metadata": {"name": "n1-tor1-v4"},
        "spec": {"node": "n1", "peerIP": "10.253.1.0", "asNumber": 65101, "sourceAddress": "None"},
    }


def test_a_pod_is_bound_to_its_node_from_the_start() -> None:
    pod = objects.pod("a", node="n1", command=("sleep", "1"))
    assert pod["spec"]["nodeName"] == "n1"
    assert pod["spec"]["containers"][0]["command"] == ["sleep", "1"]
