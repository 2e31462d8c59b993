"""What a pod's network survives: bad input, death at every step, restarts, a flood from a pod."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from felix.kernel.names import POD_MAC
from tests.eventually import eventually
from tests.functional.cni_fixtures import idle_node, node, shim_and_run_dir  # noqa: F401
from tests.functional.cni_world import Node, inside, looked_at
from tests.functional.test_cni_commands import DUAL, addresses, hears

NetnsMaker = Callable[..., str]
BATCHES_OF_AN_ADD = 3

BAD_INPUT = {
    "no JSON": (b"{", {}, 6, "is not JSON"),
    "empty": (b"", {}, 6, "is not JSON"),
    "binary": (b"\xff\x00" * 50, {}, 6, "is not JSON"),
    "a list": (b"[]", {}, 7, "Expected `object`"),
    "wrong type": (b'{"cniVersion":"1.0.0","name":7}', {}, 7, "$.name"),
    "no version": (b'{"name":"net"}', {}, 1, "cniVersion must be one of"),
    "future version": (b'{"cniVersion":"9.0.0","name":"net"}', {}, 1, "'9.0.0'"),
    "bad name": (b'{"cniVersion":"1.0.0","name":"a/b"}', {}, 7, "name must be"),
    "bad MTU": (b'{"cniVersion":"1.0.0","name":"net","mtu":100}', {}, 7, "mtu must lie in 1280..65535"),
    "no family": (b'{"cniVersion":"1.0.0","name":"net","ipam":{"assign_ipv4":"false"}}', {}, 7, "are both false"),
    "command": (None, {"CNI_COMMAND": "FLY"}, 4, "'FLY'"),
    "no command": (None, {"CNI_COMMAND": ""}, 4, "CNI_COMMAND"),
    "no container": (None, {"CNI_CONTAINERID": ""}, 4, "CNI_CONTAINERID"),
    "container path": (None, {"CNI_CONTAINERID": "../x"}, 4, "CNI_CONTAINERID"),
    "container newline": (None, {"CNI_CONTAINERID": "a\nb"}, 4, "CNI_CONTAINERID"),
    "interface": (None, {"CNI_IFNAME": "much-too-long-name"}, 4, "CNI_IFNAME"),
    "args": (None, {"CNI_ARGS": "nonsense"}, 4, "CNI_ARGS"),
    "fixed address": (None, {"CNI_ARGS": "IP=10.0.0.256"}, 4, "no IP address"),
    "no namespace": (None, {"CNI_NETNS": ""}, 4, "CNI_NETNS"),
    "absent namespace": (None, {"CNI_NETNS": "/nowhere"}, 4, "CNI_NETNS cannot be opened"),
    "a file": (None, {"CNI_NETNS": "/etc/passwd"}, 4, "not a network namespace"),
    "unknown pod": (None, {"CNI_ARGS": "K8S_POD_NAMESPACE=d;K8S_POD_NAME=unknown"}, 11, "has not shown pod d/unknown"),
    "long stdin": (b" " * (1 << 20) + b"xx", {}, 6, "longer than 1 MiB"),
    "long environment": (None, {"CNI_ARGS": "K=" + "v" * 70_000}, 4, "longer than 64 KiB"),
}


def test_bad_input_gets_one_sentence_each_and_changes_nothing(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    pod = netns("p")
    for name, (config, environment, code, words) in BAD_INPUT.items():
        settings = {"CNI_CONTAINERID": "c", "CNI_NETNS": f"/run/netns/{pod}", **environment}
        settings.setdefault("CNI_COMMAND", "ADD")
        command = settings.pop("CNI_COMMAND")
        status, answer = node.call(command, config=config, **settings)
        assert (name, status, answer["code"]) == (name, 1, code)
        assert words.replace("no IP address", "is not an IP address") in answer["msg"], name
        assert "\n" not in answer["msg"], name
    assert node.is_clean()
    assert node.call("ADD", container="c", netns=pod)[0] == 0


@pytest.mark.parametrize("batch", range(1, BATCHES_OF_AN_ADD + 1))
def test_an_agent_killed_at_any_step_of_an_add_leaves_nothing(
    idle_node: Node,  # noqa: F811
    netns: NetnsMaker,
    batch: int,
) -> None:
    pod = netns("p")
    idle_node.start(DIE_AT=str(batch))
    status, answer = idle_node.call("ADD", container="c", netns=pod)
    assert (status, answer["code"]) == (1, 11)
    assert idle_node.held(), "the address was given out before the kernel was touched"
    idle_node.kill()
    idle_node.start()
    eventually(idle_node.is_clean)
    with looked_at(pod) as view:
        assert view.find_link("eth0") is None
    assert idle_node.call("ADD", container="c", netns=pod)[0] == 0


@pytest.mark.parametrize("hold", ["pod", "policy"])
def test_an_add_whose_shim_is_killed_is_undone(idle_node: Node, netns: NetnsMaker, hold: str) -> None:  # noqa: F811
    pod = netns("p")
    idle_node.start(HOLD=hold, POD_WAIT_S="60")
    shim = idle_node.spawn("ADD", container="c", netns=pod)
    if hold == "policy":
        eventually(idle_node.pod_links, what="the ADD has come as far as the policy")
    shim.kill()
    shim.communicate()
    eventually(idle_node.is_clean)
    with looked_at(pod) as view:
        assert view.find_link("eth0") is None


def test_a_link_is_down_until_its_policy_stands(idle_node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    idle_node.start(HOLD="policy")
    shim = idle_node.spawn("ADD", container="c", netns=netns("p"))
    name = next(iter(eventually(idle_node.pod_links)))
    with looked_at(idle_node.netns) as view:
        link = view.find_link(name)
        assert link is not None
        assert link.state.value == "down"
    shim.kill()
    shim.communicate()


def test_pods_keep_talking_when_the_agent_is_killed_and_started(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    pods = [netns("a"), netns("b")]
    given = [addresses(node.call("ADD", container=f"c{i}", netns=pod)[1])[0] for i, pod in enumerate(pods)]
    before = node.pod_links()
    node.kill()
    assert hears(pods[0], given[0], caller=pods[1])
    node.start()
    assert hears(pods[0], given[0], caller=pods[1])
    assert node.pod_links() == before
    assert len(node.held()) == 2


def test_a_del_without_an_agent_is_replayed_by_the_next(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    node.call("ADD", container="c", netns=netns("p"))
    node.kill()
    assert node.call("DEL", container="c") == (0, {})
    assert [path.name for path in (node.run_dir / "cni-del").iterdir()] == ["c@eth0"]
    node.start()
    eventually(node.is_clean)
    assert not list((node.run_dir / "cni-del").iterdir())


def test_an_add_without_an_agent_is_told_to_come_again(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    node.kill()
    status, answer = node.call("ADD", container="c", netns=netns("p"))
    assert (status, answer["code"]) == (1, 11)


def test_garbage_on_the_socket_is_no_request(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"TCN1\xff\xff\xff\xff", b"TCN1\x06\0\0\0\0\0\0\0xx"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(node.run_dir / "cni.sock"))
            client.sendall(garbage)
            assert client.recv(1) == b""
    assert Path(node.run_dir / "cni.sock").stat().st_mode & 0o777 == 0o600
    assert node.call("ADD", container="c", netns=netns("p"))[0] == 0


# a flood from a pod

FORGED = 1500


def _checksum(data: bytes) -> int:
    words = struct.unpack(f">{len(data) // 2}H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _icmp6(source: bytes, destination: bytes, payload: bytes) -> bytes:
    pseudo = source + destination + struct.pack(">II", len(payload), 58)
    checked = payload[:2] + struct.pack(">H", _checksum(pseudo + payload)) + payload[4:]
    return struct.pack(">IHBB", 6 << 28, len(payload), 58, 255) + source + destination + checked


def forged_frames(mac: bytes, target: bytes) -> list[bytes]:
    """ARP, NS, NA, RS and RA from addresses that nobody has, to the host's side."""
    frames = []
    here = socket.inet_pton(socket.AF_INET6, "fe80::ecee:eeff:feee:eeee")
    everyone = socket.inet_pton(socket.AF_INET6, "ff02::1")
    routers = socket.inet_pton(socket.AF_INET6, "ff02::2")
    for i in range(FORGED // 5):
        number = struct.pack(">H", i + 2)
        liar = bytes([2, 0xBA, 0xD0, 0]) + number
        arp = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1 + i % 2) + liar + b"\x0a\x07" + number + target + b"\x0a\x41\0\1"
        frames.append(target + mac + b"\x08\x06" + arp)
        source = here[:8] + bytes(6) + number
        lladdr = bytes([1, 1]) + liar
        for destination, payload in (
            (here, struct.pack(">BBHI", 135, 0, 0, 0) + here + lladdr),
            (everyone, struct.pack(">BBHI", 136, 0, 0, 0x20000000) + source + bytes([2, 1]) + liar),
            (routers, struct.pack(">BBHI", 133, 0, 0, 0) + lladdr),
            (everyone, struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)[:16] + lladdr),
        ):
            frames.append(target + mac + b"\x86\xdd" + _icmp6(source, destination, payload))
    return frames


