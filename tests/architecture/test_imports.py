"""Imports point one way, and each door to the outside world has one keeper."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, REPOSITORY, imported, module_name, python_files, shown

KEEPERS = {
    "pyroute2": ("felix.kernel.netlink",),
    "kubernetes": ("crds.kube_store",),
    "kopf": ("ipam.handlers",),
    "exabgp": ("bgp",),
    "cryptography": ("lab.cp_certificates",),
}
"""Library -> the only modules (with what lies below them) that may import it."""

DISTRIBUTIONS = {"yaml": "pyyaml", "prometheus_client": "prometheus-client"}
"""Import name -> name in pyproject.toml, where they differ."""


def test_the_contracts_of_pyproject_hold() -> None:
    lint_imports = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [lint_imports, "--no-logo", "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_contract_can_be_broken(tmp_path: Path) -> None:
    """The positive control: a linter that never complains proves nothing."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "crds" / "bad.py").write_text("import felix\n")
    settings = '[tool.importlinter]\nroot_packages = ["crds", "felix"]\n'
    contract = '[[tool.importlinter.contracts]]\nname = "x"\ntype = "forbidden"\n'
    (tmp_path / "pyproject.toml").write_text(
        f'{settings}{contract}source_modules = ["crds"]\nforbidden_modules = ["felix"]\n'
    )
    lint_imports = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [lint_imports, "--no-cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode != 0
    assert "crds.bad" in done.stdout


@pytest.mark.parametrize("library", KEEPERS)
def test_a_library_is_imported_by_its_keeper_only(library: str) -> None:
    strangers = [
        shown(path, line)
        for path in python_files(below=PACKAGES)
        for name, line in imported(path)
        if name.partition(".")[0] == library and not _below(module_name(path), KEEPERS[library])
    ]
    assert not strangers


def test_every_library_is_declared() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["lab"]]
    declared = {_name(text) for text in wanted} | sys.stdlib_module_names | set(PACKAGES)
    undeclared = {
        f"{shown(path, line)}: {top}"
        for path in python_files(below=PACKAGES)
        for top, line in ((name.partition(".")[0], line) for name, line in imported(path))
        if DISTRIBUTIONS.get(top, top) not in declared
    }
    assert not undeclared


def _below(module: str, keepers: tuple[str, ...]) -> bool:
    return any(module == keeper or module.startswith(f"{keeper}.") for keeper in keepers)


def _name(requirement: str) -> str:
    return requirement.replace("=", ">").split(">")[0].strip()
