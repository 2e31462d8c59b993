"""CNI calls as a container runtime makes them, against plugins that write down what they were given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab import runtime
from lab.runtime import Attachment, CniFailed

ATTACHMENT = Attachment(
    container_id="c1",
    netns="/run/netns/x",
    namespace="default",
    pod="a",
    uid="u1",
    port_mappings=({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},),
)

PLUGIN = """#!/bin/sh
config=$(cat)
name=$(basename "$0")
printf '%s %s %s\\n' "$name" "$CNI_COMMAND" "$config" >> "$(dirname "$0")/calls"
env | grep ^CNI_ | sort > "$(dirname "$0")/$name.env"
[ -e "$(dirname "$0")/$name.fails" ] && { cat "$(dirname "$0")/$name.fails"; exit 1; }
[ "$CNI_COMMAND" = ADD ] && printf '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/32"}],"by":"%s"}' "$name"
exit 0
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for name in ("first", "second"):
        (tmp_path / name).write_text(PLUGIN)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def _conf(version: str = "1.1.0") -> runtime.ConfList:
    plugins = [{"type": "first"}, {"type": "second", "capabilities": {"portMappings": True}}]
    return runtime.parse(json.dumps({"cniVersion": version, "name": "net", "plugins": plugins}))


def _calls(path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    lines = [line.split(" ", 2) for line in (path / "calls").read_text().splitlines()]
    return [(name, command, json.loads(config)) for name, command, config in lines]


def test_add_goes_forward_and_hands_each_result_on(path: Path) -> None:
    result = runtime.add(_conf(), ATTACHMENT, path=path)
    first, second = _calls(path)
    assert (first[:2], second[:2]) == (("first", "ADD"), ("second", "ADD"))
    assert "prevResult" not in first[2]
    assert second[2]["prevResult"]["by"] == "first"
    assert result["by"] == "second"
    assert second[2]["name"] == "net"
    assert second[2]["cniVersion"] == "1.1.0"


def test_del_goes_backward_with_the_final_result(path: Path) -> None:
    runtime.delete(_conf(), ATTACHMENT, path=path, result={"by": "second"})
    calls = _calls(path)
    assert [call[0] for call in calls] == ["second", "first"]
    assert all(call[2]["prevResult"] == {"by": "second"} for call in calls)


def test_runtime_config_goes_to_the_capable_plugin_only(path: Path) -> None:
    runtime.add(_conf(), ATTACHMENT, path=path)
    first, second = _calls(path)
    assert "runtimeConfig" not in first[2]
    assert second[2]["runtimeConfig"] == {"portMappings": list(ATTACHMENT.port_mappings)}
    assert "capabilities" not in second[2]


def test_the_environment_is_that_of_a_kubelets_runtime(path: Path) -> None:
    runtime.add(_conf(), ATTACHMENT, path=path)
    env = dict(line.split("=", 1) for line in (path / "first.env").read_text().splitlines())
    assert env["CNI_NETNS"] == "/run/netns/x"
    assert env["CNI_IFNAME"] == "eth0"
    assert env["CNI_ARGS"] == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"
    )


def test_a_plugins_error_object_arrives_unchanged(path: Path) -> None:
    (path / "second.fails").write_text('{"code": 11, "msg": "try again later", "details": "agent away"}')
    with pytest.raises(CniFailed, match=r"CNI code 11: try again later \(agent away\)") as failed:
        runtime.add(_conf(), ATTACHMENT, path=path)
    assert failed.value.code == runtime.TRY_AGAIN_LATER


def test_a_missing_plugin_means_try_again_later(path: Path) -> None:
    (path / "first").unlink()
    with pytest.raises(CniFailed, match="is not there") as failed:
        runtime.add(_conf(), ATTACHMENT, path=path)
    assert failed.value.code == runtime.TRY_AGAIN_LATER


def test_garbage_collection_names_what_is_valid(path: Path) -> None:
    runtime.collect_garbage(_conf(), [ATTACHMENT], path=path)
    assert _calls(path)[0][2]["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "eth0"}]


@pytest.mark.parametrize(("version", "speaks"), [("0.3.1", False), ("1.0.0", False), ("1.1.0", True)])
def test_status_is_for_1_1_0_and_later(version: str, speaks: bool) -> None:  # noqa: FBT001 a parameter of the test
    assert _conf(version).speaks_status is speaks
