"""What the tests of a whole fabric share: pods for a while, tools at an end of a wire, what API and nodes say.

Everything is asked anew; nothing here waits but through `eventually`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, TypeVar

from crds.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from crds.core import Pod
from crds.kube_store import KubeStore
from crds.pools import IPPool
from ipam.check import check
from lab.api import ApiRefused
from lab.fabric import Lab
from lab.pods import PROBE, RunningPod
from tests.eventually import eventually

Json = dict[str, Any]
IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
T = TypeVar("T")
R = TypeVar("R")

BY_HAND = Path(__file__).with_name("cni_by_hand.py")
TOOL = Path(__file__).with_name("wire_tool.py")
CALICO = "/apis/projectcalico.org/v3"
FELIX_PROTO = 80

_numbers = itertools.count(1)


def unique(hint: str) -> str:
    """A name that no other test has, nor another session on the same lab."""
    return f"{hint}-{os.getpid()}-{next(_numbers)}"


def at_once(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` for all items in parallel; the results in order."""
    with ThreadPoolExecutor(max_workers=max(1, min(16, len(items)))) as pool:
        return list(pool.map(work, items))


# ---- pods and objects


@contextlib.contextmanager
def running(lab: Lab, where: Mapping[str, str], **wanted: Any) -> Iterator[dict[str, RunningPod]]:
    """Pods for the length of a `with` block: short name -> node; gone, with their DEL done, afterwards."""
    names = {short: unique(short) for short in where}
    try:
        at_once(lambda short: lab.create_pod(names[short], where[short], **wanted), list(where))
        yield dict(zip(where, at_once(lambda short: lab.pod(names[short]), list(where)), strict=True))
    finally:
        remove_pods(lab, *names.values())


def remove_pods(lab: Lab, *names: str) -> None:
    """Delete pods and wait until they are gone; those that are not there are fine."""
    for name in names:
        delete(lab, f"/api/v1/namespaces/default/pods/{name}")
    for name in names:
        eventually(lambda name=name: absent(lab, f"/api/v1/namespaces/default/pods/{name}"), within_s=30)  # type: ignore[misc]


def delete(lab: Lab, path: str) -> None:
    """Ask for the deletion of an object; one that is not there is fine."""
    with contextlib.suppress(ApiRefused):
        lab.api.delete(path)


def absent(lab: Lab, path: str) -> bool:
    """Whether the API has no such object."""
    try:
        lab.api.get(path)
    except ApiRefused as refused:
        return refused.status == 404
    return False


def calico(kind: str, name: str, spec: Json) -> Json:
    """An object of Calico's API."""
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}


@contextlib.contextmanager
def applied(lab: Lab, *objects: Json) -> Iterator[None]:
    """Cluster-wide objects of Calico's API for the length of a `with` block, by kubectl."""
    try:
        lab.apply(objects)
        yield
    finally:
        for wanted in reversed(objects):
            delete(lab, path_of(wanted))
        for wanted in objects:
            eventually(lambda wanted=wanted: absent(lab, path_of(wanted)), within_s=30, what=path_of(wanted))  # type: ignore[misc]


def path_of(wanted: Json) -> str:
    """Where the API has an object of Calico's."""
    return f"{CALICO}/{wanted['kind'].lower()}s/{wanted['metadata']['name']}"


def condition(lab: Lab, path: str, kind: str) -> Json:
    """A condition of an object; {} while there is none."""
    found = lab.api.get(path).get("status", {}).get("conditions", [])
    return next((c for c in found if c["type"] == kind), {})


def block_of(lab: Lab, address: str) -> Json:
    """The IPAMBlock that covers an address; AssertionError when none does."""
    found = [b for b in lab.api.get(f"{CALICO}/ipamblocks")["items"] if _covers(b["spec"]["cidr"], address)]
    assert found, f"no IPAMBlock covers {address}"
    return dict(found[0])


def attribute_of(lab: Lab, address: str) -> Json:
    """What the address's block says of it; AssertionError when it is free."""
    spec = block_of(lab, address)["spec"]
    ordinal = int(ip_address(address)) - int(ip_network(spec["cidr"]).network_address)
    index = spec["allocations"][ordinal]
    assert index is not None, f"{address} is not allocated"
    return dict(spec["attributes"][index])


def _covers(cidr: str, address: str) -> bool:
    network, host = ip_network(cidr), ip_address(address)
    return network.version == host.version and host in network


# ---- traffic


def ping(network: Sequence[str], addresses: Sequence[str]) -> set[str]:
    """Which of the addresses answer, from inside that network; one that was lost is asked once more."""
    silent, answered = list(addresses), set[str]()
    for _ in (1, 2):
        if silent:
            answers = json.loads(run([*network, sys.executable, str(PROBE), "ping", *silent]))
            answered |= {address for address, ms in answers.items() if ms is not None}
            silent = [address for address in silent if address not in answered]
    return answered


