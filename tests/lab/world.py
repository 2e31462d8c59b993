"""What the tests of a whole fabric share: pods for a while, things run at an end of a wire, what the API and the nodes say.

Everything is asked anew; nothing here waits but through `eventually`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

from lab.api import ApiRefused
from lab.fabric import Lab
from lab.pods import PROBE, RunningPod
from tests.eventually import eventually

Json = dict[str, Any]
IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
T = TypeVar("T")
R = TypeVar("R")

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
