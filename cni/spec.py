"""The Container Network Interface, 0.3.1 to 1.1.0, as values: what a runtime asks and what it may be answered.

Everything that comes in is checked here, and each fault is one sentence that names the field and a code of the
specification. Nothing here does anything: felix.cni_server acts, cni.wire carries.

Invariants: a CniError never repeats stdin (configurations may hold secrets). Addresses are `ipaddress` objects inside,
text only in results.
Source: https://www.cni.dev/docs/spec/ (1.1.0); `ipam` section as Calico's (assign_ipv4, ipv4_pools, …).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import Any

import msgspec

IPAddress = IPv4Address | IPv6Address

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]
MTU_MIN = 1280
"""IPv6's minimum; the kernel takes IPv6 away from a link with less."""
MTU_MAX = 65535


class Code(IntEnum):
    """Error codes of the specification, and ours from 100."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    INTERNAL = 100
    NO_ADDRESS = 101
    CHECK_FAILED = 102
    WRONG_NAMESPACE = 103


class CniError(Exception):
    """The answer is an error: code and one sentence."""

    def __init__(self, code: Code, msg: str) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg

    def encode(self, version: str = NEWEST) -> bytes:
        """As the runtime reads it on stdout."""
        return msgspec.json.encode({"cniVersion": version, "code": int(self.code), "msg": self.msg})


class Command(Enum):
    """CNI_COMMAND. VERSION is answered by the shim."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}


