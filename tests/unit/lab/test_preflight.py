"""What a machine lacks is said in one line, before any work is done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lab.packages

SCRIPT = Path(lab.packages.__file__).parent / "preflight.sh"

GOOD = {"id": "echo 0", "uname": 'case "$1" in -r) echo 6.1.0-27-amd64;; *) echo Linux;; esac', "unshare": "exit 0"}
"""Stand-ins for the programs that the script asks, as a good machine answers."""


def preflight(tmp_path: Path, kind: str = "root", python: str = sys.executable, **programs: str) -> tuple[int, str]:
    for name, body in {**GOOD, **programs}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", str(SCRIPT), kind, "lab"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_good_machine_hears_nothing(tmp_path: Path) -> None:
    assert preflight(tmp_path) == (0, "")


@pytest.mark.parametrize(
    ("programs", "sentence"),
    [
        ({"id": "echo 1000"}, "needs root: sudo make lab"),
        ({"unshare": "exit 1"}, "does not let root make network namespaces"),
        ({"unshare": '[ "$1" = --net ]'}, "does not let root make mount and PID namespaces"),
        ({"uname": 'case "$1" in -r) echo 5.10.0-8;; *) echo Linux;; esac'}, "the kernel is 5.10.0; 5.15 or newer"),
        ({"uname": "echo Darwin"}, "needs Linux, and here is Darwin"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path: Path, programs: dict[str, str], sentence: str) -> None:
    status, said = preflight(tmp_path, **programs)
    assert status == 1
    assert sentence in said
    assert said.startswith("tortie: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("release", ["5.15.0-100-generic", "5.15", "6.18.44"])
def test_new_enough_kernels_pass(tmp_path: Path, release: str) -> None:
    assert preflight(tmp_path, uname=f'case "$1" in -r) echo {release};; *) echo Linux;; esac') == (0, "")


def test_a_user_without_root_may_run_what_needs_none(tmp_path: Path) -> None:
    assert preflight(tmp_path, "user", id="echo 1000") == (0, "")


def test_without_a_fit_python_and_without_root_the_command_to_get_it_is_named(tmp_path: Path) -> None:
    apt = "exit 1"
    status, said = preflight(tmp_path, "user", python="/nonexistent/python3", id="echo 1000", **{"apt-get": apt})
    assert (status, said.count("\n")) == (1, 1)
    assert "sudo apt-get install python3-venv" in said
