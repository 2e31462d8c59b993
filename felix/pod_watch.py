"""What an ADD needs to know of its pod, from the agent's watches.

Called by `felix.cni_attach` through its PodLookup protocol.
"""

from __future__ import annotations

from felix.cni_request import PodInfo
from felix.watches import Watches

FOR_EVER_S = 3600.0
"""The caller bounds the wait by the request's deadline; this only bounds a caller who forgot."""


class PodWatch:
    """A PodLookup on watches."""

    def __init__(self, watches: Watches) -> None:
        self._watches = watches

    async def wait_pod(self, *, namespace: str, name: str, uid: str) -> PodInfo | None:
        """The pod once the watch shows it bound to this node; with this uid, if not ""."""
        pod = await self._watches.pod(f"{namespace}/{name}", uid=uid, within_s=FOR_EVER_S)
        if pod is None:
            return None
        home = self._watches.namespaces.get(namespace)
        return PodInfo(
            namespace=namespace,
            name=name,
            uid=pod.metadata.uid,
            annotations=pod.metadata.annotations,
            namespace_labels=home.metadata.labels if home is not None else {},
            namespace_annotations=home.metadata.annotations if home is not None else {},
        )
