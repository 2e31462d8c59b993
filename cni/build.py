"""Compiles shim.c into a static program: `python -m cni.build [output]`.

The flags make the same bytes of the same source on every machine with the same compiler: no build id, no path, no
date. Another compiler (`CC=aarch64-linux-gnu-gcc`) makes the program of another architecture.
Called by `make setup`, by the image build, and by tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
OUTPUT = Path(__file__).resolve().parent.parent / "build" / "tortie-cni"
FLAGS = (
    *("-std=c11", "-Os", "-static", "-nostdlib", "-nostartfiles", "-ffreestanding", "-fno-builtin"),
    *("-fno-stack-protector", "-fno-pie", "-no-pie", "-fno-asynchronous-unwind-tables"),
    *("-fno-tree-loop-distribute-patterns", "-fno-ident", "-Wall", "-Wextra", "-Werror"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,--gc-sections", "-s"),
)


def build(output: Path = OUTPUT, *, run_dir: str = "") -> Path:
    """Compile if the source is newer; returns `output`. `run_dir`: the agent's, if not /run/tortie (for tests)."""
    if output.exists() and output.stat().st_mtime >= SOURCE.stat().st_mtime:
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    define = [f'-DRUN_DIR="{run_dir}"'] if run_dir else []
    command = [os.environ.get("CC", "gcc"), *FLAGS, *define, "-o", str(draft), str(SOURCE)]
    try:
        subprocess.run(command, check=True, cwd=SOURCE.parent)
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    return output


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT))
