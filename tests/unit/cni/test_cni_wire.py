"""The frames between shim and agent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec import CniError, Code
from cni.wire import BadFrame, RequestDecoder, decode_answer, encode_answer, encode_error, encode_request

RAW = encode_request({"CNI_COMMAND": "DEL", "CNI_ARGS": "A=b=c"}, b'{"name":"net"}', deadline_ms=7)


@pytest.mark.parametrize("cut", range(1, len(RAW)))
def test_the_decoder_does_not_care_how_bytes_are_cut(cut: int) -> None:
    decoder = RequestDecoder()
    assert decoder.feed(RAW[:cut]) is None
    request = decoder.feed(RAW[cut:])
    assert request is not None
    assert request.environment == {"CNI_COMMAND": "DEL", "CNI_ARGS": "A=b=c"}
    assert request.stdin == b'{"name":"net"}'
    assert request.deadline_ms == 7


def test_bytes_behind_a_frame_are_refused() -> None:
    with pytest.raises(BadFrame):
        RequestDecoder().feed(RAW + b"x")


@given(st.binary(min_size=1, max_size=64))
def test_what_is_no_frame_is_refused_or_waited_for(data: bytes) -> None:
    decoder = RequestDecoder()
    try:
        assert decoder.feed(data) is None or data.startswith(b"TCN1")
    except BadFrame:
        assert not RAW.startswith(data)


def test_answers_carry_status_and_text() -> None:
    assert decode_answer(encode_answer(b"{}")) == (0, b"{}")
    status, text = decode_answer(encode_error(CniError(Code.TRY_AGAIN_LATER, "later"), version="1.0.0"))
    assert (status, text) == (1, b'{"cniVersion":"1.0.0","code":11,"msg":"later"}')
    with pytest.raises(BadFrame):
        decode_answer(encode_answer(b"{}")[:-1])
