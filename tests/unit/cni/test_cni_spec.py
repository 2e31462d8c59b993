"""What a runtime may say, and what it is answered."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec import (
    VERSIONS,
    Attachment,
    CniCall,
    CniError,
    Code,
    Command,
    NetConf,
    Result,
    ResultInterface,
    ResultIp,
    encode_result,
    merged,
    own_addresses,
    parse_args,
    parse_call,
    parse_config,
)

ENVIRONMENT = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x"}
RESULT = Result(
    interfaces=(ResultInterface(name="calix"), ResultInterface(name="eth0", sandbox="/x", mtu=1500)),
    ips=(ResultIp(address="10.0.0.7/32", interface=1), ResultIp(address="fd00::7/128", interface=1)),
)


def conf(**fields: object) -> bytes:
    return json.dumps({"cniVersion": "1.1.0", "name": "net", **fields}).encode()


def test_calicos_ipam_section_is_understood() -> None:
    config = parse_config(conf(ipam={"assign_ipv4": "true", "assign_ipv6": "TRUE", "ipv4_pools": ["10.0.0.0/24", "p"]}))
    assert config.families() == (4, 6)
    assert config.ipam.ipv4_pools == ("10.0.0.0/24", "p")


def test_ipv4_alone_is_the_default() -> None:
    assert parse_config(conf()).families() == (4,)


@pytest.mark.parametrize("flag", ["yes", "1", "truе"])
def test_a_flag_that_is_neither_true_nor_false_is_named(flag: str) -> None:
    with pytest.raises(CniError, match=r"ipam\.assign_ipv6 must be true or false"):
        parse_config(conf(ipam={"assign_ipv6": flag}))


def test_commands_need_the_version_that_brought_them() -> None:
    with pytest.raises(CniError, match=r"GC needs cniVersion 1\.1\.0 or newer") as caught:
        parse_call({"CNI_COMMAND": "GC"}, conf(cniVersion="1.0.0"), netns_fd=None, deadline_ms=1)
    assert caught.value.code is Code.INCOMPATIBLE_VERSION


def test_a_gc_of_a_node_without_pods_names_no_attachment() -> None:
    listed = [{"containerID": "c1", "ifname": "eth0"}]
    found = [_gc(**{"cni.dev/valid-attachments": value}).config.attachments() for value in (listed, [], None)]
    assert found == [(Attachment(container_id="c1", ifname="eth0"),), (), ()]


def test_a_gc_that_does_not_say_what_is_valid_collects_nothing() -> None:
    with pytest.raises(CniError, match=r"GC needs cni\.dev/valid-attachments") as caught:
        _gc()
    assert caught.value.code is Code.INVALID_CONFIG


def _gc(**fields: object) -> CniCall:
    return parse_call({"CNI_COMMAND": "GC"}, conf(**fields), netns_fd=None, deadline_ms=1)


def test_a_del_goes_through_whatever_its_arguments_say() -> None:
    call = parse_call(
        {**ENVIRONMENT, "CNI_COMMAND": "DEL", "CNI_ARGS": "nonsense", "CNI_NETNS": ""},
        conf(),
        netns_fd=None,
        deadline_ms=1,
    )
    assert call.command is Command.DEL


def test_kubernetes_arguments_name_the_pod() -> None:
    arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u;IP=10.0.0.9"
    call = parse_call({**ENVIRONMENT, "CNI_ARGS": arguments}, conf(), netns_fd=3, deadline_ms=1)
    assert (call.namespace, call.pod, call.pod_uid) == ("shop", "web-0", "u")
    assert call.fixed_addresses() == (ip_address("10.0.0.9"),)


@given(st.binary(max_size=200))
def test_no_stdin_does_more_than_be_refused(raw: bytes) -> None:
    with pytest.raises(CniError) as caught:
        parse_config(raw)
    assert caught.value.code in (Code.DECODING_FAILURE, Code.INVALID_CONFIG, Code.INCOMPATIBLE_VERSION)


@given(st.dictionaries(st.text("AZ_09", min_size=1), st.text("az=.09"), max_size=5))
def test_arguments_are_read_as_they_were_written(arguments: dict[str, str]) -> None:
    assert parse_args(";".join(f"{key}={value}" for key, value in arguments.items())) == arguments


def test_an_error_never_repeats_the_configuration() -> None:
    with pytest.raises(CniError) as caught:
        parse_config(conf(cniVersion=1, password="hunter2"))
    assert "hunter2" not in caught.value.msg


@pytest.mark.parametrize("version", VERSIONS)
def test_a_result_can_be_read_back_as_a_previous_one(version: str) -> None:
    encoded = json.loads(encode_result(RESULT, version=version))
    config: NetConf = parse_config(conf(cniVersion=version, prevResult=encoded))
    assert config.prev_result is not None
    assert own_addresses(config.prev_result, ifname="eth0") == (ip_address("10.0.0.7"), ip_address("fd00::7"))
    assert [entry.get("version") for entry in encoded["ips"]] == (["4", "6"] if version < "1.0.0" else [None, None])
    assert ("mtu" in encoded["interfaces"][1]) == (version == "1.1.0")


def test_addresses_of_other_interfaces_are_not_ours() -> None:
    assert own_addresses(RESULT, ifname="calix") == ()
    stray = Result(interfaces=RESULT.interfaces, ips=(ResultIp(address="10.0.0.1/32", interface=9),))
    assert own_addresses(stray, ifname="eth0") == ()


def test_a_result_stands_behind_that_of_earlier_plugins() -> None:
    both = merged(RESULT, RESULT)
    assert [entry.interface for entry in both.ips] == [1, 1, 3, 3]