def flood(netns_name: str, device: str, *, target: bytes) -> None:
    with inside(netns_name):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind((device, 0))
        mac = raw.getsockname()[4]
        for frame in forged_frames(mac, target):
            raw.send(frame)


def neighbours_on(netns_name: str, device: str) -> int:
    """Without the host's own multicast groups (ff02::16, its listener reports)."""
    with looked_at(netns_name) as view:
        return len([entry for entry in view.list_neighbours(device) if not entry.address.is_multicast])


def test_a_flood_of_forged_arp_and_neighbour_messages_fills_no_table(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    pod = netns("p")
    _, answer = node.call("ADD", container="c", netns=pod, config=node.config(ipam=DUAL))
    name = answer["interfaces"][0]["name"]
    before = neighbours_on(node.netns, name)
    flood(pod, "eth0", target=POD_MAC)
    assert neighbours_on(node.netns, name) == before == 2


def test_the_same_flood_over_an_ordinary_link_does_fill_the_table(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    """The positive control: without our settings, on a host that forwards, the entries appear."""
    import subprocess

    other = netns("plain")
    for command in (
        f"ip -n {node.netns} link add plain0 address {POD_MAC.hex(':')} type veth peer name eth0 netns {other}",
        f"ip -n {node.netns} link set plain0 up",
        f"ip -n {other} link set eth0 up",
    ):
        subprocess.run(command.split(), check=True)
    eventually(
        lambda: (
            b"forever"
            in subprocess.run(
                ["ip", "-n", node.netns, "-6", "address", "show", "dev", "plain0", "-tentative"],
                capture_output=True,
                check=True,
            ).stdout
        ),
        what="the link's own address is valid",
    )
    flood(other, "eth0", target=POD_MAC)
    assert neighbours_on(node.netns, "plain0") > 100


def test_no_arp_and_no_neighbour_message_is_needed(node: Node, netns: NetnsMaker) -> None:  # noqa: F811
    """Seen on the wire: TCP in both families, and neither ARP nor a neighbour message from the host."""
    pods = [netns("a"), netns("b")]
    answers = [
        node.call("ADD", container=f"c{i}", netns=pod, config=node.config(ipam=DUAL))[1] for i, pod in enumerate(pods)
    ]
    with inside(node.netns):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with wire:
        wire.setblocking(False)  # noqa: FBT003
        for address in addresses(answers[0]):
            assert hears(pods[0], address, caller=pods[1])
        seen: set[str] = set()
        while True:
            try:
                frame, (_, _, direction, _, _) = wire.recvfrom(2048)
            except BlockingIOError:
                break
            seen.add(_kind(frame, outgoing=direction == 4))
    assert {"tcp4", "tcp6"} <= seen
    assert not seen & {"arp", "sent neighbour message"}


def _kind(frame: bytes, *, outgoing: bool) -> str:
    protocol = frame[12:14]
    if protocol == b"\x08\x06":
        return "arp"
    if protocol == b"\x08\x00":
        return "tcp4" if frame[23] == 6 else "other"
    if frame[20] == 6:
        return "tcp6"
    return "sent neighbour message" if frame[20] == 58 and frame[54] in (135, 136) and outgoing else "other"
