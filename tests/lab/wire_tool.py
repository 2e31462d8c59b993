"""What tests need at an end of a wire: run by path inside a namespace of the lab, standard library only.

    wire_tool.py capture IFACE --mark TEXT   frames seen on an interface that hold TEXT, counted by kind
    wire_tool.py serve PORT                  TCP: tells each client which address it came from, and echoes
    wire_tool.py call ADDRESS PORT TEXT      TCP: sends TEXT; prints what `serve` saw, and the own address
    wire_tool.py trace ADDRESS               who answers to UDP probes with TTL 1, 2, 3, ...
    wire_tool.py forge IFACE --count N       ARP and IPv6 neighbour messages with invented senders

`capture` and `serve` print one line when they are ready and end when their standard input does. All answers are JSON.

Called by tests/lab/world.py.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import sys
import threading
from collections import Counter
from ipaddress import IPv6Address, ip_address
from typing import Any

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 3, 0x0800, 0x0806, 0x86DD
TRACE_WAIT_S = 0.6
TRACE_HOPS = 12
TRACE_PORT = 33434


def ready() -> None:
    """Say that whoever waits may go on."""
    print(json.dumps({"ready": True}), flush=True)


def capture(interface: str, mark: bytes) -> None:
    """Count frames with `mark` in them by (ethertype, source, destination, protocol), until standard input ends."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind((interface, 0))
    ready()
    seen: Counter[tuple[str, str, str, int]] = Counter()
    ended = False
    while not ended or select.select([sock], [], [], 0)[0]:
        readable, _, _ = select.select([sock] if ended else [sock, sys.stdin], [], [])
        if sock in readable:
            frame = sock.recv(65535)
            if mark in frame:
                seen[_kind(frame)] += 1
        ended = ended or sys.stdin in readable
    names = ("ethertype", "source", "destination", "protocol")
    print(json.dumps([dict(zip(names, kind, strict=True)) | {"count": count} for kind, count in seen.items()]))


def _kind(frame: bytes) -> tuple[str, str, str, int]:
    """Of the outermost network header: what a router on the way sees."""
    ethertype, packet = int.from_bytes(frame[12:14]), frame[14:]
    if ethertype == ETH_P_IP:
        return "IPv4", str(ip_address(packet[12:16])), str(ip_address(packet[16:20])), packet[9]
    if ethertype == ETH_P_IPV6:
        return "IPv6", str(ip_address(packet[8:24])), str(ip_address(packet[24:40])), packet[6]
    return hex(ethertype), "", "", 0


def serve(port: int) -> None:
    """Answer TCP clients of both families until standard input ends."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    sock.listen(64)
    ready()
    while True:
        readable, _, _ = select.select([sock, sys.stdin], [], [])
        if sys.stdin in readable:
            return
        client, address = sock.accept()
        threading.Thread(target=_answer, args=(client, address[0]), daemon=True).start()


def _answer(client: socket.socket, address: str) -> None:
    client.settimeout(10)
    with client:
        text = client.makefile().readline().strip()
        seen = IPv6Address(address)
        client.sendall(json.dumps({"seen": str(seen.ipv4_mapped or seen), "echo": text}).encode() + b"\n")


def call(address: str, port: int, text: str) -> None:
    """One exchange with `serve`."""
    with socket.create_connection((address, port), timeout=5) as sock:
        sock.sendall(text.encode() + b"\n")
        answer: dict[str, Any] = json.loads(sock.makefile().readline())
        print(json.dumps(answer | {"own": sock.getsockname()[0]}))


def trace(address: str) -> None:
    """A list with, for each TTL, who answered: an address, or "" when nobody did. Ends at the target itself."""
    version = ip_address(address).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    level, ttl_option = (socket.IPPROTO_IP, socket.IP_TTL) if version == 4 else (socket.IPPROTO_IPV6, 16)
    listener = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6)
    hops: list[str] = []
    for ttl in range(1, TRACE_HOPS + 1):
        probe = socket.socket(family, socket.SOCK_DGRAM)
        probe.setsockopt(level, ttl_option, ttl)
        port = TRACE_PORT + ttl
        try:
            probe.sendto(b"tortie-trace", (address, port))
        except OSError:
            hops.append("unreachable here")
            break
        hops.append(_who_answers(listener, port=port))
        if hops[-1] == address:
            break
    print(json.dumps(hops))


def _who_answers(listener: socket.socket, *, port: int) -> str:
    """The sender of an ICMP error about our probe to that port."""
    while select.select([listener], [], [], TRACE_WAIT_S)[0]:
        data, sender = listener.recvfrom(2048)
        if struct.pack("!H", port) in data and b"tortie-trace" in data:
            return str(sender[0]).partition("%")[0]
    return ""


def forge(interface: str, count: int) -> None:
    """Send `count` rounds of: ARP request, ARP reply, neighbour solicitation, neighbour advertisement, all invented."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((interface, 0))
    own = sock.getsockname()[4]
    sent = 0
    for number in range(count):
        mac = b"\x02\xbb" + struct.pack("!I", number)
        v4 = bytes((10, 77, *struct.pack("!H", number)))
        v6 = IPv6Address(f"fe80::bad:{number:x}").packed
        for target in (b"\xff" * 6, own, b"\xee" * 6):
            for operation in (1, 2):
                arp = struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, operation) + mac + v4 + mac + bytes((169, 254, 1, 1))
                sent += _send(sock, target + mac + struct.pack("!H", ETH_P_ARP) + arp)
        for kind, group in ((135, "ff02::1"), (136, "ff02::1")):
            to = IPv6Address(group).packed
            body = (b"\x60\0\0\0" if kind == 136 else b"\0\0\0\0") + v6 + bytes((1 if kind == 135 else 2, 1)) + mac
            icmp = _icmp6(kind, body, source=v6, target=to)
            header = struct.pack("!IHBB", 0x60000000, len(icmp), 58, 255) + v6 + to
            sent += _send(sock, b"\x33\x33\0\0\0\1" + mac + struct.pack("!H", ETH_P_IPV6) + header + icmp)
    print(json.dumps({"sent": sent}))


def _send(sock: socket.socket, frame: bytes) -> int:
    try:
        sock.send(frame)
    except OSError:
        return 0
    return 1


def _icmp6(kind: int, body: bytes, *, source: bytes, target: bytes) -> bytes:
    message = struct.pack("!BBH", kind, 0, 0) + body
    summed = source + target + struct.pack("!IHBB", len(message), 0, 0, 58) + message
    total = sum(int.from_bytes(summed[i : i + 2]) for i in range(0, len(summed), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBH", kind, 0, ~total & 0xFFFF) + body


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description="what tests need at an end of a wire")
    commands = parser.add_subparsers(dest="command", required=True)
    capturing = commands.add_parser("capture")
    capturing.add_argument("interface")
    capturing.add_argument("--mark", required=True)
    commands.add_parser("serve").add_argument("port", type=int)
    calling = commands.add_parser("call")
    calling.add_argument("address")
    calling.add_argument("port", type=int)
    calling.add_argument("text")
    commands.add_parser("trace").add_argument("address")
    forging = commands.add_parser("forge")
    forging.add_argument("interface")
    forging.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    match arguments.command:
        case "capture":
            capture(arguments.interface, arguments.mark.encode())
        case "serve":
            serve(arguments.port)
        case "call":
            call(arguments.address, arguments.port, arguments.text)
        case "trace":
            trace(arguments.address)
        case "forge":
            forge(arguments.interface, arguments.count)


if __name__ == "__main__":
    main()
