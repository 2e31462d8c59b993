"""`make bench`: runs all benchmarks, or those that are named, one process after the other.

make bench                 all
make bench ONLY=cni-add    one; a module's name without `_bench` runs all that are in it
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bench.report import OUTPUT

BENCHES = {
    "cni-add": "cni_bench",
    "cni-del": "cni_bench",
    "pod-burst": "cni_bench",
    "footprint": "footprint_bench",
    "routes": "routes_bench",
}
"""Name -> the module beside this one that has it. A module takes the names that it shall run as arguments."""


def chosen(words: list[str]) -> dict[str, list[str]]:
    """Module -> names, in the order of the table; SystemExit for a name that there is not."""
    groups = {module.removesuffix("_bench") for module in BENCHES.values()}
    unknown = set(words) - BENCHES.keys() - groups
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(BENCHES)}")
    found: dict[str, list[str]] = {}
    for name, module in BENCHES.items():
        if not words or name in words or module.removesuffix("_bench") in words:
            found.setdefault(module, []).append(name)
    return found


def main() -> None:
    """Exit status 1 if any could not run; what is slow is told, and is no failure."""
    wanted = chosen(sys.argv[1:])
    OUTPUT.unlink(missing_ok=True)
    failed = []
    for module, names in wanted.items():
        done = subprocess.run([sys.executable, "-m", f"tests.bench.{module}", *names], check=False)
        if done.returncode != 0:
            failed += names
    if failed:
        raise SystemExit(f"could not run: {', '.join(failed)}")
    print(f"figures are in {OUTPUT.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
