"""How `tortie-lab` speaks: what it prints and where, how it says no, what it tells one to try next.

Invariants: results go to stdout, all else to stderr; a problem that can be expected is one sentence and status 1.

Called by: main.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from lab.api import ApiRefused
from lab.builder import KernelRefused
from lab.controlplane import KubectlFailed, NotReady
from lab.fabric import Lab, LabExists, NoSuchLab
from lab.node import NoSuchComponent
from lab.pods import NotYet
from lab.routers_run import RouterFailed
from lab.topology import BadTopology

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

EXPECTED = (
    ApiRefused,
    BadTopology,
    KernelRefused,
    KubectlFailed,
    LabExists,
    NoSuchComponent,
    NoSuchLab,
    NotReady,
    NotYet,
    RouterFailed,
)


def fail(problem: object) -> NoReturn:
    """One sentence, and the end with status 1."""
    text = problem.args[0] if isinstance(problem, KeyError) else problem
    err.print(f"tortie-lab: {text}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1)


def try_next(*tries: str) -> None:
    """What a person may want to type now."""
    err.print("\ntry next:", style="bold")
    for line in tries:
        err.print(f"  {line}", markup=False, soft_wrap=True)


def need_root() -> None:
    """Say so, and end, unless we are root."""
    if os.geteuid() != 0:
        fail("network namespaces need root; run it as root")


def attach(name: str) -> Lab:
    """The lab of that name, or the end."""
    need_root()
    try:
        return Lab.attach(name)
    except NoSuchLab as problem:
        fail(f"{problem}; start one with: tortie-lab up{flag_of(name)}")
    except BadTopology as problem:
        fail(problem)


def flag_of(name: str) -> str:
    """What a command must carry so that it means this lab."""
    return "" if name == "lab" else f" --name {name}"


class Steps:
    """Progress as numbered sentences with the time so far."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.count = 0

    def __call__(self, text: str) -> None:
        self.count += 1
        err.print(f"{time.monotonic() - self.began_s:5.1f} s  {self.count:2d}. {text}", markup=False, soft_wrap=True)


def print_exports(lab: Lab) -> None:
    """The lines that make all of the above work when pasted: where the programs are, and which cluster."""
    ours, kubectl = Path(sys.argv[0]).resolve(), lab.control_plane.binaries.kubectl
    missing = [str(program.parent) for program in (ours, kubectl) if shutil.which(program.name) is None]
    if missing:
        out.print(f"export PATH=$PATH:{':'.join(missing)}", markup=False, soft_wrap=True)
    out.print(f"export KUBECONFIG={lab.kubeconfig}", markup=False, soft_wrap=True)
