"""A node's IPAM in a process of its own that is killed (SIGKILL) at a chosen step, while the API server lives on.

The child's store sends each call through a pipe to the parent's FakeStore; each write and each commit of the journal is
a step, once before it is done and once after. The child tells the parent what a runtime would know: which ADD and DEL
it began and which were answered.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from crds.core import Pod
from crds.fake_store import FakeStore
from crds.values import HandleID
from ipam.journal import Journal
from ipam.node import NodeIPAM
from ipam.requests import Assigned, IPAddress
from tests.unit.ipam.ipam_rig import Rig, handle, pod_object, request


@dataclass
class Steps:
    """Counts steps and kills this process at one of them."""

    deadly: int
    count: int = 0

    def step(self) -> None:
        self.count += 1
        if self.count == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


class PipedStore:
    """A Store whose every call is carried out by the parent."""

    def __init__(self, pipe: Connection, steps: Steps) -> None:
        self._pipe, self._steps = pipe, steps

    def _call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        self._pipe.send((verb, args, kwargs))
        outcome, value = self._pipe.recv()
        if outcome == "raised":
            raise value
        return value

    def _write(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        self._steps.step()
        value = self._call(verb, *args, **kwargs)
        self._steps.step()
        return value

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("get", *args, **kwargs)

    async def list(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("list", *args, **kwargs)

    async def create(self, *args: Any, **kwargs: Any) -> Any:
        return self._write("create", *args, **kwargs)

    async def replace(self, *args: Any, **kwargs: Any) -> Any:
        return self._write("replace", *args, **kwargs)

    async def delete(self, *args: Any, **kwargs: Any) -> Any:
        return self._write("delete", *args, **kwargs)


def step_at_commits(journal: Journal, steps: Steps) -> None:
    """Make each commit of this journal two steps."""
    write = journal._write

    def stepped() -> bool:
        if journal._db.in_transaction:
            steps.step()
        done = write()
        steps.step()
        return done

    journal._write = stepped  # type: ignore[method-assign]


@dataclass
class Runtime:
    """What a container runtime knows: pods begun, answered, and to be taken down."""

    adding: set[str] = field(default_factory=set)
    running: dict[str, tuple[IPAddress, ...]] = field(default_factory=dict)
    deleting: set[str] = field(default_factory=set)

    def kernel(self) -> Mapping[IPAddress, str]:
        """Addresses on pod interfaces."""
        return {address: f"cali{name}" for name, held in self.running.items() for address in held}


class Child:
    """The runtime's side inside the child: each event is told to the parent before anything else happens."""

    def __init__(self, node: NodeIPAM, pipe: Connection) -> None:
        self.node, self._pipe = node, pipe

    def _tell(self, *note: Any) -> None:
        self._pipe.send(("note", note, {}))
        self._pipe.recv()

    async def add(self, *names: str) -> None:
        """ADD several pods at once."""
        for name in names:
            self._tell("adding", name)
        answers = await asyncio.gather(*(self.node.assign(request(name)) for name in names))
        for name, answer in zip(names, answers, strict=True):
            assert isinstance(answer, Assigned), answer
            self._tell("running", name, answer.addresses)

    async def delete(self, name: str) -> None:
        """DEL a pod."""
        self._tell("deleting", name)
        await self.node.release(handle(name))
        self._tell("gone", name)


Story = Callable[[Rig, NodeIPAM, Child], Coroutine[Any, Any, None]]


def live_and_die(rig: Rig, story: Story, *, deadly: int) -> tuple[Runtime, bool]:
    """Run a story in a child that dies at step `deadly`. Returns what the runtime knows, and whether it died."""
    ours, theirs = Pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            asyncio.run(_live(rig, story, theirs, Steps(deadly)))
            os._exit(0)
        except BaseException as error:
            with suppress(OSError):
                theirs.send(("failed", (repr(error),), {}))
            os._exit(1)
    theirs.close()
    runtime = Runtime()
    _serve(ours, rig.store, runtime)
    _, status = os.waitpid(pid, 0)
    died = os.WIFSIGNALED(status)
    assert died or os.WEXITSTATUS(status) == 0, "the story failed in the child"
    return runtime, died


async def _live(rig: Rig, story: Story, pipe: Connection, steps: Steps) -> None:
    views = rig.store
    store = PipedStore(pipe, steps)
    rig.store = store  # type: ignore[assignment]
    node = rig.node(store=store)
    step_at_commits(node.journal, steps)
    node.see(await rig.view())
    await node.recover(kernel_addresses={})
    await node.renew_once()
    await story(rig, node, Child(node, pipe))
    rig.store = views


def _serve(pipe: Connection, store: FakeStore, runtime: Runtime) -> None:
    """Be API server and runtime until the child is gone."""
    loop = asyncio.new_event_loop()
    while True:
        try:
            verb, args, kwargs = pipe.recv()
        except (EOFError, ConnectionResetError):
            break
        try:
            if verb == "failed":
                raise AssertionError(args[0])
            if verb == "note":
                loop.run_until_complete(_note(runtime, store, *args))
                reply: tuple[str, Any] = ("ok", None)
            else:
                reply = ("ok", loop.run_until_complete(getattr(store, verb)(*args, **kwargs)))
        except AssertionError:
            raise
        except Exception as error:
            reply = ("raised", error)
        with suppress(BrokenPipeError, ConnectionResetError):
            pipe.send(reply)
    loop.close()


async def _note(runtime: Runtime, store: FakeStore, what: str, name: str, held: tuple[IPAddress, ...] = ()) -> None:
    match what:
        case "adding":
            store.put(pod_object(name))
            runtime.adding.add(name)
        case "running":
            runtime.adding.discard(name)
            runtime.running[name] = held
            store.put(pod_object(name, addresses=held))
        case "deleting":
            runtime.deleting.add(name)
        case "gone":
            runtime.deleting.discard(name)
            runtime.running.pop(name, None)
            await store.delete(Pod, name, namespace="default", grace_period_s=0)


async def finish(rig: Rig, node: NodeIPAM, runtime: Runtime) -> None:
    """After a restart a runtime takes down what was not answered, and asks again for what was not finished."""
    for name in sorted(runtime.adding | runtime.deleting):
        await node.release(HandleID(handle(name)))
        runtime.running.pop(name, None)
        with suppress(Exception):
            await rig.gone(name)
