"""What the agent can be told, and what it says of nonsense."""

from __future__ import annotations

import pytest

from felix.settings import parse
from ipam.fence import FenceTimes


def test_the_fence_is_an_hour_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORTIE_FENCE_S", raising=False)
    assert parse(["--node", "n1"]).fence_s == 3600.0
    assert parse(["--node", "n1", "--fence-s", "90"]).fence_s == 90.0


def test_agent_and_operator_read_the_same_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORTIE_FENCE_S", "120")
    assert parse(["--node", "n1"]).fence_s == 120.0


@pytest.mark.parametrize("text", ["0", "2", "-5", "soon", "nan", "1e9"])
def test_a_fence_that_makes_no_sense_is_refused_in_a_sentence(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--node", "n1", f"--fence-s={text}"])
    assert f"must be seconds in 3..604800, is '{text}'" in capsys.readouterr().err


@pytest.mark.parametrize("open_s", [3.0, 20.0, 3600.0])
def test_a_short_fence_is_renewed_often_enough(open_s: float) -> None:
    times = FenceTimes.lasting(open_s)
    assert times.open_s == open_s
    assert times.renew_s * 2 < open_s
