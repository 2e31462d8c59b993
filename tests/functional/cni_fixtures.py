"""Fixtures of the CNI tests; imported by name where they are needed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni.build import build
from tests.functional.cni_world import Node


@pytest.fixture(scope="session")
def shim_and_run_dir() -> Iterator[tuple[Path, Path]]:
    """The shim, compiled for a run directory of this session."""
    base = Path(tempfile.mkdtemp(prefix="tortie-cni-"))
    run_dir = base / "run"
    yield build(base / "tortie", run_dir=str(run_dir)), run_dir
    shutil.rmtree(base)


@pytest.fixture
def idle_node(netns: Callable[..., str], shim_and_run_dir: tuple[Path, Path]) -> Iterator[Node]:
    """A node whose agent is not started yet."""
    shim, run_dir = shim_and_run_dir
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir()
    node = Node(netns=netns("node"), run_dir=run_dir, shim=shim)
    yield node
    node.kill()


@pytest.fixture
def node(idle_node: Node) -> Node:
    """A node whose agent listens."""
    idle_node.start()
    return idle_node
