"""The wheel is whole: what an image installs from it needs no checkout."""

from __future__ import annotations

import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD = (sys.executable, "-m", "hatchling", "build", "-t", "wheel")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("wheel")
    subprocess.run([*BUILD, "-d", str(where)], cwd=CHECKOUT, check=True, capture_output=True)
    (made,) = where.glob("*.whl")
    return made


def test_the_wheel_carries_the_cni_program_ready_to_run(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        info = held.getinfo("cni/tortie-cni")
        assert (info.external_attr >> 16) & 0o111, "not executable"
        program = Path(held.extract(info, tmp_path))
    program.chmod(0o755)
    answer = subprocess.run(
        [program], env={"CNI_COMMAND": "VERSION"}, input=b'{"cniVersion":"1.1.0"}', check=True, capture_output=True
    )
    assert b'"supportedVersions"' in answer.stdout


def test_the_wheel_names_the_machine_it_is_for(wheel: Path) -> None:
    assert wheel.stem.endswith(f"py3-none-linux_{platform.machine()}")


def test_the_wheel_carries_the_manifests_and_all_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
    manifests = {f"crds/manifests/{path.name}" for path in (CHECKOUT / "crds" / "manifests").glob("*.yaml")}
    assert manifests
    assert manifests <= names
    modules = {str(path.relative_to(CHECKOUT)) for package in _packages() for path in package.rglob("*.py")}
    assert modules <= names


def _packages() -> list[Path]:
    return [CHECKOUT / name for name in ("bgp", "cni", "crds", "ctl", "felix", "ipam", "lab")]
