"""What a runtime is told when the agent itself fails: always a sentence, never silence."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from cni.spec import CniCall, Code
from cni.wire import decode_answer, encode_request
from felix.cni_attach import Attachments
from felix.cni_server import CniServer

pytestmark = pytest.mark.root
CONFIG = b'{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"tortie"}'


class Broken(Attachments):
    """Attachments of which nothing works."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def run(self, call: CniCall) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(16, "Device or resource busy"), "Device or resource busy"),
        (KeyError("a secret"), "KeyError"),
    ],
)
async def test_an_unexpected_failure_is_answered_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, words: str
) -> None:
    server = CniServer(Broken(error), run_dir=tmp_path)
    await server.start()
    try:
        reader, writer = await asyncio.open_unix_connection(str(server.path))
        request = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": ""}
        with caplog.at_level(logging.ERROR):
            writer.write(encode_request(request, CONFIG))
            status, text = decode_answer(await reader.read())
    finally:
        await server.stop()
    answer = json.loads(text)
    assert (status, answer["code"], answer["cniVersion"]) == (1, Code.INTERNAL, "1.0.0")
    assert words in answer["msg"]
    assert "a secret" not in answer["msg"]
    assert "Traceback" in caplog.text, "somebody must be able to find out why"
