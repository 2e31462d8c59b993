"""The repository's own files, for the tests beside this one: what is in the checkout, whether committed yet or not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("bgp", "cni", "crds", "ctl", "felix", "ipam", "lab")
NOT_OURS = {".git", ".venv", "build", "dist", "__pycache__", "node_modules"}
"""Directories that are made, not written. `build` only at the top: lab/build is ours."""


@cache
def files() -> tuple[Path, ...]:
    """Every file of the checkout."""
    return tuple(sorted(_walk(REPOSITORY)))


def _walk(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        made = path.name in NOT_OURS and (path.name != "build" or directory == REPOSITORY)
        if made or path.is_symlink() or path.name.endswith(("_cache", ".egg-info")) or path.name == ".hypothesis":
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def python_files(*, below: tuple[str, ...] = (*PACKAGES, "tests")) -> list[Path]:
    """The Python files in these top directories."""
    return [path for path in files() if path.suffix == ".py" and path.relative_to(REPOSITORY).parts[0] in below]


@cache
def tree(path: Path) -> ast.Module:
    """A file, parsed."""
    return ast.parse(path.read_text(), filename=str(path))


def module_name(path: Path) -> str:
    """`felix/kernel/netlink.py` -> `felix.kernel.netlink`."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def shown(path: Path, line: int = 0) -> str:
    """How a finding is written: a path that an editor can jump to."""
    place = str(path.relative_to(REPOSITORY))
    return f"{place}:{line}" if line else place


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, anywhere in it, with the line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno
