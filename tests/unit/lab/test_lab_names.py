"""What a lab may be called. `down` empties a directory of that name: a bad one is refused before anything ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab import builder, fabric, main
from lab.fabric import Lab
from lab.topology import BadTopology


@pytest.fixture
def somebody_elses_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab of another person, in a directory that stands for /run/tortie-lab."""
    monkeypatch.setattr(fabric, "RUN", tmp_path / "run")
    monkeypatch.setattr("os.geteuid", lambda: 0)  # nothing here gets as far as needing root
    monkeypatch.setattr(builder, "NETNS_DIRECTORY", tmp_path / "netns")
    note = tmp_path / "run" / "other" / "topology.json"
    note.parent.mkdir(parents=True)
    note.write_text("{}")
    return note


@pytest.mark.parametrize("name", ["", ".", "..", "../run", "other/nodes", "/", "Lab", "a-b", "lab\n", "x" * 17])
def test_no_lab_is_ended_by_a_name_that_no_lab_can_have(somebody_elses_lab: Path, name: str) -> None:
    with pytest.raises(BadTopology, match="allowed: a letter"):
        Lab.remove(name)
    with pytest.raises(BadTopology, match="allowed: a letter"):
        Lab.attach(name)
    assert somebody_elses_lab.exists()


def test_taking_one_lab_down_leaves_another_as_it_is(somebody_elses_lab: Path) -> None:
    (fabric.RUN / "mine").mkdir()
    Lab.remove("mine")
    assert not (fabric.RUN / "mine").exists()
    assert somebody_elses_lab.exists()


@pytest.mark.parametrize("command", [["down"], ["status"], ["ping"], ["cut", "spine", "tor1"]])
def test_every_command_says_what_a_name_may_be(somebody_elses_lab: Path, command: list[str]) -> None:
    answer = CliRunner().invoke(main.app, [*command, "--name", ""])
    assert answer.exit_code == 1
    assert "allowed: a letter" in " ".join(answer.output.split())
    assert somebody_elses_lab.exists()
