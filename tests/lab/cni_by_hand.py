"""Runs one CNI ADD or DEL inside a light node, as its kubelet stand-in would: for tests that need the very moment.

    cni_by_hand.py add NAMESPACE POD UID     makes a network namespace, calls ADD, prints the sandbox as JSON
    cni_by_hand.py del SANDBOX               DEL, and the namespace goes

Called by tests/lab/world.py, in the node's namespaces.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run by path: the checkout is not on sys.path

from lab import runtime
from lab.kubelet_pod import CONF_DIRECTORY, PLUGINS
from lab.runtime import Attachment, ConfList


def _configuration() -> ConfList:
    found = runtime.find(CONF_DIRECTORY)
    if found is None:
        raise SystemExit("no CNI configuration is installed")
    return found


def add(namespace: str, pod: str, uid: str) -> None:
    """ADD in a namespace of its own; on failure the namespace goes and the plugin's words are the complaint."""
    container = secrets.token_hex(32)
    name = f"cni-{container[:32]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    sandbox: dict[str, Any] = {
        "namespace": namespace,
        "pod": pod,
        "uid": uid,
        "container_id": container,
        "netns": f"/run/netns/{name}",
    }
    try:
        result = runtime.add(_configuration(), Attachment(**sandbox), path=PLUGINS)
        print(json.dumps(sandbox | {"result": result, "answered_s": time.monotonic()}))
    except runtime.CniFailed as failed:
        runtime.delete(_configuration(), Attachment(**sandbox), path=PLUGINS, result=None)
        subprocess.run(["ip", "netns", "del", name], check=True)
        raise SystemExit(str(failed)) from None


def delete(text: str) -> None:
    """DEL of what `add` printed."""
    sandbox = json.loads(text)
    attachment = Attachment(**{key: sandbox[key] for key in ("container_id", "netns", "namespace", "pod", "uid")})
    runtime.delete(_configuration(), attachment, path=PLUGINS, result=sandbox["result"])
    subprocess.run(["ip", "netns", "del", Path(sandbox["netns"]).name], check=True)


if __name__ == "__main__":
    if sys.argv[1] == "add":
        add(*sys.argv[2:5])
    else:
        delete(sys.argv[2])
