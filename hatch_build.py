"""Puts the compiled CNI program into the wheel, as `cni/tortie-cni`.

The program is static and needs nothing of the host, but it is machine code: a wheel with it is made for one
architecture and says so in its tag. An editable install carries none; `make setup` compiles it beside the checkout.
"""

from __future__ import annotations

import platform
import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROGRAM = "cni/tortie-cni"


class CniProgram(BuildHookInterface[Any]):
    """hatchling's hook."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, include, tag. `version` is "editable" for an editable install."""
        if version == "editable":
            return
        root = Path(self.root)
        build = runpy.run_path(str(root / "cni" / "build.py"))["build"]
        program: Path = build(root / "build" / f"tortie-cni.{platform.machine()}")
        build_data["force_include"][str(program)] = PROGRAM
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"
