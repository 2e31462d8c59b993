"""A node for CNI tests: the real shim, a real server on a real kernel in a network namespace, and a small IPAM.

Run as a module it is the agent's process: `python -m tests.functional.cni_world NETNS RUN_DIR`. It is a process of its
own so that tests can end it with SIGKILL at any step (`DIE_AT=n`: before the n-th batch to the kernel) or hold an ADD
until it is given up (`HOLD=pod|policy`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

from crds.values import HandleID
from felix.cni_attach import Added, Attachments, Hooks
from felix.cni_request import PodInfo
from felix.cni_server import CniServer
from felix.kernel.netlink import NetlinkKernel, NetlinkNetns, entered
from felix.kernel.protocols import Netns, Step
from felix.podnet import PodNet
from felix.podnet_reaper import Reaper
from ipam.requests import AssignAnswer, Assigned, AssignRequest, Exhausted, IPAddress
from tests.eventually import eventually

REPOSITORY = Path(__file__).resolve().parent.parent.parent
POOLS: dict[int, IPv4Network | IPv6Network] = {
    4: IPv4Network(os.environ.get("POOL4", "10.65.0.0/26")),
    6: IPv6Network("fd65::/122"),
}


def read_journal(path: Path) -> dict[str, list[str]]:
    """What a FileIpam wrote: handle -> addresses."""
    held: dict[str, list[str]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        handle, *addresses = line.split()
        if addresses:
            held[handle] = addresses
        else:
            held.pop(handle, None)
    return held


class FileIpam:
    """Addresses from two small pools, remembered in a synced file; the smallest thing with IPAM's promises."""

    def __init__(self, path: Path) -> None:
        stored = read_journal(path)
        self._held = {HandleID(key): tuple(map(ip_address, value)) for key, value in stored.items()}
        taken = {address for held in self._held.values() for address in held}
        self._free = {family: [a for a in pool.hosts() if a not in taken][::-1] for family, pool in POOLS.items()}
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

    def _write(self, handle: HandleID, addresses: tuple[IPAddress, ...]) -> None:
        os.write(self._file, " ".join([handle, *map(str, addresses)]).encode() + b"\n")
        os.fdatasync(self._file)

    async def assign(self, request: AssignRequest) -> AssignAnswer:
        if request.handle not in self._held:
            if not all(self._free[family] for family in request.families):
                return Exhausted(pools=("test",), why="no free address is left in the pools test")
            self._held[request.handle] = tuple(self._free[family].pop() for family in request.families)
            self._write(request.handle, self._held[request.handle])
        return Assigned(self._held[request.handle])

    async def release(self, handle: HandleID) -> tuple[IPAddress, ...]:
        freed = self._held.pop(handle, ())
        if freed:
            self._write(handle, ())
        for address in freed:
            self._free[address.version].insert(0, address)
        return freed

    def allocations(self) -> Mapping[HandleID, tuple[IPAddress, ...]]:
        return dict(self._held)


class AnyPod:
    """Every pod is known, or (HOLD=pod) none ever."""

    async def wait_pod(self, *, namespace: str, name: str, uid: str) -> PodInfo | None:
        if os.environ.get("HOLD") == "pod":
            await asyncio.Event().wait()
        return None if name == "unknown" else PodInfo(namespace=namespace, name=name, uid=uid)


class MortalKernel(NetlinkKernel):
    """Ends its process before a chosen batch, in either namespace."""

    left = int(os.environ.get("DIE_AT", "0"))

    def run(self, steps: Sequence[Step], *, peer: Netns | None = None) -> None:
        mortal_step()
        super().run(steps, peer=peer)

    def open_netns(self, descriptor: int) -> NetlinkNetns:
        return MortalNetns(descriptor, home=self._descriptor)


class MortalNetns(NetlinkNetns):
    """The pod's side of the same."""

    def run(self, steps: Sequence[Step], *, peer: Netns | None = None) -> None:
        mortal_step()
        super().run(steps, peer=peer)


def mortal_step() -> None:
    """Count down; at zero this process is gone."""
    if MortalKernel.left:
        MortalKernel.left -= 1
        if not MortalKernel.left:
            os.kill(os.getpid(), signal.SIGKILL)


