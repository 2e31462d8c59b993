"""A real control plane without a container: etcd and kube-apiserver as two processes of ours.

What for: lab and tests run against what a cluster runs, with TLS, RBAC and validation as a cluster has them, and not
against something that behaves like it.

Theory: etcd listens on a Unix socket below `state`, so nothing collides and nobody else reads it. The API server
listens on one address, which may lie in a network namespace of the fabric; then a *door* (`cp_door`) on the
machine's loopback leads there. So there are two views: `Side.FABRIC`, the address that nodes use, and `Side.MACHINE`,
what kubectl on the machine uses; without a namespace both are the same. Everybody has an identity: an
administrator's client certificate, a certificate for any user, a token for any ServiceAccount, in a file that may be
renewed under a running client.

Invariants: `start` and `stop` are idempotent; `stop` leaves no process and no socket; all that is written lies below
`state`; another process can take a running one over with `ControlPlane.load(state)`. With `Lifetime.PARENT` the
kernel ends etcd and API server when the thread that started them ends, however it ends.

Called by: fabric, tests/conftest.py, benchmarks.
"""

from __future__ import annotations

import enum
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lab import cp_kubeconfig, cp_settings
from lab.binaries import Binaries, kubernetes_binaries
from lab.cp_api import AdminClient
from lab.cp_certificates import Authority
from lab.cp_process import Daemon
from lab.cp_settings import Settings

NAMESPACE = "tortie-system"
"""Where Tortie's own ServiceAccounts live."""

READY_WITHIN_S = 90.0
"""Ready takes 3 s on an idle machine; this is for one that is busy compiling."""

READY_EVERY_S = 0.05

TOKEN_VALID_S = 365 * 86400
"""A lab may be left running. Tests that want a token to run out ask for less (the API server's least is 600 s)."""

PORT_IN_NAMESPACE = 6443


class Side(enum.Enum):
    """From where a client looks at the API server."""

    MACHINE = "machine"
    FABRIC = "fabric"


class NotReady(RuntimeError):
    """The API server did not come up; the text ends with the last lines of its log."""


class KubectlFailed(RuntimeError):
    """kubectl's exit status was not 0; the text is its stderr."""


class ControlPlane:
    """etcd and kube-apiserver below one directory. Made by `create` (new) or `load` (of an earlier process)."""

    def __init__(self, state: Path, settings: Settings, *, binaries: Binaries, say: Callable[[str], None]) -> None:
        self.state = state
        self.settings = settings
        self.binaries = binaries
        self._say = say
        self._authority = Authority(state / "pki")
        lifetime = settings.lifetime
        self._etcd = Daemon(name="etcd", directory=state, lifetime=lifetime)
        self._apiserver = Daemon(name="kube-apiserver", directory=state, lifetime=lifetime, netns=settings.netns)
        self._door = Daemon(name="door", directory=state, lifetime=lifetime)

    @classmethod
    def create(
        cls, state: Path, settings: Settings | None = None, *, say: Callable[[str], None] = lambda _: None
    ) -> ControlPlane:
        """One that is not running yet. `say` gets a line for each step. May build the binaries, which takes minutes."""
        state = state.absolute()
        state.mkdir(parents=True, exist_ok=True)
        settings = settings or Settings()
        if settings.netns:
            port, door_port = settings.port or PORT_IN_NAMESPACE, settings.door_port or _free_port()
            settings = msgspec.structs.replace(settings, port=port, door_port=door_port)
        elif not settings.port:
            settings = msgspec.structs.replace(settings, port=_free_port())
        (state / "settings.json").write_bytes(msgspec.json.encode(settings))
        return cls(state, settings, binaries=kubernetes_binaries(say=say), say=say)

    @classmethod
    def load(cls, state: Path, *, say: Callable[[str], None] = lambda _: None) -> ControlPlane:
        """The one that an earlier process made there; FileNotFoundError when there is none."""
        state = state.absolute()
        settings = msgspec.json.decode((state / "settings.json").read_bytes(), type=Settings)
        return cls(state, settings, binaries=kubernetes_binaries(say=say), say=say)

    # --- where it is, and who may come in

    def url(self, side: Side = Side.MACHINE) -> str:
        """`https://address:port` as seen from there."""
        if side is Side.MACHINE and self.settings.netns:
            return f"https://127.0.0.1:{self.settings.door_port}"
        address = self.settings.address
        return f"https://{f'[{address}]' if ':' in address else address}:{self.settings.port}"

    @property
    def ca(self) -> Path:
        """The certificate of the authority that signed everything here."""
        return self._authority.pair.certificate

    @property
    def kubeconfig(self) -> Path:
        """The administrator's, for use on the machine; there after `start`."""
        return self.state / "admin.kubeconfig"

    def kubeconfig_for_user(self, user: str, *, groups: tuple[str, ...] = (), side: Side = Side.MACHINE) -> Path:
        """A kubeconfig for any user, by client certificate; e.g. `system:node:n1` in `system:nodes`."""
        safe = user.replace(":", "_").replace("/", "_")
        pair = self._authority.client(f"user-{safe}", user=user, groups=groups)
        path = self.state / f"{safe}-{side.value}.kubeconfig"
        return cp_kubeconfig.with_certificate(path, url=self.url(side), ca=self.ca, client=pair, user=user)

    def kubeconfig_for_account(
        self, name: str, *, namespace: str = NAMESPACE, side: Side = Side.MACHINE, token_file: Path | None = None
    ) -> Path:
        """A kubeconfig for a ServiceAccount, with a fresh token. The account must exist; it has its own rights only.

        `token_file`: where the *client* sees the token, when that is another mount namespace. The token itself is
        always written to `token_path`. TokenRefused when there is no such account.
        """
        token = self.refresh_token(name, namespace=namespace)
        path = self.state / f"{namespace}-{name}-{side.value}.kubeconfig"
        return cp_kubeconfig.with_token_file(
            path, url=self.url(side), ca=self.ca, token_file=token_file or token, user=f"{namespace}:{name}"
        )

    def token_path(self, name: str, *, namespace: str = NAMESPACE) -> Path:
        """The file that holds a ServiceAccount's token."""
        return self.state / "tokens" / f"{namespace}-{name}"

    def refresh_token(self, name: str, *, namespace: str = NAMESPACE, valid_s: int = TOKEN_VALID_S) -> Path:
        """Get a new token and replace the file; running clients are expected to read it again."""
        path = self.token_path(name, namespace=namespace)
        cp_kubeconfig.write_private(path, self._admin.token(namespace, name, valid_s=valid_s))
        return path

    # --- life

    def start(self) -> None:
        """Start what is not running and return when the API server is ready; NotReady after a minute and a half."""
        began_s = time.monotonic()
        self._authority.create()
        admin = self._admin
        cp_kubeconfig.with_certificate(
            self.kubeconfig, url=self.url(), ca=self.ca, client=admin.certificate, user="admin"
        )
        if self._etcd.pid is None:
            self._say("starting etcd")
            self._etcd.start([self.binaries.etcd, *cp_settings.etcd(self.state)])
        if self.settings.netns and self._door.pid is None:
            door = ["-m", "lab.cp_door", self.settings.netns, str(self.settings.door_port)]
            self._door.start([sys.executable, *door, self.settings.address, str(self.settings.port)])
        self.start_apiserver()
        self._say(f"API server ready at {self.url()} after {time.monotonic() - began_s:.1f} s")

    def stop(self) -> None:
        """End all of it; the data stays below `state`."""
        for daemon in (self._door, self._apiserver, self._etcd):
            daemon.stop()
        for name in ("etcd.sock", "peer.sock"):
            (self.state / name).unlink(missing_ok=True)

    def start_apiserver(self) -> None:
        """Start the API server alone (after `stop_apiserver`) and wait until it is ready."""
        if self._apiserver.pid is None:
            self._say("starting kube-apiserver")
            if self.settings.audit:
                (self.state / "audit-policy.json").write_text(cp_settings.audit_policy(self.settings))
            flags = cp_settings.apiserver(self.state, self.settings, self._authority)
            self._apiserver.start([self.binaries.kube_apiserver, *flags])
        self._wait_ready()

    def stop_apiserver(self) -> None:
        """End the API server in order; etcd and the door stay."""
        self._apiserver.stop()

    def kill_apiserver(self) -> None:
        """SIGKILL the API server: connections are reset, nothing is drained."""
        self._apiserver.stop(grace_s=0)

    def processes(self) -> dict[str, int | None]:
        """Name and pid of each process; None for one that does not run."""
        daemons = [self._etcd, self._apiserver, *([self._door] if self.settings.netns else [])]
        return {daemon.name: daemon.pid for daemon in daemons}

    # --- use

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl as administrator; returns stdout, raises KubectlFailed with its stderr."""
        command = [str(self.binaries.kubectl), f"--kubeconfig={self.kubeconfig}", *arguments]
        environment = {**os.environ, "KUBECACHEDIR": str(self.state / "kubectl-cache")}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise KubectlFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *paths: Path) -> None:
        """`kubectl apply -f` of files or directories; CustomResourceDefinitions are usable when this returns."""
        self.kubectl("apply", *(f"--filename={path}" for path in paths))
        if self.kubectl("get", "customresourcedefinitions", "--output=name"):
            wait = ("wait", "--for=condition=Established", "customresourcedefinitions", "--all", "--timeout=30s")
            self.kubectl(*wait)

    @property
    def _admin(self) -> AdminClient:
        pair = self._authority.client("admin", user="tortie-lab-admin", groups=("system:masters",))
        return AdminClient(self.url(), self.ca, pair)

    def _wait_ready(self) -> None:
        admin = self._admin
        deadline_s = time.monotonic() + READY_WITHIN_S
        while why := admin.not_ready_because():
            for daemon in (self._etcd, self._apiserver):
                if daemon.pid is None:
                    raise NotReady(f"{daemon.name} ended at once; the end of {daemon.log}:\n{daemon.last_words()}")
            if time.monotonic() > deadline_s:
                words = self._apiserver.last_words()
                raise NotReady(f"API server not ready: {why}\nthe end of {self._apiserver.log}:\n{words}")
            time.sleep(READY_EVERY_S)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