def tool(network: Sequence[str], *words: str) -> Any:
    """Run a command of the wire tool to its end; its answer."""
    return json.loads(run([*network, sys.executable, str(TOOL), *words]))


@contextlib.contextmanager
def tool_running(network: Sequence[str], *words: str) -> Iterator[Callable[[], Any]]:
    """`capture` or `serve` for the length of a `with` block. What it yields ends it and returns its answer."""
    bound = ["setpriv", "--pdeathsig", "SIGKILL"]
    command = [*bound, *network, sys.executable, str(TOOL), *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end() -> Any:
        text, _ = process.communicate(timeout=20)
        return json.loads(text) if text.strip() else None

    assert process.stdout is not None
    try:
        assert process.stdout.readline(), f"{words} did not start"
        yield end
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def run(command: Sequence[str]) -> str:
    """Run to the end; its output. AssertionError with its complaint when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


# ---- sandboxes made by hand


@contextlib.contextmanager
def held(lab: Lab, node: str, component: str = "kubelet") -> Iterator[None]:
    """A component of a node away for the length of a `with` block."""
    lab.node(node).hold(component)
    try:
        eventually(lambda: not lab.node(node).components()[component]["pid"])
        yield
    finally:
        lab.node(node).release(component)
        eventually(lambda: lab.node(node).components()[component]["pid"])


def add_by_hand(lab: Lab, node: str, pod: Json) -> Json:
    """CNI ADD for a Pod object, as a runtime does it: `result`, `container_id`, `netns`, `answered_s` (monotonic)."""
    meta = pod["metadata"]
    words = ["add", meta["namespace"], meta["name"], meta["uid"]]
    answer: Json = json.loads(run([*lab.node(node).enter(), sys.executable, str(BY_HAND), *words]))
    return answer


def delete_by_hand(lab: Lab, node: str, sandbox: Json) -> None:
    """CNI DEL of what `add_by_hand` made."""
    run([*lab.node(node).enter(), sys.executable, str(BY_HAND), "del", json.dumps(sandbox)])


def addresses_of(sandbox: Json) -> list[str]:
    """The addresses in a sandbox's result, IPv4 first."""
    return [str(ip_interface(entry["address"]).ip) for entry in sandbox["result"]["ips"]]


def inconsistencies(lab: Lab) -> list[str]:
    """What `ipam check` finds wrong in the API."""
    store = KubeStore(kubeconfig=lab.kubeconfig)
    found = check(
        pools=store.list(IPPool).items,
        blocks=store.list(IPAMBlock).items,
        affinities=store.list(BlockAffinity).items,
        handles=store.list(IPAMHandle).items,
        pods=store.list(Pod).items,
        now_s=time.time(),
    )
    return [str(problem) for problem in found]


# ---- machines that the topology does not know


@contextlib.contextmanager
def stranger(lab: Lab, router: str, segment: str, address: str) -> Iterator[str]:
    """A machine more on a segment, for the length of a `with` block; yields its network namespace."""
    number = next(_numbers)
    netns, outer = f"tortie-{lab.name}-x{os.getpid()}y{number}", f"x{number}y{os.getpid()}"[:15]
    gateway = lab.topology.segment(segment).v4
    inner = ["ip", "-n", netns]
    try:
        run(["ip", "netns", "add", netns])
        run([*inner, "link", "add", "eth0", "type", "veth", "peer", "name", outer])
        # A bridge takes the lowest address of its ports for its own: a newcomer must not change the gateway's.
        run([*inner, "link", "set", outer, "address", f"fe:ff:ff:ff:ff:{number % 256:02x}"])
        run([*inner, "link", "set", outer, "netns", f"tortie-{lab.name}-{router}"])
        run([*lab.network(router), "ip", "link", "set", outer, "master", f"br-{segment}", "up"])
        for words in (("lo", "up"), ("eth0", "up")):
            run([*inner, "link", "set", *words])
        run([*inner, "address", "add", f"{address}/{gateway.network.prefixlen}", "dev", "eth0"])
        run([*inner, "route", "add", "default", "via", str(gateway.ip)])
        yield netns
    finally:
        subprocess.run(["ip", "netns", "del", netns], check=False, capture_output=True)


# ---- nodes


def fib(lab: Lab, node: str) -> dict[str, Json]:
    """A node's routes with our protocol number, both families, by destination as a prefix."""
    found: dict[str, Json] = {}
    for family in ("-4", "-6"):
        for route in json.loads(
            lab.exec(node, ["ip", "-j", family, "route", "show", "proto", str(FELIX_PROTO)]).stdout
        ):
            found[str(ip_network(route["dst"]))] = route
    return found


def all_fibs(lab: Lab) -> dict[str, dict[str, Json]]:
    """`fib` of every node."""
    names = [node.name for node in lab.nodes]
    return dict(zip(names, at_once(lambda name: fib(lab, name), names), strict=True))


def log_of(lab: Lab, node: str, component: str = "agent") -> str:
    """What a component has said so far."""
    return lab.node(node).log(component).read_text()
