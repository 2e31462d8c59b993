"""A small client of the Kubernetes API for the lab: plain dicts, standard library, synchronous.

What for: the kubelet stand-in plays a foreign program, so it must not share Tortie's own client: an error there
would hide itself. It also starts in a tenth of the time. The lab's own tools use it too.

Theory: one HTTPS connection per thread, kept open; a request on a connection that the server had closed meanwhile is
sent once more. A watch is a connection of its own. TCP keepalives find a dead path in a few seconds, so that a cut
link does not silence a watch until its timeout.

Invariants: every refusal is an `ApiRefused` with status, reason and message.

Called by: kubelet and its parts, fabric, pods, main, tests.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

Json = dict[str, Any]

REQUEST_TIMEOUT_S = 10.0
WATCH_SILENCE_S = 120.0
"""A watch that says nothing for so long, not even a bookmark (one a minute), is dead."""


class ApiRefused(Exception):
    """The API server said no."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Api:
    """A kubeconfig's current context as get, post, put, patch, delete and watch."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        self._url = urlsplit(cluster["server"])
        self._tls = _tls(cluster, user)
        self._headers = {"Accept": "application/json"}
        token = user.get("token") or (Path(user["tokenFile"]).read_text().strip() if user.get("tokenFile") else "")
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._local = threading.local()

    def get(self, path: str, **query: str) -> Json:
        """Read an object or a list."""
        return self._request("GET", path, query=query)

    def post(self, path: str, body: Json) -> Json:
        """Create."""
        return self._request("POST", path, body=body)

    def put(self, path: str, body: Json) -> Json:
        """Replace."""
        return self._request("PUT", path, body=body)

    def patch(self, path: str, body: Json) -> Json:
        """JSON merge patch."""
        return self._request("PATCH", path, body=body, content="application/merge-patch+json")

    def delete(self, path: str, body: Json | None = None) -> Json:
        """Delete; the body holds DeleteOptions."""
        return self._request("DELETE", path, body=body or {})

    def watch(self, path: str, **query: str) -> Iterator[Json]:
        """Watch events from `resourceVersion` on; ends when the server ends it, OSError when the path died."""
        connection = self._connect(WATCH_SILENCE_S)
        try:
            target = f"{path}?{urlencode({'watch': 'true', 'allowWatchBookmarks': 'true', **query})}"
            connection.request("GET", target, headers=self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response.status, response.read())
            while line := response.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content: str = "application/json",
    ) -> Json:
        target = f"{path}?{urlencode(query)}" if query else path
        payload = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({"Content-Type": content} if payload else {})
        for attempt in (1, 2):
            connection = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._connect(REQUEST_TIMEOUT_S)
            try:
                connection.request(method, target, body=payload, headers=headers)
                response = connection.getresponse()
                data = response.read()
                break
            except (OSError, http.client.HTTPException):
                connection.close()
                self._local.connection = None
                if attempt == 2:
                    raise
        if response.status >= 300:
            raise _refusal(response.status, data)
        answer: Json = json.loads(data)
        return answer

    def _connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        host, port = self._url.hostname or "", self._url.port or 443
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)
        connection.connect()
        sock = connection.sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 3), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 4)):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 7000)
        return connection


def _refusal(status: int, data: bytes) -> ApiRefused:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = {"message": data.decode(errors="replace")}
    return ApiRefused(status, str(answer.get("reason", "")), str(answer.get("message", "")))


def _named(entries: list[Json], name: str) -> Json:
    return next(entry for entry in entries if entry["name"] == name)


def _tls(cluster: Json, user: Json) -> ssl.SSLContext:
    ca = cluster.get("certificate-authority-data")
    context = ssl.create_default_context(
        cafile=cluster.get("certificate-authority"), cadata=base64.b64decode(ca).decode() if ca else None
    )
    if "client-certificate" in user:
        context.load_cert_chain(user["client-certificate"], user["client-key"])
    elif "client-certificate-data" in user:
        with tempfile.NamedTemporaryFile() as both:  # ssl wants a file; it is 0600 and gone at once
            both.write(base64.b64decode(user["client-certificate-data"]) + b"\n")
            both.write(base64.b64decode(user["client-key-data"]))
            both.flush()
            context.load_cert_chain(both.name)
    return context
