"""Kubeconfig files: how a client finds the API server and who it is.

What for: every client of the lab and of the tests (kubectl, agent, operator, a person) gets one file.

Theory: certificates are embedded, so a file may be read in another mount namespace; a token is named by its *file*,
so it can be renewed under a running client, which reads it again. JSON is YAML, and needs no library here.

Invariants: files are replaced atomically and are readable by root alone.

Called by: controlplane.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from lab.cp_certificates import Pair


def with_certificate(path: Path, *, url: str, ca: Path, client: Pair, user: str) -> Path:
    """Write a kubeconfig whose user is a client certificate."""
    credentials = {"client-certificate-data": _data(client.certificate), "client-key-data": _data(client.key)}
    return _write(path, url=url, ca=ca, user=user, credentials=credentials)


def with_token_file(path: Path, *, url: str, ca: Path, token_file: Path, user: str) -> Path:
    """Write a kubeconfig whose user is whoever the token in `token_file` says, now and after a renewal."""
    return _write(path, url=url, ca=ca, user=user, credentials={"tokenFile": str(token_file)})


def write_private(path: Path, text: str) -> None:
    """Replace `path` atomically by a file that its owner alone may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


def _write(path: Path, *, url: str, ca: Path, user: str, credentials: dict[str, str]) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tortie", "cluster": {"server": url, "certificate-authority-data": _data(ca)}}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "tortie", "context": {"cluster": "tortie", "user": user}}],
        "current-context": "tortie",
    }
    write_private(path, json.dumps(content, indent=2) + "\n")
    return path


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
