"""NodeIPAM: the addresses of one node, given out by its own agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from crds.store import Store
from crds.values import HandleID, NodeName
from ipam.clock import Clock
from ipam.requests import AssignAnswer, AssignRequest, IPAddress, IPNetwork
from ipam.view import ClusterView


class NodeIPAM:
    """Being filled in; the signatures stand."""

    def __init__(
        self,
        *,
        node: NodeName,
        store: Store,
        state_dir: Path,
        run_dir: Path,
        clock: Clock,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        raise NotImplementedError

    def see(self, view: ClusterView) -> None:
        raise NotImplementedError

    async def recover(self, *, kernel_addresses: Mapping[IPAddress, str]) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        raise NotImplementedError

    async def assign(self, request: AssignRequest) -> AssignAnswer:
        raise NotImplementedError

    async def release(self, handle: HandleID) -> tuple[IPAddress, ...]:
        raise NotImplementedError

    def blocks(self) -> frozenset[IPNetwork]:
        raise NotImplementedError

    def exceptions(self) -> frozenset[IPAddress]:
        raise NotImplementedError

    def allocations(self) -> Mapping[HandleID, tuple[IPAddress, ...]]:
        raise NotImplementedError

    async def flushed(self) -> None:
        raise NotImplementedError
