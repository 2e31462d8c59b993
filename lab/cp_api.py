"""The three requests that a control plane's keeper makes to its own API server, with nothing but the standard library.

What for: to know when it is ready and to get tokens, without a kubectl process (100 ms each) and without a client
library whose own behaviour one would then have to think of.

Invariants: one connection a request; no retry here; a refused connection is an `OSError`, never an answer.

Called by: controlplane.
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lab.cp_certificates import Pair

REQUEST_TIMEOUT_S = 10.0


class TokenRefused(RuntimeError):
    """The API server gave no token; the text is its answer."""


@dataclass(frozen=True, slots=True)
class AdminClient:
    """An administrator with a client certificate."""

    url: str
    ca: Path
    certificate: Pair

    def request(self, method: str, path: str, *, body: object = None) -> tuple[int, str]:
        """One request; the status and the text of the answer."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.certificate.certificate, self.certificate.key)
        where = urlsplit(self.url)
        connection = http.client.HTTPSConnection(
            where.hostname or "", where.port, context=context, timeout=REQUEST_TIMEOUT_S
        )
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, body=text, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def not_ready_because(self) -> str:
        """ "" when `/readyz` says yes, else why not."""
        try:
            status, text = self.request("GET", "/readyz")
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__
        return "" if status == http.client.OK else text

    def token(self, namespace: str, account: str, *, valid_s: int) -> str:
        """A token for a ServiceAccount, by TokenRequest."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": valid_s},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        status, text = self.request("POST", path, body=body)
        if status != http.client.CREATED:
            raise TokenRefused(f"no token for ServiceAccount {namespace}/{account}: {text}")
        return str(json.loads(text)["status"]["token"])
