"""Whole fabrics, one of each kind for a test session.

`lab` and `dual_lab` cost some ten seconds once. Tests share them: make pods of your own with names of your own, and
leave the fabric as it was (`fabric_as_it_was` heals cables and starts what was killed).

While a test is being written, `TORTIE_TEST_LAB=NAME` runs it on a default lab that is up already, and leaves that up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.fabric import Lab


def _name(kind: str) -> str:
    """A name of this process, so that a test session never meets the lab that a person has up, or another session."""
    return f"t{kind}{os.getpid()}"


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two racks of two nodes, a BIRD and an FRR top-of-rack router, one spine. See `TORTIE_TEST_LAB` above."""
    if standing := os.environ.get("TORTIE_TEST_LAB"):
        yield Lab.attach(standing)
        return
    with Lab.up("default", name=_name("a")) as up:
        yield up


@pytest.fixture(scope="session")
def dual_lab() -> Iterator[Lab]:
    """Two nodes with a link to each of two routers."""
    with Lab.up("dual-tor", name=_name("b")) as up:
        yield up