class IpamConf(msgspec.Struct, frozen=True, kw_only=True):
    """`ipam` of the network configuration. Booleans may be written as text, as Calico's are."""

    type: str = ""
    assign_ipv4: bool | str = True
    assign_ipv6: bool | str = False
    ipv4_pools: tuple[str, ...] = ()
    ipv6_pools: tuple[str, ...] = ()


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `cni.dev/valid-attachments`."""

    container_id: str = msgspec.field(name="containerID")
    ifname: str


class ResultInterface(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An interface of a result; `sandbox` "" is the host."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""


class ResultIp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address of a result; `interface` is an index into its interfaces."""

    address: str
    version: str = ""
    gateway: str = ""
    interface: int | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What an ADD answers. `routes` and `dns` are handed through from plugins before us."""

    interfaces: tuple[ResultInterface, ...] = ()
    ips: tuple[ResultIp, ...] = ()
    routes: tuple[dict[str, Any], ...] = ()
    dns: dict[str, Any] = {}


class NetConf(msgspec.Struct, frozen=True, kw_only=True):
    """The network configuration on stdin. Keys that Tortie does not know are other plugins' or the runtime's."""

    cni_version: str = msgspec.field(name="cniVersion", default="")
    name: str = ""
    type: str = ""
    mtu: int = 0
    ipam: IpamConf = IpamConf()
    runtime_config: dict[str, Any] = msgspec.field(name="runtimeConfig", default_factory=dict)
    prev_result: Result | None = msgspec.field(name="prevResult", default=None)
    valid_attachments: tuple[Attachment, ...] | msgspec.UnsetType | None = msgspec.field(
        name="cni.dev/valid-attachments", default=msgspec.UNSET
    )
    """Of a GC. None is a list with nothing in it: what libcni (written in Go) sends where a node has no pod left."""

    def attachments(self) -> tuple[Attachment, ...]:
        """What a GC must leave."""
        return self.valid_attachments if isinstance(self.valid_attachments, tuple) else ()

    def families(self) -> tuple[int, ...]:
        """The address families asked for."""
        wanted = ((4, self.ipam.assign_ipv4), (6, self.ipam.assign_ipv6))
        return tuple(version for version, flag in wanted if _truth(flag, f"ipam.assign_ipv{version}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CniCall:
    """One checked request. `netns_fd` belongs to whoever holds the call."""

    command: Command
    container_id: str
    ifname: str
    netns_fd: int | None
    netns_path: str
    args: Mapping[str, str]
    config: NetConf
    deadline_ms: int

    @property
    def namespace(self) -> str:
        """Of the pod; "" outside Kubernetes."""
        return self.args.get("K8S_POD_NAMESPACE", "")

    @property
    def pod(self) -> str:
        """Name of the pod; "" outside Kubernetes."""
        return self.args.get("K8S_POD_NAME", "")

    @property
    def pod_uid(self) -> str:
        """Of the pod, if the runtime says so."""
        return self.args.get("K8S_POD_UID", "")

    def fixed_addresses(self) -> tuple[IPAddress, ...]:
        """Of CNI_ARGS IP=, or capability `ips`."""
        asked = [text for text in self.args.get("IP", "").split(",") if text]
        listed = self.config.runtime_config.get("ips", [])
        if isinstance(listed, list):
            asked += [str(text) for text in listed]
        found = []
        for text in asked:
            try:
                found.append(ip_address(text.split("/")[0].strip()))
            except ValueError:
                raise CniError(Code.INVALID_ENVIRONMENT, f"{text[:60]!r} is not an IP address to ask for") from None
        if len({address.version for address in found}) < len(found):
            raise CniError(Code.INVALID_ENVIRONMENT, "more than one address of a family is asked for")
        return tuple(found)


def parse_config(raw: bytes) -> NetConf:
    """The configuration on stdin, checked as far as it stands for itself."""
    try:
        config = msgspec.json.decode(raw, type=NetConf)
    except msgspec.ValidationError as error:
        raise CniError(Code.INVALID_CONFIG, f"the network configuration is wrong: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise CniError(Code.DECODING_FAILURE, "the network configuration on stdin is not JSON") from None
    if config.cni_version not in VERSIONS:
        shown = config.cni_version[:20] or "nothing"
        raise CniError(Code.INCOMPATIBLE_VERSION, f"cniVersion must be one of {', '.join(VERSIONS)}, is {shown!r}")
    if not _NAME.fullmatch(config.name):
        raise CniError(Code.INVALID_CONFIG, f"name must be letters, digits, '.', '_', '-', is {config.name[:60]!r}")
    if config.mtu and not MTU_MIN <= config.mtu <= MTU_MAX:
        raise CniError(Code.INVALID_CONFIG, f"mtu must lie in {MTU_MIN}..{MTU_MAX}, is {config.mtu}")
    if not config.families():
        raise CniError(Code.INVALID_CONFIG, "ipam.assign_ipv4 and ipam.assign_ipv6 are both false")
    return config


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
_IFNAME = re.compile(r"[^/\s:]{1,15}")


def _truth(flag: bool | str, field: str) -> bool:  # noqa: FBT001 a wire value, not a switch
    if isinstance(flag, bool):
        return flag
    if flag.lower() in ("true", "false", ""):
        return flag.lower() == "true"
    raise CniError(Code.INVALID_CONFIG, f"{field} must be true or false, is {flag[:20]!r}")


def parse_args(text: str) -> dict[str, str]:
    """CNI_ARGS, `K=V;K=V`."""
    found: dict[str, str] = {}
    for part in text.split(";"):
        if not part:
            continue
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS must be KEY=VALUE;…, has {part[:40]!r}")
        found[key] = value
    return found


def parse_call(environment: Mapping[str, str], stdin: bytes, *, netns_fd: int | None, deadline_ms: int) -> CniCall:
    """Environment and stdin, checked. Raises CniError."""
    try:
        command = Command(environment.get("CNI_COMMAND", ""))
    except ValueError:
        shown = environment.get("CNI_COMMAND", "")[:20]
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_COMMAND must be a command of CNI, is {shown!r}") from None
    config = parse_config(stdin)
    since = _SINCE.get(command)
    if since is not None and VERSIONS.index(config.cni_version) < VERSIONS.index(since):
        raise CniError(Code.INCOMPATIBLE_VERSION, f"{command.value} needs cniVersion {since} or newer")
    container, ifname = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    if command in (Command.ADD, Command.DEL, Command.CHECK):
        if not _CONTAINER.fullmatch(container):
            raise CniError(
                Code.INVALID_ENVIRONMENT,
                "CNI_CONTAINERID must be 1 to 128 letters, digits, '.', '_', '-', beginning with a letter or digit",
            )
        if not _IFNAME.fullmatch(ifname) or ifname in (".", ".."):
            raise CniError(
                Code.INVALID_ENVIRONMENT, "CNI_IFNAME must be 1 to 15 characters without '/', ':' and blanks"
            )
    if command in (Command.ADD, Command.CHECK) and netns_fd is None:
        raise CniError(Code.INVALID_ENVIRONMENT, "CNI_NETNS must be the path of the pod's network namespace")
    if command is Command.GC and config.valid_attachments is msgspec.UNSET:
        raise CniError(Code.INVALID_CONFIG, "GC needs cni.dev/valid-attachments")
    return CniCall(
        command=command,
        container_id=container,
        ifname=ifname,
        netns_fd=netns_fd,
        netns_path=environment.get("CNI_NETNS", ""),
        # A DEL must go through whatever else the runtime says.
        args={} if command is Command.DEL else parse_args(environment.get("CNI_ARGS", "")),
        config=config,
        deadline_ms=deadline_ms,
    )


def own_addresses(result: Result, *, ifname: str) -> tuple[IPAddress, ...]:
    """The addresses that a previous result gives to interface `ifname` in the pod."""
    found = []
    for entry in result.ips:
        if entry.interface is None or not 0 <= entry.interface < len(result.interfaces):
            continue
        interface = result.interfaces[entry.interface]
        if interface.name == ifname and interface.sandbox:
            try:
                parsed: IPv4Interface | IPv6Interface = ip_interface(entry.address)
            except ValueError:
                raise CniError(
                    Code.INVALID_CONFIG, f"prevResult has the address {entry.address[:60]!r}, which is none"
                ) from None
            found.append(parsed.ip)
    return tuple(found)


def merged(previous: Result | None, ours: Result) -> Result:
    """Our result behind that of the plugins before us, its indexes moved on."""
    if previous is None:
        return ours
    shift = len(previous.interfaces)
    moved = tuple(
        msgspec.structs.replace(entry, interface=None if entry.interface is None else entry.interface + shift)
        for entry in ours.ips
    )
    return Result(
        interfaces=(*previous.interfaces, *ours.interfaces),
        ips=(*previous.ips, *moved),
        routes=(*previous.routes, *ours.routes),
        dns=previous.dns,
    )


def encode_result(result: Result, *, version: str) -> bytes:
    """As the runtime of that version reads it: `version` of an address until 0.4.0, `mtu` from 1.1.0."""
    if version in ("0.3.1", "0.4.0"):
        ips = tuple(
            msgspec.structs.replace(entry, version=str(ip_interface(entry.address).version)) for entry in result.ips
        )
    else:
        ips = tuple(msgspec.structs.replace(entry, version="") for entry in result.ips)
    interfaces = result.interfaces
    if version != "1.1.0":
        interfaces = tuple(msgspec.structs.replace(interface, mtu=0) for interface in interfaces)
    whole = msgspec.structs.replace(result, interfaces=interfaces, ips=ips)
    fields: dict[str, Any] = {"cniVersion": version, "interfaces": whole.interfaces, "ips": whole.ips}
    if whole.routes:
        fields["routes"] = whole.routes
    fields["dns"] = whole.dns
    return msgspec.json.encode(fields)
