"""ClusterInformation: one object, named `default`, written by the operator; calicoctl looks at it first.

It carries no calicoVersion: a calicoctl of any version then works, for it compares only what is there.
"""

from typing import ClassVar

from crds.meta import CalicoResource, Status, Wire


class ClusterInformationSpec(Wire, frozen=True, kw_only=True):
    cluster_guid: str = ""
    cluster_type: str = ""
    calico_version: str = ""
    datastore_ready: bool | None = None
    """False locks the datastore (a migration is under way): no ADD, no DEL, no claim. None counts as ready."""
    variant: str = ""


class ClusterInformation(CalicoResource, frozen=True, kw_only=True):
    kind: ClassVar[str] = "ClusterInformation"
    plural: ClassVar[str] = "clusterinformations"

    spec: ClusterInformationSpec = ClusterInformationSpec()
    status: Status | None = None
