"""The route writer: brings the kernel's main table to what is wanted, and touches nothing that is not ours.

Theory: the difference is taken against the world. A route of protocol FELIX_PROTO is ours by that mark alone, so a
restarted agent adopts what it finds: what stands as wanted is not written again, what is not wanted goes. What the
kernel holds is read once and then remembered until somebody says `look_again()` (an event, the 90 s refresh), so that
a turn with nothing to do costs nothing.

Order is data: all puts before all drops, so that no destination is without a route in between; a put replaces what
stands at the same (destination, metric) in one step of the kernel.

Invariants: nothing is dropped that `sweep` does not name. Before the cluster and IPAM are known the set is empty;
routes learned from BGP are swept only when BGP is in sync, so a restart of agent, speaker or ToR takes no route away
that may still be right. A stranger's route is never replaced (the kernel gate says EEXIST): the failure is told, the
rest goes on. What failed is not tried again until `retry()` or `look_again()`.

Called by `felix.agent`. Blocks for the kernel's time only: about 10 us a route.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from felix.calc.routes import RouteKey
from felix.kernel.names import FELIX_PROTO
from felix.kernel.protocols import Route, RouteKernel, RouteKind

OURS = frozenset({FELIX_PROTO})


class Origin(Enum):
    """Where a route of ours came from, read off the route alone."""

    LOCAL = "local"
    """Pods and own blocks."""
    BGP = "bgp"


KEEP_ALL: frozenset[Origin] = frozenset()
SWEEP_ALL: frozenset[Origin] = frozenset(Origin)


def origin(route: Route) -> Origin:
    """Routes from BGP are those with a gateway; no others have one."""
    learned = route.kind is RouteKind.UNICAST and any(hop.gateway is not None for hop in route.next_hops)
    return Origin.BGP if learned else Origin.LOCAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be done, in this order."""

    puts: tuple[Route, ...] = ()
    drops: tuple[Route, ...] = ()
    kept: int = 0
    """Routes that nobody wants and that stay, because their source is not in sync."""

    @property
    def empty(self) -> bool:
        """Nothing to do."""
        return not (self.puts or self.drops)

    @property
    def drops_pods(self) -> bool:
        """Whether it takes away the route of a pod."""
        return any(route.kind is RouteKind.UNICAST and origin(route) is Origin.LOCAL for route in self.drops)

    def lines(self) -> Iterator[str]:
        """One a route, in order; made as they are asked for, for a plan may hold ten thousand."""
        yield from (f"+ {route}" for route in self.puts)
        yield from (f"- {route}" for route in self.drops)
        if self.kept:
            yield f"= {self.kept} kept until their source is in sync"

    def __str__(self) -> str:
        return "\n".join(self.lines())


class RouteWriter:
    """One main table."""

    def __init__(self, kernel: RouteKernel) -> None:
        self._kernel = kernel
        self._standing: dict[RouteKey, Route] | None = None
        self._equal: dict[RouteKey, tuple[Route, Route]] = {}
        """A route as it was read, and the wanted one found equal to it: comparing a second time costs nothing."""
        self._failed: dict[Route, OSError] = {}
        self._settled: tuple[Mapping[RouteKey, Route], frozenset[Origin], int] | None = None

    @property
    def failures(self) -> Mapping[Route, OSError]:
        """What the kernel refused last."""
        return self._failed

    @property
    def standing(self) -> Mapping[RouteKey, Route]:
        """Our routes in the kernel, as last seen."""
        return self._standing or {}

    def look_again(self) -> None:
        """Do not trust what is remembered of the kernel."""
        self._standing = None
        self.retry()

    def read(self) -> None:
        """See what stands, now. Raises OSError."""
        self._read()

    def retry(self) -> None:
        """Let the next plan hold what failed."""
        self._failed = {}
        self._settled = None

    def plan(self, wanted: Mapping[RouteKey, Route], *, sweep: frozenset[Origin]) -> Plan:
        """What is to be done; writes nothing. OSError when the table cannot be read."""
        if self._standing is not None and self._settled is not None:
            settled, swept, kept = self._settled
            if settled is wanted and swept == sweep:
                return Plan(kept=kept)
        standing = self._read()
        puts = [route for key, route in wanted.items() if not self._stands(standing, key, route)]
        extra = [route for key, route in standing.items() if key not in wanted]
        drops = [route for route in extra if origin(route) in sweep]
        plan = Plan(puts=self._untried(puts), drops=self._untried(drops), kept=len(extra) - len(drops))
        self._settled = (wanted, sweep, plan.kept) if plan.empty else None
        return plan

    def apply(self, plan: Plan) -> Mapping[Route, OSError]:
        """Do it; returns what failed. Idempotent."""
        standing = self._read()
        for route in (*plan.puts, *plan.drops):
            self._equal.pop((route.dst, route.metric), None)
        refused = self._kernel.put_routes(plan.puts) if plan.puts else {}
        for route in plan.puts:
            if route not in refused:
                standing[route.dst, route.metric] = route
        absent = self._kernel.drop_routes(plan.drops) if plan.drops else {}
        stuck = {route: error for route, error in absent.items() if error.errno != errno.ESRCH}
        for route in plan.drops:
            if route not in stuck:
                standing.pop((route.dst, route.metric), None)
        failed = {**refused, **stuck}
        self._failed |= failed
        return failed

    def _untried(self, routes: list[Route]) -> tuple[Route, ...]:
        return tuple(route for route in routes if route not in self._failed) if self._failed else tuple(routes)

    def _read(self) -> dict[RouteKey, Route]:
        if self._standing is None:
            found = self._kernel.list_routes(protos=OURS)
            read = {(route.dst, route.metric): route for route in found}
            self._equal = {key: pair for key, pair in self._equal.items() if read.get(key) is pair[0]}
            self._standing = read | {key: wanted for key, (_, wanted) in self._equal.items()}
        return self._standing

    def _stands(self, standing: dict[RouteKey, Route], key: RouteKey, wanted: Route) -> bool:
        found = standing.get(key)
        if found is wanted:
            return True
        if found != wanted:
            return False
        read = self._equal[key][0] if key in self._equal else found
        self._equal[key] = (read, wanted)
        standing[key] = wanted
        return True
