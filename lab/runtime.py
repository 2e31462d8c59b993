"""Runs a CNI configuration list as a container runtime does (libcni's part of containerd and CRI-O).

What for: the kubelet stand-in's hands. Tortie's CNI binary must see the environment, the standard input and the
order of calls that a real runtime gives it.

Theory (CNI specification 1.1.0, section 4): plugins run in order for ADD, each gets the result of the one before as
`prevResult`; for DEL in reverse, all with the final result of the ADD; the list's `name` and `cniVersion` are put
into each plugin's configuration, and what the runtime knows (`portMappings`) into `runtimeConfig` where the plugin
says that it is capable of it. STATUS and GC exist from 1.1.0 on.

Invariants: no state here; the caller keeps the result. A plugin's error object becomes `CniFailed` unchanged.

Called by: kubelet_pod, kubelet, tests.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

CNI_TIMEOUT_S = 120.0
TRY_AGAIN_LATER = 11
"""CNI error code for "nothing is wrong, ask again"."""


class CniFailed(Exception):
    """A plugin answered with an error object, or died without one."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(f"CNI code {code}: {message}" + (f" ({details})" if details else ""))
        self.code = code
        self.message = message
        self.details = details


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfList:
    """A parsed `*.conflist`."""

    name: str
    version: str
    plugins: tuple[Json, ...]

    @property
    def speaks_status(self) -> bool:
        """Whether STATUS and GC may be asked (CNI 1.1.0)."""
        return tuple(int(part) for part in self.version.split(".")[:2]) >= (1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One interface of one sandbox. `netns` is '' when the namespace is gone."""

    container_id: str
    netns: str
    namespace: str
    pod: str
    uid: str
    ifname: str = "eth0"
    port_mappings: tuple[Json, ...] = field(default=())


def find(directory: Path) -> ConfList | None:
    """The configuration that a runtime would take: the first in the directory by name; None when there is none."""
    for path in sorted(directory.glob("*.conf*")) if directory.is_dir() else ():
        if path.suffix in {".conflist", ".conf"}:
            return parse(path.read_text())
    return None


def parse(text: str) -> ConfList:
    """A conflist, or a single plugin's conf, which runtimes take as a list of one."""
    raw = json.loads(text)
    plugins = raw.get("plugins", [raw])
    return ConfList(name=raw["name"], version=raw.get("cniVersion", "0.2.0"), plugins=tuple(plugins))


def add(conf: ConfList, attachment: Attachment, *, path: Path) -> Json:
    """ADD through all plugins; the last result. On failure the caller must `delete`, as a runtime does."""
    result: Json | None = None
    for plugin in conf.plugins:
        result = _run("ADD", conf, plugin, attachment, path=path, previous=result)
    return result or {}


def delete(conf: ConfList, attachment: Attachment, *, path: Path, result: Json | None) -> None:
    """DEL through all plugins in reverse; stops at the first that fails, for the caller to try again."""
    for plugin in reversed(conf.plugins):
        _run("DEL", conf, plugin, attachment, path=path, previous=result)


def check(conf: ConfList, attachment: Attachment, *, path: Path, result: Json) -> None:
    """CHECK through all plugins; CniFailed when something is not as ADD left it."""
    for plugin in conf.plugins:
        _run("CHECK", conf, plugin, attachment, path=path, previous=result)


def status(conf: ConfList, *, path: Path) -> None:
    """STATUS of all plugins; CniFailed when one cannot serve ADD now."""
    for plugin in conf.plugins:
        _run("STATUS", conf, plugin, None, path=path)


def collect_garbage(conf: ConfList, valid: list[Attachment], *, path: Path) -> None:
    """GC: everything but `valid` may be freed by the plugins."""
    attachments = [{"containerID": a.container_id, "ifname": a.ifname} for a in valid]
    for plugin in conf.plugins:
        _run("GC", conf, {**plugin, "cni.dev/valid-attachments": attachments}, None, path=path)


def environment(command: str, attachment: Attachment | None, *, path: Path) -> dict[str, str]:
    """The CNI_* variables of one call."""
    env = {"CNI_COMMAND": command, "CNI_PATH": str(path), "PATH": os.environ.get("PATH", "")}
    if attachment is None:
        return env
    env |= {
        "CNI_CONTAINERID": attachment.container_id,
        "CNI_IFNAME": attachment.ifname,
        "CNI_ARGS": ";".join(
            [
                "IgnoreUnknown=1",
                f"K8S_POD_NAMESPACE={attachment.namespace}",
                f"K8S_POD_NAME={attachment.pod}",
                f"K8S_POD_INFRA_CONTAINER_ID={attachment.container_id}",
                f"K8S_POD_UID={attachment.uid}",
            ]
        ),
    }
    return env | ({"CNI_NETNS": attachment.netns} if attachment.netns else {})


def standard_input(conf: ConfList, plugin: Json, attachment: Attachment | None, previous: Json | None) -> Json:
    """The configuration that one plugin reads."""
    given = {**plugin, "name": conf.name, "cniVersion": conf.version}
    capable = given.pop("capabilities", {})
    if attachment is not None and capable.get("portMappings") and attachment.port_mappings:
        given["runtimeConfig"] = {"portMappings": list(attachment.port_mappings)}
    return given | ({"prevResult": previous} if previous is not None else {})


def _run(
    command: str,
    conf: ConfList,
    plugin: Json,
    attachment: Attachment | None,
    *,
    path: Path,
    previous: Json | None = None,
) -> Json:
    binary = path / plugin["type"]
    try:
        done = subprocess.run(
            [binary],
            input=json.dumps(standard_input(conf, plugin, attachment, previous)).encode(),
            env=environment(command, attachment, path=path),
            capture_output=True,
            timeout=CNI_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise CniFailed(TRY_AGAIN_LATER, f"{binary} is not there") from error
    except subprocess.TimeoutExpired as error:
        raise CniFailed(TRY_AGAIN_LATER, f"{binary} {command} took over {CNI_TIMEOUT_S:.0f} s") from error
    answer = _json(done.stdout)
    if done.returncode != 0:
        message = answer.get("msg") or done.stderr.decode(errors="replace").strip() or f"exit {done.returncode}"
        raise CniFailed(int(answer.get("code", 999)), str(message), str(answer.get("details", "")))
    return answer


def _json(data: bytes) -> Json:
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
