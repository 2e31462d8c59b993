"""What can be made to go wrong with a fake store: refusals, lost answers, slowness, an API server that is away.

Called by crds.fake_store before and after each verb; tests reach it through FakeStore's methods of the same names.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from crds.meta import Resource

Verb = Literal["get", "list", "create", "replace", "replace_status", "patch", "delete", "watch"]


class Moment(Enum):
    BEFORE = "before"
    """Nothing is written."""
    AFTER = "after"
    """It is written, but the caller does not learn it: a lost answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that reached the store, failed ones included."""

    verb: Verb
    kind: type[Resource]
    key: str


@dataclass
class Hold:
    """Calls of this verb and kind wait until `release()`; `reached` is set once one waits."""

    verb: Verb
    kind: type[Resource] | None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let the waiting calls go on; later ones do not wait."""
        self._open.set()

    async def wait(self) -> None:
        self.reached.set()
        await self._open.wait()

    def concerns(self, verb: Verb, kind: type[Resource]) -> bool:
        return not self._open.is_set() and self.verb == verb and self.kind in (None, kind)


@dataclass
class _Failure:
    verb: Verb
    kind: type[Resource] | None
    error: BaseException
    moment: Moment
    times: int


class Faults:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.away: BaseException | None = None
        self._failures: list[_Failure] = []
        self._holds: list[Hold] = []

    def fail_next(
        self, verb: Verb, kind: type[Resource] | None, error: BaseException, *, moment: Moment, times: int
    ) -> None:
        self._failures.append(_Failure(verb, kind, error, moment, times))

    def hold(self, verb: Verb, kind: type[Resource] | None) -> Hold:
        self._holds.append(Hold(verb, kind))
        return self._holds[-1]

    async def before(self, verb: Verb, kind: type[Resource], key: str) -> None:
        self.calls.append(Call(verb, kind, key))
        await asyncio.sleep(0)  # a real call gives other tasks a turn too: races must be able to show
        for hold in [hold for hold in self._holds if hold.concerns(verb, kind)]:
            await hold.wait()
        if self.away is not None:
            raise self.away
        self._fail(verb, kind, Moment.BEFORE)

    def after(self, verb: Verb, kind: type[Resource]) -> None:
        self._fail(verb, kind, Moment.AFTER)

    def _fail(self, verb: Verb, kind: type[Resource], moment: Moment) -> None:
        for failure in self._failures:
            if failure.verb == verb and failure.kind in (None, kind) and failure.moment is moment:
                failure.times -= 1
                if failure.times <= 0:
                    self._failures.remove(failure)
                raise failure.error
