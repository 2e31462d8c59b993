"""Traffic that counts what is lost: run inside a namespace of the lab, reports as JSON.

What for: "no packet was lost" must be a number. Tests start an echo server at one end and a prober at the other,
break something, and ask.

    probe.py echo --port 7777                            UDP echo and TCP stream receiver, until SIGTERM
    probe.py load --to 10.244.0.5 --port 7777 --report F  200 UDP probes/s and a TCP stream, until SIGTERM
    probe.py ping 10.244.0.5 fd00::5                     one ICMP echo to each, a line of JSON

Theory: each UDP probe carries a number and comes back; one that has not come back a second after the end is lost,
and so a loss in either direction shows. The TCP stream sends blocks, each with its number and CRC; the receiver
checks and acknowledges each. A kernel retransmits, so for TCP the longest stall tells what UDP tells by loss. When
a connection breaks that is counted and it is opened again.

Invariants: standard library only, one file, so that it runs in any namespace by path. The report is replaced
atomically, ten times a second, so that it can be read while the prober runs.

Called by: pods (as a process in a namespace), matrix.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

PROBES_PER_S = 200
GRACE_S = 1.0
BLOCK = 1000
_HEADER = struct.Struct("!QII")
"""Number, length and CRC-32 of the block that follows."""

_stop = threading.Event()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def echo(port: int) -> None:
    """Answer UDP datagrams and acknowledge TCP blocks, for both families, until told to stop."""
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    for sock in (tcp, udp):  # TCP first: it fails where another server answers already, UDP would take over from it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind(("::", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            print(json.dumps({"listening": port, "another": True}), flush=True)  # which answers for us too
            return
    tcp.listen()
    chooser = selectors.DefaultSelector()
    chooser.register(udp, selectors.EVENT_READ)
    chooser.register(tcp, selectors.EVENT_READ)
    print(json.dumps({"listening": port}), flush=True)
    while not _stop.is_set():
        for key, _ in chooser.select(timeout=0.2):
            if key.fileobj is udp:
                data, sender = udp.recvfrom(2048)
                try:
                    udp.sendto(data, sender)
                except OSError as error:  # the way back may be cut just now: that is what is being measured
                    print(f"event=echo-failed to={sender[0]} problem={error}", file=sys.stderr)
            else:
                stream, _ = tcp.accept()
                threading.Thread(target=_receive_stream, args=(stream,), daemon=True).start()


def _receive_stream(stream: socket.socket) -> None:
    with stream, stream.makefile("rb") as reader:
        while header := reader.read(_HEADER.size):
            number, length, crc = _HEADER.unpack(header)
            good = zlib.crc32(reader.read(length)) == crc
            stream.sendall(struct.pack("!Q?", number, good))


class Load:
    """A prober: UDP and TCP towards one address. `report` may be read at any time."""

    def __init__(self, *, to: str, port: int) -> None:
        self.to, self.port = to, port
        self.sent_s: dict[int, float] = {}
        self.sent = self.received = self.send_errors = 0
        self.longest_gap_s = self.last_reply_s = 0.0
        self.began_s = time.monotonic()
        self.blocks = self.bad_blocks = self.breaks = 0
        self.longest_stall_s = 0.0

    def run_udp(self) -> None:
        """Send at a steady pace, on an absolute schedule, and collect what comes back."""
        sock = socket.socket(_family(self.to), socket.SOCK_DGRAM)
        sock.settimeout(0)
        self.began_s = self.last_reply_s = time.monotonic()
        while not _stop.is_set():
            due_s = self.began_s + self.sent / PROBES_PER_S
            self._collect(sock, until_s=due_s)
            number = self.sent
            self.sent += 1
            self.sent_s[number] = time.monotonic()
            try:
                sock.sendto(struct.pack("!Q", number), (self.to, self.port))
            except OSError:  # no route, refused: a probe that never left is a probe lost
                self.send_errors += 1
        self._collect(sock, until_s=time.monotonic() + GRACE_S)

    def _collect(self, sock: socket.socket, *, until_s: float) -> None:
        chooser = selectors.DefaultSelector()
        chooser.register(sock, selectors.EVENT_READ)
        while (left_s := until_s - time.monotonic()) > 0:
            if not chooser.select(timeout=left_s):
                break
            try:
                (number,) = struct.unpack("!Q", sock.recv(64))
            except (OSError, struct.error):
                continue
            if self.sent_s.pop(number, None) is not None:
                now_s = time.monotonic()
                self.received += 1
                self.longest_gap_s = max(self.longest_gap_s, now_s - self.last_reply_s)
                self.last_reply_s = now_s
        chooser.close()

    def run_tcp(self) -> None:
        """Keep one stream of checked blocks going; reconnect when it breaks."""
        payload = os.urandom(BLOCK)
        number = 0
        last_s = time.monotonic()
        while not _stop.is_set():
            try:
                with socket.create_connection((self.to, self.port), timeout=30) as stream:
                    while not _stop.is_set():
                        stream.sendall(_HEADER.pack(number, BLOCK, zlib.crc32(payload)) + payload)
                        acked, good = struct.unpack("!Q?", _exactly(stream, 9))
                        now_s = time.monotonic()
                        self.longest_stall_s = max(self.longest_stall_s, now_s - last_s)
                        last_s = now_s
                        self.blocks += 1
                        self.bad_blocks += 0 if good and acked == number else 1
                        number += 1
                        _stop.wait(0.01)
            except OSError:
                self.breaks += 1
                _stop.wait(0.1)

    def report(self) -> dict[str, Any]:
        """Counts so far. `lost` are the probes sent over a second ago and not back."""
        old_s = time.monotonic() - GRACE_S
        lost = sorted(number for number, at_s in list(self.sent_s.items()) if at_s < old_s)
        return {
            "to": self.to,
            "sent": self.sent,
            "received": self.received,
            "lost": len(lost),
            "send_errors": self.send_errors,
            "lost_at_s": [round(n / PROBES_PER_S, 3) for n in lost[:20]],
            "longest_gap_ms": round(self.longest_gap_s * 1000, 1),
            "tcp_blocks": self.blocks,
            "tcp_bad_blocks": self.bad_blocks,
            "tcp_breaks": self.breaks,
            "tcp_longest_stall_ms": round(self.longest_stall_s * 1000, 1),
        }


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = stream.recv(size - len(data))
        if not more:
            raise ConnectionError("closed by the other end")
        data += more
    return data


def load(*, to: str, port: int, report: Path) -> None:
    """Probe until told to stop; the final report has `"final": true`."""
    prober = Load(to=to, port=port)
    threads = [threading.Thread(target=run) for run in (prober.run_udp, prober.run_tcp)]
    for thread in threads:
        thread.start()
    while not _stop.wait(0.1):
        _write(report, {**prober.report(), "final": False})
    for thread in threads:
        thread.join(timeout=GRACE_S + 30)
    _write(report, {**prober.report(), "final": True})


def _write(path: Path, content: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.rename(path)


def ping(addresses: list[str], *, timeout_s: float) -> dict[str, float | None]:
    """Milliseconds of one ICMP echo to each address, all at once; None for no answer."""
    answers: dict[str, float | None] = dict.fromkeys(addresses)
    sockets = {
        family: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP if family == socket.AF_INET else 58)
        for family in {_family(address) for address in addresses}
    }
    sent_s: dict[str, float] = {}
    for number, address in enumerate(addresses):
        sent_s[address] = time.monotonic()
        family = _family(address)
        try:
            sockets[family].sendto(_echo_request(family, number), (address, 0))
        except OSError as error:
            print(f"event=ping-failed to={address} problem={error}", file=sys.stderr)
    deadline_s = time.monotonic() + timeout_s
    chooser = selectors.DefaultSelector()
    for sock in sockets.values():
        chooser.register(sock, selectors.EVENT_READ, sock)
    while None in answers.values() and (left_s := deadline_s - time.monotonic()) > 0:
        for key, _ in chooser.select(timeout=left_s):
            heard: socket.socket = key.data
            data, sender = heard.recvfrom(2048)
            if sender[0] in answers and answers[sender[0]] is None and _is_our_reply(heard.family, data):
                answers[sender[0]] = round((time.monotonic() - sent_s[sender[0]]) * 1000, 2)
    return answers


def _echo_request(family: int, number: int) -> bytes:
    """ICMP echo request; for ICMPv6 the kernel writes the checksum."""
    kind = 8 if family == socket.AF_INET else 128
    body = struct.pack("!HH", os.getpid() & 0xFFFF, number) + b"tortie-lab"
    checksum = _checksum(struct.pack("!BBH", kind, 0, 0) + body)
    return struct.pack("!BBH", kind, 0, checksum) + body


def _is_our_reply(family: int, data: bytes) -> bool:
    message = data[(data[0] & 15) * 4 :] if family == socket.AF_INET else data
    kind = 0 if family == socket.AF_INET else 129
    return message[0] == kind and int.from_bytes(message[4:6]) == os.getpid() & 0xFFFF


def _checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(padded[i : i + 2]) for i in range(0, len(padded), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description="traffic that counts what is lost")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("echo").add_argument("--port", type=int, default=7777)
    loading = commands.add_parser("load")
    loading.add_argument("--to", required=True)
    loading.add_argument("--port", type=int, default=7777)
    loading.add_argument("--report", type=Path, required=True)
    pinging = commands.add_parser("ping")
    pinging.add_argument("addresses", nargs="+")
    pinging.add_argument("--timeout", type=float, default=1.0)
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _stop.set())
    match arguments.command:
        case "echo":
            echo(arguments.port)
        case "load":
            load(to=arguments.to, port=arguments.port, report=arguments.report)
        case "ping":
            print(json.dumps(ping(arguments.addresses, timeout_s=arguments.timeout)))


if __name__ == "__main__":
    main()
