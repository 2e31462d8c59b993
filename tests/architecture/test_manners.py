"""How tests behave: they wait in one place, skip nowhere, and use no mock."""

from __future__ import annotations

import ast

from tests.architecture.sources import REPOSITORY, imported, python_files, shown, tree

WAITS = REPOSITORY / "tests" / "eventually.py"
SKIPS = {"skip", "skipif", "xfail", "importorskip"}


def _calls_and_attributes() -> list[tuple[str, str]]:
    found = []
    for path in python_files(below=("tests",)):
        if path == WAITS or path.is_relative_to(REPOSITORY / "tests" / "bench"):
            continue  # a benchmark may sample at intervals; it is not a test
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute):
                found.append((node.attr, shown(path, node.lineno)))
            elif isinstance(node, ast.Name):
                found.append((node.id, shown(path, node.lineno)))
    return found


def test_only_eventually_waits() -> None:
    """A sleep is too short on a busy machine and too long on an idle one. `sleep(0)` only gives way to the loop."""
    giving_way = {
        shown(path, node.lineno)
        for path in python_files(below=("tests",))
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and [ast.unparse(argument) for argument in node.args] == ["0"]
    }
    assert not [place for name, place in _calls_and_attributes() if name == "sleep" and place not in giving_way]


def test_nothing_is_skipped() -> None:
    """A test that did not run looks like one that passed."""
    assert not [place for name, place in _calls_and_attributes() if name in SKIPS]


def test_there_are_fakes_and_no_mocks() -> None:
    """A fake passes the same contract tests as the real thing; a mock passes what it is told to."""
    mocks = [
        shown(path, line)
        for path in python_files(below=("tests",))
        for name, line in imported(path)
        if name.startswith(("unittest.mock", "mock"))
    ]
    assert not mocks
