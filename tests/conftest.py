"""The worlds that tests run in: a real API server, network namespaces, and who may use them.

Markers are set here, so no test can forget one: `cluster_api` for whoever takes the fixture `api`, `root` for
whoever takes `netns` and for all below tests/functional and tests/lab, `lab` for the latter. `make unit` and
`make functional` choose by them. A test whose world is missing fails and says what is missing; nothing is skipped.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lab.controlplane import ControlPlane

REPOSITORY = Path(__file__).resolve().parent.parent
NETNS_PREFIX = "tortie-t-"


def pytest_configure() -> None:
    """An interrupted run takes down what it made: SIGTERM ends it as Ctrl-C does, also in the background."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the worlds they take."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "api" in fixtures:
            item.add_marker(pytest.mark.cluster_api)
        if "netns" in fixtures:
            item.add_marker(pytest.mark.root)
        if item.path.is_relative_to(REPOSITORY / "tests" / "lab"):
            item.add_marker(pytest.mark.lab)
        if any(item.path.is_relative_to(REPOSITORY / "tests" / part) for part in ("functional", "lab")):
            item.add_marker(pytest.mark.root)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A privileged test that cannot touch the kernel has shown nothing: it fails."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.fail("needs root, for it makes network namespaces; run it with sudo, or choose with `make unit`")


# --- network namespaces


@pytest.fixture
def netns() -> Iterator[Callable[..., str]]:
    """`netns("a")` makes a network namespace with its loopback up and returns its name; gone after the test.

    The name may be used with `ip -n`, `ip netns exec` and as /run/netns/NAME. Processes that a test starts inside are
    the test's to end.
    """
    made: list[str] = []

    def make(hint: str = "x") -> str:
        name = f"{NETNS_PREFIX}{os.getpid()}-{next(_namespace_numbers)}-{hint}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        made.append(name)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        return name

    yield make
    for name in made:
        subprocess.run(["ip", "netns", "del", name], check=True)


_namespace_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _no_namespaces_of_killed_runs() -> None:
    """What an earlier run left when it was killed goes first; a run that still lives keeps its own."""
    directory = Path("/run/netns")
    if os.geteuid() != 0 or not directory.is_dir():
        return
    for path in directory.glob(f"{NETNS_PREFIX}*"):
        pid = path.name.removeprefix(NETNS_PREFIX).partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False)


# --- a real API server


@dataclass(slots=True)
class Api:
    """A real kube-apiserver with our CRDs and RBAC objects in it, shared by all tests of a session.

    Tests share it, so each takes names of its own (`unique`), or a namespace of its own (`namespace`).
    """

    control_plane: ControlPlane
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    @property
    def url(self) -> str:
        """`https://127.0.0.1:port`."""
        return self.control_plane.url()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.control_plane.kubeconfig

    @property
    def ca(self) -> Path:
        """The certificate to verify it with."""
        return self.control_plane.ca

    def token_for(self, account: str, *, namespace: str = "tortie-system") -> Path:
        """A kubeconfig for a ServiceAccount, with the rights that deploy/rbac gives it and no more."""
        return self.control_plane.kubeconfig_for_account(account, namespace=namespace)

    def refresh_token(self, account: str, *, namespace: str = "tortie-system", valid_s: int = 3600) -> Path:
        """Replace the token in the file that `token_for` names; returns that file."""
        return self.control_plane.refresh_token(account, namespace=namespace, valid_s=valid_s)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """kubectl as administrator; raises lab.controlplane.KubectlFailed with its stderr."""
        return self.control_plane.kubectl(*arguments, stdin=stdin)

    def unique(self, hint: str = "x") -> str:
        """A name that no other test of the session has."""
        return f"{hint}-{next(self._numbers)}"

    def namespace(self, hint: str = "test") -> str:
        """Make a namespace that no other test has; it stays, for nobody collects its content here."""
        name = self.unique(hint)
        self.kubectl("create", "namespace", name)
        return name

    def stop_apiserver(self) -> None:
        """End the API server in order; etcd stays. It is started again after the test."""
        self.control_plane.stop_apiserver()

    def kill_apiserver(self) -> None:
        """SIGKILL it. It is started again after the test."""
        self.control_plane.kill_apiserver()

    def start_apiserver(self) -> None:
        """Start it again, on the same port; returns when it is ready. Harmless while it runs."""
        self.control_plane.start_apiserver()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """`with api.away():` the API server does not run, connections are refused."""
        self.kill_apiserver()
        try:
            yield
        finally:
            self.start_apiserver()


@pytest.fixture(scope="session")
def _shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    from lab.controlplane import ControlPlane

    control_plane = ControlPlane.create(tmp_path_factory.mktemp("api"), say=print)
    try:
        control_plane.start()
        for directory in (REPOSITORY / "crds" / "manifests", REPOSITORY / "deploy" / "rbac"):
            if any(directory.glob("*.yaml")):
                control_plane.apply(directory)
        yield Api(control_plane)
    finally:
        control_plane.stop()


@pytest.fixture
def api(_shared_api: Api) -> Iterator[Api]:
    """The session's API server, ready; a test may stop, kill and start it."""
    yield _shared_api
    _shared_api.start_apiserver()