async def _policy(_interface: str) -> None:
    if os.environ.get("HOLD") == "policy":
        await asyncio.Event().wait()


async def serve(run_dir: Path) -> None:
    """What the agent does with these parts."""
    kernel = MortalKernel()
    kernel.prepare_host()
    kernel.guard_neighbours()
    reaper = Reaper(kernel)
    reaper.clear_debris()
    notes = run_dir / "added"

    def note(added: Added) -> None:
        with notes.open("a") as file:
            file.write(f"{added.namespace}/{added.pod} {added.addresses[0]}\n")

    ipam = FileIpam(run_dir / "ipam")
    attachments = Attachments(
        ipam=ipam,
        podnet=PodNet(kernel),
        reaper=reaper,
        pods=AnyPod(),
        hooks=Hooks(policy_ready=_policy, on_added=note),
        pod_wait_s=float(os.environ.get("POD_WAIT_S", "0.2")),
    )
    await attachments.sweep(network="net")
    server = CniServer(attachments, run_dir=run_dir)
    await server.start()
    (run_dir / "up").write_text(str(os.getpid()))
    await asyncio.gather(server.run(), reaper.run())


def main() -> None:
    """NETNS RUN_DIR"""
    descriptor = os.open(f"/run/netns/{sys.argv[1]}", os.O_RDONLY | os.O_CLOEXEC)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    with entered(descriptor, home=home):
        asyncio.run(serve(Path(sys.argv[2])))


@contextlib.contextmanager
def inside(netns: str) -> Iterator[None]:
    """Sockets made in here belong to that namespace."""
    descriptor = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with entered(descriptor, home=home):
            yield
    finally:
        os.close(descriptor)
        os.close(home)


@contextlib.contextmanager
def looked_at(netns: str) -> Iterator[NetlinkNetns]:
    """What is in that namespace."""
    descriptor = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    view = NetlinkNetns(descriptor, home=home)
    try:
        yield view
    finally:
        view.close()
        os.close(descriptor)
        os.close(home)


class Node:
    """One node: its namespace, its agent, its shim."""

    def __init__(self, *, netns: str, run_dir: Path, shim: Path) -> None:
        self.netns, self.run_dir, self.shim = netns, run_dir, shim
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        """Start the agent and wait until it listens."""
        (self.run_dir / "up").unlink(missing_ok=True)
        self.agent = subprocess.Popen(
            [sys.executable, "-m", "tests.functional.cni_world", self.netns, str(self.run_dir)],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
        )
        eventually((self.run_dir / "up").exists, what="the agent listens")

    def kill(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would."""
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
            self.agent = None

    def config(self, **more: Any) -> dict[str, Any]:
        """A network configuration."""
        return {"cniVersion": "1.1.0", "name": "net", "type": "tortie", **more}

    def spawn(
        self, command: str, *, container: str = "", netns: str = "", config: object = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Execute the shim as a runtime does; stdin is sent and closed."""
        settings = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_NETNS": f"/run/netns/{netns}" if netns else "",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{container}",
            **environment,
        }
        process = subprocess.Popen(
            [self.shim],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={key: value for key, value in settings.items() if value},
        )
        assert process.stdin is not None
        text = config if isinstance(config, bytes) else json.dumps(config or self.config()).encode()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(text)
            process.stdin.close()
        process.stdin = None
        return process

    def call(self, command: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
        """(exit status, what it printed)."""
        process = self.spawn(command, **arguments)
        output, _ = process.communicate(timeout=30)
        return process.returncode, json.loads(output) if output.strip() else {}

    def pod_links(self) -> set[str]:
        """Names of all cali interfaces on the host, dead ones too."""
        with looked_at(self.netns) as view:
            return {link.name for link in view.list_links() if link.name.startswith("cali")}

    def held(self) -> dict[str, list[str]]:
        """What IPAM has given out."""
        return read_journal(self.run_dir / "ipam")

    def is_clean(self) -> bool:
        """Nothing of any pod is left."""
        with looked_at(self.netns) as view:
            routes = view.list_routes(protos=frozenset({80}))
        return not self.pod_links() and not self.held() and not routes


if __name__ == "__main__":
    main()
