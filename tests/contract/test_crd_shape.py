"""The kinds as people meet them: applied from files, with short names, columns, defaults and a status of their own.

`client` is calicoctl where there is one in PATH, else kubectl: the same assertions, on objects that either can read.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crds.blocks import BlockAffinity, BlockAffinitySpec
from crds.definitions import DEFINITIONS
from crds.generate import MANIFESTS
from crds.kube_store import KubeStore
from crds.meta import ObjectMeta
from crds.pools import IPAMConfiguration, IPPool, IPPoolSpec


@pytest.fixture
def store(api: Any) -> KubeStore:
    return KubeStore(kubeconfig=api.kubeconfig)


@pytest.fixture
def get_as_json(api: Any) -> Callable[[str, str], dict[str, Any]]:
    """`get_as_json("ippool", name)` with calicoctl if it is installed, else with kubectl."""
    calicoctl = shutil.which("calicoctl")

    def get(kind: str, name: str) -> dict[str, Any]:
        if calicoctl is None:
            return dict(json.loads(api.kubectl("get", kind, name, "-o", "json")))
        env = {"KUBECONFIG": str(api.kubeconfig), "DATASTORE_TYPE": "kubernetes"}
        env["CALICO_API_GROUP"] = "projectcalico.org/v3"
        done = subprocess.run(
            [calicoctl, "get", kind, name, "-o", "json", "--allow-version-mismatch"],
            env=env,
            check=True,
            capture_output=True,
            text=True,
        )
        return dict(json.loads(done.stdout))

    return get


def test_applying_the_manifests_again_changes_nothing(api: Any) -> None:
    api.kubectl("apply", "-f", str(MANIFESTS))
    lines = api.kubectl("apply", "-f", str(MANIFESTS)).splitlines()
    assert len(lines) == len(DEFINITIONS)
    assert all(line.endswith("unchanged") for line in lines)


def test_every_kind_is_established_with_the_names_it_asked_for(store: KubeStore) -> None:
    for definition in DEFINITIONS:
        name = f"{definition.kind.plural}.projectcalico.org"
        crd = store.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        conditions = {c["type"]: c["status"] for c in crd["status"]["conditions"]}
        assert (conditions["Established"], conditions["NamesAccepted"]) == ("True", "True"), name
        assert conditions.get("NonStructuralSchema", "False") == "False", name
        assert crd["spec"]["scope"] == "Cluster"


@pytest.mark.parametrize(
    ("short", "plural"),
    [
        ("ipamconfig", "ipamconfigurations"),
        ("affinity", "blockaffinities"),
        ("affinities", "blockaffinities"),
        ("bgpconfig", "bgpconfigurations"),
        ("clusterinfo", "clusterinformations"),
    ],
)
def test_short_names_work(api: Any, short: str, plural: str) -> None:
    resources = json.loads(api.kubectl("get", "--raw", "/apis/projectcalico.org/v3"))["resources"]
    found = [entry["name"] for entry in resources if short in entry.get("shortNames", ())]
    assert found == [plural]


def test_a_pool_is_shown_with_calicos_columns(api: Any, store: KubeStore) -> None:
    name = api.unique("columns")
    store.create(IPPool(metadata=ObjectMeta(name=name), spec=IPPoolSpec(cidr="10.40.0.0/16", nat_outgoing=True)))
    conditions = [{"type": "Allocatable", "status": "True"}]
    store.patch(IPPool, name, {"status": {"conditions": conditions}}, subresource="status")
    header, row = api.kubectl("get", "ippool", name).splitlines()
    assert header.split() == ["NAME", "CIDR", "VXLAN", "IPIP", "NAT", "ALLOCATABLE", "AGE"]
    assert row.split()[:6] == [name, "10.40.0.0/16", "Never", "Never", "true", "True"]
    store.delete(IPPool, name)


def test_defaults_are_filled_in(api: Any, store: KubeStore) -> None:
    name = api.unique("defaults")
    body = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": name},
        "spec": {"cidr": "10.0.0.0/16"},
    }
    stored = store.request("POST", IPPool.path() + "?dryRun=All", body=body)
    assert stored["spec"] == {
        "cidr": "10.0.0.0/16",
        "nodeSelector": "all()",
        "assignmentMode": "Automatic",
        "disabled": False,
        "disableBGPExport": False,
        "natOutgoing": False,
        "ipipMode": "Never",
        "vxlanMode": "Never",
    }
    config = {"apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration"}
    config |= {"metadata": {"name": "default"}, "spec": {}}
    stored = store.request("POST", IPAMConfiguration.path() + "?dryRun=All", body=config)
    assert stored["spec"] == {"strictAffinity": False, "autoAllocateBlocks": True, "maxBlocksPerHost": 0}


def test_every_kind_has_conditions_as_a_subresource_with_one_entry_a_type(store: KubeStore) -> None:
    for definition in DEFINITIONS:
        name = f"{definition.kind.plural}.projectcalico.org"
        crd = store.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        (version,) = crd["spec"]["versions"]
        assert version["subresources"] == {"status": {}}, name
        conditions = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-map-keys"] == ["type"], name


def test_affinities_are_chosen_by_their_node(api: Any, store: KubeStore) -> None:
    node = api.unique("node")
    spec = BlockAffinitySpec(cidr="10.0.0.0/26", node=node, state="pending")
    store.create(BlockAffinity(metadata=ObjectMeta(name=node), spec=spec))
    assert [found.name for found in store.list(BlockAffinity, fields=f"spec.node={node}").items] == [node]
    assert store.list(BlockAffinity, fields="spec.node=nobody").items == ()
    store.delete(BlockAffinity, node)


def test_calicos_client_reads_a_pool_that_tortie_wrote(
    api: Any, store: KubeStore, get_as_json: Callable[[str, str], dict[str, Any]]
) -> None:
    name = api.unique("calico")
    store.create(IPPool(metadata=ObjectMeta(name=name), spec=IPPoolSpec(cidr="10.41.0.0/16", block_size=27)))
    shown = get_as_json("ippool", name)
    assert (shown["apiVersion"], shown["kind"]) == ("projectcalico.org/v3", "IPPool")
    assert shown["spec"]["cidr"] == "10.41.0.0/16"
    assert shown["spec"]["blockSize"] == 27
    assert shown["spec"]["ipipMode"] == "Never"
    assert shown["spec"]["nodeSelector"] == "all()"
    store.delete(IPPool, name)


def test_explain_describes_the_fields(api: Any) -> None:
    text = api.kubectl("explain", "ippool.spec.blockSize")
    assert "Prefix length of a block" in text


def test_the_manifests_are_plain_files_for_kubectl() -> None:
    assert {path.suffix for path in Path(MANIFESTS).iterdir()} == {".yaml"}
