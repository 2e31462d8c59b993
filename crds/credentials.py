"""Where the API server is and who we are: from a kubeconfig, or from the service account of the Pod we run in.

Theory: an agent lives for months while its token is replaced about once an hour (projected service account tokens).
So a token is never kept: `Token.current()` looks at the file's identity and reads it again when it has changed, and
the store asks once more after a 401. Certificates and CA are read once, as client-go does.

Understood of a kubeconfig: current-context, clusters (server, certificate-authority[-data], tls-server-name,
insecure-skip-tls-verify), users (client-certificate[-data], client-key[-data], token, tokenFile). exec plugins and
username/password are refused by name: an agent must not start programs to log in; `crds.kube_store` can.
Called by crds.http_store.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from crds.errors import BadObject

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Token:
    """A bearer token: fixed text, or the content of a file that others replace."""

    def __init__(self, text: str = "", *, file: Path | None = None) -> None:
        self._text = text
        self._file = file
        self._seen: tuple[int, int, int] | None = None

    def current(self) -> str:
        """The token now, "" for none. Costs one stat() with a file. An unreadable file keeps the last token."""
        if self._file is None:
            return self._text
        try:
            stat = self._file.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen != self._seen:
                self._text = self._file.read_text().strip()
                self._seen = seen
        except OSError:
            if not self._text:
                raise
        return self._text

    def read_again(self) -> bool:
        """After a 401: read the file whatever its stat says. True if the token is another one now."""
        before = self._text
        self._seen = None
        return self._file is not None and self.current() != before


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How to reach one API server. `ca`, `certificate` and `key` are PEM bytes; certificate and key may be empty."""

    server: str
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    token: Token = field(default_factory=Token)
    server_name: str = ""
    """What the server's certificate must be for, when that is not the host in `server`."""
    verify: ssl.VerifyMode = ssl.CERT_REQUIRED
    namespace: str = "default"

    def ssl_context(self) -> ssl.SSLContext | None:
        """None for plain http. Blocking for about a millisecond."""
        if not self.server.startswith("https://"):
            return None
        context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
        if self.verify is ssl.CERT_NONE:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            # OpenSSL's Python binding takes only files; this one is private and gone right after.
            with tempfile.NamedTemporaryFile() as pem:
                pem.write(self.certificate + b"\n" + self.key)
                pem.flush()
                context.load_cert_chain(pem.name)
        return context


def from_environment(env: Mapping[str, str] = os.environ) -> Credentials:
    """KUBECONFIG if set (first file of the list that exists), else the Pod's service account, else ~/.kube/config."""
    if listed := env.get("KUBECONFIG"):
        files = [Path(entry) for entry in listed.split(os.pathsep) if entry]
        existing = next((file for file in files if file.exists()), None)
        if existing is None:
            raise BadObject("KUBECONFIG", f"must name a file that exists, is {listed!r}")
        return from_kubeconfig(existing)
    if env.get("KUBERNETES_SERVICE_HOST"):
        return from_service_account(env)
    home = Path(env.get("HOME", "/root")) / ".kube" / "config"
    if home.exists():
        return from_kubeconfig(home)
    raise BadObject("KUBECONFIG", "must be set: there is neither a service account nor ~/.kube/config")


def from_service_account(env: Mapping[str, str], *, directory: Path = SERVICE_ACCOUNT) -> Credentials:
    host, port = env["KUBERNETES_SERVICE_HOST"], env.get("KUBERNETES_SERVICE_PORT", "443")
    namespace = directory / "namespace"
    return Credentials(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca=(directory / "ca.crt").read_bytes(),
        token=Token(file=directory / "token"),
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
    )


def from_kubeconfig(path: Path, *, context: str = "") -> Credentials:
    """The credentials of `context` (default: the file's current-context)."""
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise BadObject(str(path), f"must be YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(config, dict):
        raise BadObject(str(path), "must be a kubeconfig file")
    name = context or str(config.get("current-context") or "")
    chosen = _named(config, "contexts", "context", name)
    cluster = _named(config, "clusters", "cluster", str(chosen.get("cluster", "")))
    user = _named(config, "users", "user", str(chosen["user"])) if chosen.get("user") else {}
    for unsupported in ("exec", "auth-provider", "username"):
        if unsupported in user:
            raise BadObject(
                f"users[{chosen['user']}].user.{unsupported}", "must not be used here; give a token or cert"
            )
    if not cluster.get("server"):
        raise BadObject(f"clusters[{chosen.get('cluster')}].cluster.server", "must be the API server's URL")
    token_file = user.get("tokenFile")
    return Credentials(
        server=str(cluster["server"]).rstrip("/"),
        ca=_pem(cluster, "certificate-authority", base=path.parent),
        certificate=_pem(user, "client-certificate", base=path.parent),
        key=_pem(user, "client-key", base=path.parent),
        token=Token(file=path.parent / token_file) if token_file else Token(str(user.get("token", ""))),
        server_name=str(cluster.get("tls-server-name", "")),
        verify=ssl.CERT_NONE if cluster.get("insecure-skip-tls-verify") else ssl.CERT_REQUIRED,
        namespace=str(chosen.get("namespace", "default")),
    )


def _named(config: Mapping[str, Any], section: str, inner: str, name: str) -> dict[str, Any]:
    for entry in config.get(section) or ():
        if entry.get("name") == name:
            return dict(entry.get(inner) or {})
    raise BadObject(section, f"must have an entry named {name!r}")


def _pem(section: Mapping[str, Any], key: str, *, base: Path) -> bytes:
    """Inline data wins over a file, as in client-go; a relative file is relative to the kubeconfig."""
    if data := section.get(f"{key}-data"):
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error:
            raise BadObject(f"{key}-data", "must be base64") from None
    return (base / str(section[key])).read_bytes() if section.get(key) else b""
