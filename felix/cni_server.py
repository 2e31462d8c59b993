"""The agent's end of the kubelet's door: a Unix socket on which shim.c asks.

Theory: one connection is one request. The pod's namespace comes along as a descriptor, so no path is opened here. While
a request is worked on, the connection is listened to: end of file means that the runtime has killed the shim, and the
work is cancelled and undone, as it is at the deadline.

Invariants: only root may ask (socket mode 0600 and peer credentials). At most AT_ONCE requests are worked on, others
wait. Descriptors received are closed in every case. Nothing of stdin is logged.

Beside the socket: `heartbeat`, a file whose age the shim reads for STATUS, and `cni-del/`, DELs that came while no
agent was there; they are replayed before the first request and looked for again with each heartbeat.

Called by felix.agent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from cni.spec import NEWEST, CniCall, CniError, Code, Command, encode_result
from cni.wire import BadFrame, Request, RequestDecoder, encode_answer, encode_error
from felix.cni_attach import Attachments
from felix.lull import Lull

log = logging.getLogger(__name__)

AT_ONCE = 64
"""More would only queue at the kernel's RTNL lock."""
HEARTBEAT_EVERY_S = 10.0
REQUEST_LIMIT_S = 10.0
"""For a shim to say what it wants."""
PATIENCE_S = 0.02
"""After this long a request is one that waits, and its shim is listened to."""
_BACKLOG = 1024


class CniServer:
    """Listens at `run_dir`/cni.sock."""

    def __init__(
        self,
        attachments: Attachments,
        *,
        run_dir: Path,
        not_ready: Callable[[], str] = lambda: "",
        lull: Lull | None = None,
    ) -> None:
        """`not_ready`: why the agent cannot serve ADDs now, in one sentence, "" if it can. `lull` is told of each
        request."""
        self._attachments = attachments
        self._run_dir = run_dir
        self._not_ready = not_ready
        self._lull = lull or Lull()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None

    @property
    def path(self) -> Path:
        """Where the shim connects."""
        return self._run_dir / "cni.sock"

    async def start(self) -> None:
        """Replay what is owed, then listen. Replaces a socket that a dead agent left."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._graves.mkdir(mode=0o700, exist_ok=True)
        await self.replay()
        self.path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            listening.bind(str(self.path))
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)

    async def stop(self) -> None:
        """Stop listening; requests under way are cancelled, which undoes them."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run(self) -> None:
        """Heartbeat and replay, for ever."""
        while True:
            if not self._not_ready():
                (self._run_dir / "heartbeat").touch(mode=0o644)
            await self.replay()
            await asyncio.sleep(HEARTBEAT_EVERY_S)

    # connections

    def _accept(self) -> None:
        if self._socket is None:
            return
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("cannot accept a CNI request error=%s", error)
            return
        connection.setblocking(False)  # noqa: FBT003
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        self._lull.begin()
        try:
            uid = _peer_uid(connection)
            if uid != 0:
                log.warning("refused a CNI request of uid=%s", uid)
                return
            async with asyncio.timeout(REQUEST_LIMIT_S):
                request = await _receive(connection, descriptors)
            if request is None:
                return
            async with self._slots:
                await self._work(connection, request, descriptors)
        except (BadFrame, TimeoutError, ConnectionError) as error:
            log.warning("a CNI request ended early error=%s", error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()
            self._lull.end()

    async def _work(self, connection: socket.socket, request: Request, descriptors: list[int]) -> None:
        """Answer one request, unless the shim goes away."""
        version = NEWEST
        loop = asyncio.get_running_loop()
        gone = _Gone(connection, asyncio.current_task())
        listening = loop.call_later(PATIENCE_S, gone.listen)
        call: CniCall | None = None
        try:
            try:
                call = request.call(netns_fd=descriptors[0] if descriptors else None)
                version = call.config.cni_version
                async with asyncio.timeout(request.deadline_ms / 1000):
                    await self._answer(connection, call)
            except CniError as error:
                log.info(
                    "CNI request failed command=%s container=%s code=%d why=%s",
                    request.environment.get("CNI_COMMAND", ""),
                    request.environment.get("CNI_CONTAINERID", ""),
                    error.code,
                    error.msg,
                )
                await loop.sock_sendall(connection, encode_error(error, version=version))
            except TimeoutError:
                late = CniError(Code.TRY_AGAIN_LATER, "the request took longer than its deadline and was undone")
                await loop.sock_sendall(connection, encode_error(late, version=version))
            except ConnectionError:
                raise  # nobody listens any more
            except Exception as error:
                # Silence would read as "no agent is there", again and again, and nobody would look here.
                log.exception("CNI request failed command=%s", request.environment.get("CNI_COMMAND", ""))
                await loop.sock_sendall(connection, encode_error(_unexpected(error), version=version))
        except asyncio.CancelledError:
            if not gone.seen:
                raise
            log.info(
                "the runtime gave up command=%s container=%s: undone",
                request.environment.get("CNI_COMMAND", ""),
                request.environment.get("CNI_CONTAINERID", ""),
            )
        finally:
            listening.cancel()
            loop.remove_reader(connection.fileno())

    async def _answer(self, connection: socket.socket, call: CniCall) -> None:
        loop = asyncio.get_running_loop()
        match call.command:
            case Command.STATUS:
                why = self._not_ready()
                if why:
                    raise CniError(Code.NOT_AVAILABLE, why)
            case Command.ADD:
                await self._answer_add(connection, call)
                return
            case _:
                await self._attachments.run(call)
        await loop.sock_sendall(connection, encode_answer(b""))

    async def _answer_add(self, connection: socket.socket, call: CniCall) -> None:
        why = self._not_ready()
        if why:
            raise CniError(Code.TRY_AGAIN_LATER, why)
        self._grave(call.container_id, call.ifname).unlink(missing_ok=True)  # of an older life of this ID
        result, added = await self._attachments.add(call)
        try:
            answer = encode_answer(encode_result(result, version=call.config.cni_version))
            await asyncio.get_running_loop().sock_sendall(connection, answer)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._attachments.undo(call)))
            raise
        self._attachments.hooks.on_added(added)

    # DELs from when no agent was there

    @property
    def _graves(self) -> Path:
        return self._run_dir / "cni-del"

    def _grave(self, container_id: str, ifname: str) -> Path:
        return self._graves / f"{container_id}@{ifname}"

    async def replay(self) -> None:
        """Do the DELs that the shim wrote down. One that cannot be read is dropped, one that fails stays."""
        for path in sorted(self._graves.glob("*@*")):
            if path.name.endswith(".new"):
                continue
            try:
                request = RequestDecoder().feed(path.read_bytes())
                if request is None or request.environment.get("CNI_COMMAND") != Command.DEL.value:
                    raise BadFrame("not a whole DEL")
                await self._attachments.run(request.call(netns_fd=None))
            except FileNotFoundError:
                continue  # an ADD of the same ID came first
            except (BadFrame, CniError) as error:
                log.warning("dropped an unreadable DEL file=%s error=%s", path.name, error)
            except OSError as error:
                log.warning("a DEL waits for the next heartbeat file=%s error=%s", path.name, error)
                continue
            path.unlink(missing_ok=True)


