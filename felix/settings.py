"""What `tortie-agent` is told on its command line, and how its log lines look.

Called by `felix.main`.
"""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from crds.values import NodeName

FENCE_MIN_S, FENCE_MAX_S = 3, 604800
"""Below, a slow answer of the API server would close it; a week is as good as for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that can be set; the API server is found by KUBECONFIG or the Pod's service account."""

    node: NodeName
    """Name of this node's Node object: `spec.nodeName` of the agent's Pod. Never guessed from the host's name."""
    run_dir: Path = Path("/run/tortie")
    """Sockets. Emptied by a reboot."""
    state_dir: Path = Path("/var/lib/tortie")
    """The address journal. Survives a reboot."""
    cni_conf_dir: Path = Path("/etc/cni/net.d")
    cni_bin_dir: Path = Path("/opt/cni/bin")
    cni_program: Path | None = None
    """The compiled shim to install; None: the one that came with this package, or was built beside it."""
    health_address: str = "127.0.0.1"
    health_port: int = 9099
    speaker_uid: int = 65534
    """Who besides root may connect as the speaker: the uid of tortie-speaker's container (`nobody`)."""
    fence_s: float = 3600.0
    """How long this node may give out addresses without the API server, in seconds. Its blocks can be given to others
    only later than that, so a longer time is paid when a node is lost."""
    log_level: str = "info"


def parse(argv: list[str] | None = None) -> Settings:
    """From arguments, then environment. Exits with one sentence when something is missing."""
    default = Settings(node=NodeName(""))
    parser = argparse.ArgumentParser(
        prog="tortie-agent",
        description="Programs this node's network: pods, addresses, routes. Needs NET_ADMIN and SYS_ADMIN.",
    )
    add = parser.add_argument
    add("--node", default=os.environ.get("NODE_NAME", ""), help="name of this Node (environment: NODE_NAME)")
    add("--run-dir", type=Path, default=default.run_dir, help="sockets (default %(default)s)")
    add("--state-dir", type=Path, default=default.state_dir, help="address journal (default %(default)s)")
    add("--cni-conf-dir", type=Path, default=default.cni_conf_dir, help="default %(default)s")
    add("--cni-bin-dir", type=Path, default=default.cni_bin_dir, help="default %(default)s")
    add("--cni-program", type=Path, default=None, help="the compiled CNI shim to install there")
    add("--health-address", default=default.health_address, help="default %(default)s")
    add("--health-port", type=int, default=default.health_port, help="/healthz /readyz /metrics (default %(default)s)")
    add("--speaker-uid", type=int, default=default.speaker_uid, help="who may speak BGP for us (default %(default)s)")
    add(
        "--fence-s",
        type=_fence,
        default=os.environ.get("TORTIE_FENCE_S", str(default.fence_s)),
        help="seconds to go on giving out addresses without the API server (environment: TORTIE_FENCE_S; default "
        f"{default.fence_s:g})",
    )
    add("--log-level", default=default.log_level, choices=("debug", "info", "warning", "error"))
    given = vars(parser.parse_args(argv))
    if not given["node"]:
        parser.error("--node (or NODE_NAME) must name this node's Node object, as spec.nodeName does")
    return Settings(**given)


def _fence(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not FENCE_MIN_S <= seconds <= FENCE_MAX_S:
        raise argparse.ArgumentTypeError(f"must be seconds in {FENCE_MIN_S}..{FENCE_MAX_S}, is {text!r}")
    return seconds


class _KeyValue(logging.Formatter):
    """`2026-01-01T12:00:00.123 level=info from=felix.agent message`, one event a line but for plans."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s level=%(levelname)s from=%(name)s %(message)s")


def set_up_logging(level: str) -> None:
    """To standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_KeyValue())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logging.addLevelName(number, logging.getLevelName(number).lower())
