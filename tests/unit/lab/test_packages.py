"""apt-get runs only when something is missing, and what cannot be got is one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab import packages


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose programs are those of one directory, with an apt-get that installs what it is told to."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setattr(packages, "SEARCH_PATH", str(directory))
    monkeypatch.setattr(packages, "PROGRAMS", {"frobnicate": "frob-tools"})
    monkeypatch.setattr(packages, "FILES", {})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(directory))
    return directory


def put(directory: Path, name: str, body: str = "exit 0") -> None:
    (directory / name).write_text(f"#!/bin/sh\n{body}\n")
    (directory / name).chmod(0o755)


def test_nothing_runs_when_nothing_is_missing(machine: Path) -> None:
    put(machine, "frobnicate")
    put(machine, "apt-get", f"echo ran > {machine}/ran; exit 1")
    said: list[str] = []
    packages.install(say=said.append)
    assert not said
    assert not (machine / "ran").exists()


def test_what_is_missing_is_installed_and_told(machine: Path) -> None:
    put(machine, "apt-get", f'echo "$@" >> {machine}/ran')
    said: list[str] = []
    packages.install(say=said.append)
    assert said == ["installing frob-tools with apt-get"]
    update, install = (machine / "ran").read_text().splitlines()
    assert update.endswith("update")
    assert install.endswith("install --yes --no-install-recommends frob-tools")


def test_without_apt_the_sentence_names_the_package(machine: Path) -> None:
    with pytest.raises(packages.Missing, match=r"^there is no apt-get here; install what Debian calls frob-tools"):
        packages.install()


def test_without_root_the_sentence_names_the_command(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(machine, "apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(packages.Missing, match="sudo apt-get install frob-tools"):
        packages.install()


def test_apts_own_words_are_told_when_it_fails(machine: Path) -> None:
    put(machine, "apt-get", "echo 'E: no such mirror' >&2; exit 100")
    with pytest.raises(packages.Missing, match="no such mirror"):
        packages.install()


def test_a_daemon_is_never_among_what_is_installed() -> None:
    installed = {*packages.PROGRAMS.values(), *packages.FILES.values()}
    assert not installed & {"bird2", "frr", "conntrackd"}
