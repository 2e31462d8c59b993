"""A synchronous store on the `kubernetes` package: for the command line, the lab and tests.

Theory: what a person's kubeconfig can hold (exec plugins, cloud logins, proxies, several contexts) is client-go's
business, and the `kubernetes` package has it; speed does not matter here. Only its configuration and its HTTP client
are used: bodies go through `crds.codec`, so the objects and the exceptions are the same as everywhere in Tortie.

Invariants: the same verbs, arguments and exceptions as `crds.store.Store`, without async. This is the only module that
imports `kubernetes`. Called by ctl, lab and tests; never by agent or operator.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import kubernetes
import msgspec
import urllib3

from crds.codec import decode, decode_list, delete_options, to_wire
from crds.errors import BadObject, Gone
from crds.http_watch import WatchDecoder, status_error
from crds.meta import Resource
from crds.store import Listing, Unreadable, WatchEvent, versioned

R = TypeVar("R", bound=Resource)

CALL_S = 30.0
CONNECT_S = 5.0
WATCH_ASK_S = 300
WATCH_SILENCE_S = 120.0
PAGE = 500


class KubeStore:
    def __init__(self, *, kubeconfig: Path | None = None, context: str = "") -> None:
        """`kubeconfig` None: KUBECONFIG, else ~/.kube/config, else the Pod's service account."""
        configuration = kubernetes.client.Configuration()
        try:
            kubernetes.config.load_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig) if kubeconfig else None,
                context=context or None,
                client_configuration=configuration,
            )
        except (kubernetes.config.ConfigException, OSError) as error:
            raise BadObject("kubeconfig", str(error).strip() or "cannot be read") from None
        self._configuration = configuration
        self._client = kubernetes.client.ApiClient(configuration)

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._configuration.host)

    def get(self, kind: type[R], name: str, *, namespace: str = "") -> R:
        return decode(kind, self._call("GET", kind.path(name, namespace=namespace)))

    def list(self, kind: type[R], *, namespace: str = "", labels: str = "", fields: str = "") -> Listing[R]:
        query = _query(labels, fields)
        try:
            return self._pages(kind, namespace, {**query, "limit": str(PAGE)})
        except Gone:
            return self._pages(kind, namespace, query)

    def create(self, obj: R) -> R:
        path = obj.path(namespace=obj.metadata.namespace)
        return decode(type(obj), self._call("POST", path, body=to_wire(obj)))

    def replace(self, obj: R) -> R:
        return self._put(obj, "")

    def replace_status(self, obj: R) -> R:
        return self._put(obj, "status")

    def patch(
        self, kind: type[R], name: str, patch: Mapping[str, object], *, namespace: str = "", subresource: str = ""
    ) -> R:
        path = kind.path(name, namespace=namespace, subresource=subresource)
        return decode(kind, self._call("PATCH", path, body=dict(patch), content_type="application/merge-patch+json"))

    def delete(
        self,
        kind: type[R],
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        resource_version: str = "",
        grace_period_s: int | None = None,
    ) -> None:
        options = delete_options(uid=uid, resource_version=resource_version, grace_period_s=grace_period_s)
        self._call("DELETE", kind.path(name, namespace=namespace), body=options)

    def watch(
        self, kind: type[R], *, resource_version: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> Iterator[WatchEvent[R]]:
        """Blocks between events; close the iterator to end it."""
        query = {
            **_query(labels, fields),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_ASK_S),
        }
        answer = self._answer("GET", kind.path(namespace=namespace), query=query, read_s=WATCH_SILENCE_S)
        decoder = WatchDecoder(kind)
        try:
            while chunk := answer.read1():
                yield from decoder.feed(chunk)
        except urllib3.exceptions.TimeoutError as error:
            raise TimeoutError(f"the watch of {kind.plural} is silent") from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
            raise ConnectionError(f"the watch of {kind.plural} broke: {error}") from error
        finally:
            answer.close()

    def request(self, method: str, path: str, *, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Any request, as JSON values: for kinds and fields that Tortie has no struct for. Raises ApiError."""
        answer = msgspec.json.decode(self._call(method, path, body=body) or b"{}")
        return dict(answer)

    def _pages(self, kind: type[R], namespace: str, query: dict[str, str]) -> Listing[R]:
        found: list[R] = []
        bad: list[Unreadable] = []
        while True:
            page, unreadable = decode_list(kind, self._call("GET", kind.path(namespace=namespace), query=query))
            found += page.items
            bad += [Unreadable(key=key, problem=problem) for key, problem in unreadable]
            if not page.metadata.continue_:
                return Listing(tuple(found), page.metadata.resource_version, tuple(bad))
            query = {**query, "continue": page.metadata.continue_}

    def _put(self, obj: R, subresource: str) -> R:
        versioned(obj)
        path = obj.path(obj.name, namespace=obj.metadata.namespace, subresource=subresource)
        return decode(type(obj), self._call("PUT", path, body=to_wire(obj)))

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        answer = self._answer(method, path, query=query, body=body, content_type=content_type, read_s=CALL_S)
        return bytes(answer.data)

    def _answer(
        self,
        method: str,
        path: str,
        *,
        read_s: float,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """A urllib3 response whose status is a success; a refusal raises."""
        headers: dict[str, str] = {"Accept": "application/json", "Content-Type": content_type}
        # Asked anew each time: this is what renews an exec plugin's token.
        if token := self._configuration.auth_settings().get("BearerToken"):
            headers["Authorization"] = str(token["value"])
        url = self.server + path + (f"{'&' if '?' in path else '?'}{urlencode(query)}" if query else "")
        pool = self._client.rest_client.pool_manager
        try:
            answer = pool.request(
                method,
                url,
                body=msgspec.json.encode(body) if body is not None else None,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_S, read=read_s),
                preload_content=False,
                retries=False,
            )
            if answer.status >= 300:
                raise status_error(answer.read(), status=answer.status)
        except urllib3.exceptions.TimeoutError as error:
            raise TimeoutError(f"no answer from the API server at {self.server}") from error
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"the API server at {self.server} cannot be asked: {error}") from error
        return answer


def _query(labels: str, fields: str) -> dict[str, str]:
    wanted = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in wanted.items() if value}