class _Gone:
    """Cancels a task when its shim hangs up. Most requests are answered before it begins to listen, and then the
    answer's failure tells the same."""

    def __init__(self, connection: socket.socket, task: asyncio.Task[None] | None) -> None:
        self._connection, self._task = connection, task
        self.seen = False

    def listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self.look)

    def look(self) -> None:
        try:
            self._connection.recv(1)
        except BlockingIOError:
            return
        except OSError:
            pass
        # End of file, or bytes that no shim sends: either way nobody waits for the answer.
        asyncio.get_running_loop().remove_reader(self._connection.fileno())
        self.seen = True
        if self._task is not None:
            self._task.cancel()


def _unexpected(error: Exception) -> CniError:
    """What the runtime is told of a refusal of the kernel's, or of a bug of ours."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return CniError(Code.INTERNAL, f"the agent could not do it ({why}); its log says more")


def _peer_uid(connection: socket.socket) -> int:
    _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


async def _receive(connection: socket.socket, descriptors: list[int]) -> Request | None:
    """One request; received descriptors are added to the list at once, so that they are closed in every case."""
    decoder = RequestDecoder()
    loop = asyncio.get_running_loop()
    while True:
        try:
            data, found, _flags, _address = socket.recv_fds(connection, 1 << 17, 4, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            readable = loop.create_future()
            loop.add_reader(connection.fileno(), _wake, readable)
            try:
                await readable
            finally:
                loop.remove_reader(connection.fileno())
            continue
        descriptors += found
        if not data:
            return None
        request = decoder.feed(data)
        if request is not None:
            return request


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
