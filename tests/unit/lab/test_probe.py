"""The prober's own arithmetic."""

from __future__ import annotations

import socket

import pytest

from lab import probe


def test_the_icmp_checksum_of_a_whole_message_is_zero() -> None:
    message = probe._echo_request(socket.AF_INET, 7)
    assert probe._checksum(message) == 0


@pytest.mark.parametrize("data", [b"", b"\x01", b"\xff" * 33, bytes(range(64))])
def test_checksums_fit_sixteen_bits(data: bytes) -> None:
    assert 0 <= probe._checksum(data) <= 0xFFFF


def test_a_probe_without_an_answer_for_a_second_is_lost_and_a_fresh_one_is_not() -> None:
    load = probe.Load(to="192.0.2.1", port=1)
    now_s = probe.time.monotonic()
    load.sent, load.sent_s = 3, {0: now_s - 5, 2: now_s}
    report = load.report()
    assert report["lost"] == 1
    assert report["lost_at_s"] == [0.0]
