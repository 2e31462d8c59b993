"""What a control plane is, as a value, and the command lines that follow from it.

What for: the flags of etcd and kube-apiserver in one place, each with its reason.

Theory: there is no controller manager and no scheduler: pods say their node themselves, namespaces and owners' children
are not collected, and nobody makes the ServiceAccount `default` of a namespace. So admission by ServiceAccount,
which insists on that account in every Pod, is off; everything else is as in a cluster set up by kubeadm.

Invariants: pure.

Called by: controlplane.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

import msgspec

from lab.cp_certificates import Authority
from lab.cp_process import Lifetime

ISSUER = "https://kubernetes.default.svc.cluster.local"
SOCKET_PATH_LIMIT = 107
"""sockaddr_un.sun_path without its NUL."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a control plane is; kept as `settings.json`, so that a later process finds it."""

    netns: str = ""
    """Network namespace of the API server; "" is the machine's."""
    address: str = "127.0.0.1"
    """Where it listens, and what it tells the cluster as its address."""
    port: int = 0
    """0: a free one on the machine, 6443 in a namespace."""
    door_port: int = 0
    """The port on the machine's loopback that leads to it; 0: a free one. Only with `netns`."""
    service_cidrs: tuple[str, ...] = ("10.96.0.0/16", "fd00:10:96::/112")
    """`--service-cluster-ip-range`: one, or two of different families."""
    names: tuple[str, ...] = ()
    """More names and addresses for its certificate."""
    lifetime: Lifetime = Lifetime.PARENT
    """Whether etcd and API server end with the process that started them."""
    audit: str = ""
    """An audit level (`Metadata`, `Request`); the log is then `audit.log`. "" is off."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.address).is_loopback

    def certificate_names(self) -> tuple[str, ...]:
        """Every name and address under which a client may know the API server."""
        services = [str(ipaddress.ip_network(cidr)[1]) for cidr in self.service_cidrs]
        cluster = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", ISSUER.removeprefix("https://")]
        return tuple(dict.fromkeys(["localhost", "127.0.0.1", "::1", self.address, *services, *cluster, *self.names]))


def etcd(state: Path) -> list[str]:
    """Flags of an etcd of one, reached by a Unix socket."""
    client = etcd_socket(state)
    if len(str(client)) > SOCKET_PATH_LIMIT:
        raise ValueError(f"{client}: longer than the {SOCKET_PATH_LIMIT} characters that a socket's path may have")
    # Advertised addresses must look like TCP ones; with one member nobody ever uses them.
    return [
        f"--data-dir={state / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls=unix://{client}",
        "--advertise-client-urls=http://localhost:2379",
        f"--listen-peer-urls=unix://{state / 'peer.sock'}",
        "--initial-advertise-peer-urls=http://localhost:2380",
        "--initial-cluster=default=http://localhost:2380",
        "--log-level=warn",
    ]


def etcd_socket(state: Path) -> Path:
    """Where etcd listens."""
    return state / "etcd.sock"


def apiserver(state: Path, settings: Settings, authority: Authority) -> list[str]:
    """Flags of kube-apiserver. Certificates that do not exist yet are made."""
    serving = authority.server("apiserver", names=settings.certificate_names())
    kubelet = authority.client("apiserver-to-kubelet", user="kube-apiserver", groups=("system:masters",))
    accounts = authority.signing_key("service-accounts")
    flags = [
        f"--etcd-servers=unix://{etcd_socket(state)}",
        f"--bind-address={settings.address}",
        f"--advertise-address={settings.address}",
        f"--secure-port={settings.port}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority.pair.certificate}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={accounts.certificate}",
        f"--service-account-signing-key-file={accounts.key}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--disable-admission-plugins=ServiceAccount",
        f"--service-cluster-ip-range={','.join(settings.service_cidrs)}",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={kubelet.certificate}",
        f"--kubelet-client-key={kubelet.key}",
        # Else `kubectl logs` and `exec` look a node's name up in DNS.
        "--kubelet-preferred-address-types=InternalIP",
        # Default 60 s in which a stopping server waits for watches; they are re-opened by every client.
        "--shutdown-watch-termination-grace-period=0s",
        f"--cert-dir={state / 'pki'}",
    ]
    if settings.loopback:
        # The `kubernetes` Service may not have a loopback endpoint; without this it complains for ever.
        flags.append("--endpoint-reconciler-type=none")
    if settings.audit:
        flags += [f"--audit-policy-file={state / 'audit-policy.json'}", f"--audit-log-path={state / 'audit.log'}"]
    return flags


def audit_policy(settings: Settings) -> str:
    """The policy file: one level for everything."""
    rules = [{"level": settings.audit, "omitStages": ["RequestReceived"]}]
    return msgspec.json.encode({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}).decode()
