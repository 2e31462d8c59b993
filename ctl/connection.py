"""Which cluster: kubeconfig and context, and errors of the way there in one sentence.

Called by `ctl.main`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import typer

from crds.errors import ApiError, BadObject, NotFound
from crds.kube_store import KubeStore


class ExitCode:
    """Exit statuses of `tortiectl`."""

    FAILED = 1
    """The cluster said no, or was not reached."""
    USAGE = 2
    """The command line is wrong (click's own)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What `--kubeconfig` and `--context` say; "" means the usual places."""

    kubeconfig: str = ""
    context: str = ""


@contextmanager
def cluster(target: Target) -> Iterator[KubeStore]:
    """The store of that cluster; ends the program with one sentence on standard error when something goes wrong."""
    if target.kubeconfig and not Path(target.kubeconfig).is_file():
        fail(f"--kubeconfig: there is no file {target.kubeconfig!r}")
    try:
        yield KubeStore(kubeconfig=Path(target.kubeconfig) if target.kubeconfig else None, context=target.context)
    except NotFound as error:
        fail(error.message)
    except ApiError as error:
        fail(f"the API server refused: {error.message or error.reason}")
    except BadObject as error:
        fail(str(error))
    except OSError as error:
        fail(f"the cluster cannot be reached: {error}; is --kubeconfig (or KUBECONFIG) right?")


def fail(sentence: str) -> NoReturn:
    """Say why and end with status 1."""
    typer.echo(f"tortiectl: {sentence}", err=True)
    raise typer.Exit(ExitCode.FAILED)
