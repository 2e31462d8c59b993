"""What a person reads when the way to the cluster is wrong."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from ctl.main import app


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["--kubeconfig", str(tmp_path / "nope"), "node", "status"])
    assert answer.exit_code == 1
    assert f"--kubeconfig: there is no file '{tmp_path / 'nope'}'" in answer.output
