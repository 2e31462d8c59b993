"""Names, places and documents: what a reader may rely on before opening a file."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter

import pytest

from tests.architecture.sources import PACKAGES, REPOSITORY, files, python_files, shown, tree

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "tools"}


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [shown(path) for path in python_files() if path.stem in FORBIDDEN_NAMES]


def test_no_module_has_the_name_of_one_of_the_standard_library() -> None:
    """`import select` in a directory with select.py finds the wrong one, in surprising ways."""
    named = [shown(path) for path in python_files() if path.stem in sys.stdlib_module_names]
    packages = [name for name in PACKAGES if name in sys.stdlib_module_names]
    assert not named + packages


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_its_design_told(package: str) -> None:
    assert (REPOSITORY / package / "DESIGN.md").is_file()


def test_an_init_holds_a_docstring_and_no_code() -> None:
    wrong = []
    for path in python_files(below=PACKAGES):
        if path.name == "__init__.py":
            body = tree(path).body
            if ast.get_docstring(tree(path)) is None or len(body) != 1:
                wrong.append(shown(path))
    assert not wrong


def test_every_module_says_what_it_is_for() -> None:
    without = [shown(path) for path in python_files() if path.stat().st_size and not ast.get_docstring(tree(path))]
    assert not without


def test_test_files_have_names_of_their_own() -> None:
    """Two of one name in two directories confuse readers, and pytest's cache of failed tests."""
    counted = Counter(path.name for path in python_files(below=("tests",)) if path.name.startswith("test_"))
    assert not [name for name, number in counted.items() if number > 1]


def test_no_file_knows_the_machine_on_which_it_was_written() -> None:
    # Written in pieces, so that this file does not find itself.
    places = re.compile("|".join(f"(?<![\\w.~$}}])/{top}/\\w" for top in ("ro" + "ot", "ho" + "me", "wo" + "rk")))
    scratch = "/tmp/" + "tortie"
    found = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if places.search(line) or scratch in line:
                found.append(f"{shown(path, number)}: {line.strip()[:100]}")
    assert not found
