"""A user's own programs are taken where their version is right; the cache serves the rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.binaries import BUILDS, ETCD, KUBERNETES, MODULE, is_right_version, kubernetes_binaries

SAYS = {"etcd": "etcd Version: {}", "kube-apiserver": "Kubernetes v{}", "kubectl": "Client Version: v{}"}
DIRECTORY = f"kubernetes-{KUBERNETES}-etcd-{ETCD}"


def program(directory: Path, name: str, version: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{SAYS[name].format(version)}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds all three."""
    monkeypatch.setenv("TORTIE_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "cache" / "bin" / DIRECTORY
    for name, version in (("etcd", ETCD), ("kube-apiserver", KUBERNETES), ("kubectl", KUBERNETES)):
        program(directory, name, version)
    return directory


def found(environment: dict[str, str]) -> tuple[dict[str, Path], list[str]]:
    said: list[str] = []
    binaries = kubernetes_binaries(say=said.append, environment=environment)
    return {"etcd": binaries.etcd, "kube-apiserver": binaries.kube_apiserver, "kubectl": binaries.kubectl}, said


def test_with_nothing_of_the_users_all_come_from_the_cache_and_nothing_is_said(cached: Path) -> None:
    paths, said = found({})
    assert {path.parent for path in paths.values()} == {cached}
    assert not said


def test_assets_come_before_path_and_path_before_the_cache(cached: Path, tmp_path: Path) -> None:
    assets = program(tmp_path / "assets", "etcd", "3.6.1")
    program(tmp_path / "path", "etcd", "3.6.2")
    kubectl = program(tmp_path / "path", "kubectl", "1.36.0")
    paths, _ = found({"KUBEBUILDER_ASSETS": str(tmp_path / "assets"), "PATH": str(tmp_path / "path")})
    assert paths == {"etcd": assets, "kubectl": kubectl, "kube-apiserver": cached / "kube-apiserver"}


def test_a_wrong_version_is_passed_over_and_told_where_the_user_named_it(cached: Path, tmp_path: Path) -> None:
    program(tmp_path / "assets", "etcd", "3.5.9")
    program(tmp_path / "path", "kubectl", "1.35.0")
    paths, said = found({"KUBEBUILDER_ASSETS": str(tmp_path / "assets"), "PATH": str(tmp_path / "path")})
    assert {path.parent for path in paths.values()} == {cached}
    assert said == [f"{tmp_path}/assets/etcd is not of version 3.6, so it is not used"]


def test_a_program_that_does_not_run_has_no_right_version(tmp_path: Path) -> None:
    broken = tmp_path / "etcd"
    broken.write_text("not a program")
    broken.chmod(0o755)
    assert not is_right_version("etcd", broken)
    assert not is_right_version("etcd", tmp_path / "absent")


def test_the_go_module_pins_the_versions_that_the_cache_is_named_after() -> None:
    pinned = dict(re.findall(r"^\s*(\S+) v(\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE))
    assert pinned["k8s.io/kubernetes"] == KUBERNETES
    assert pinned["go.etcd.io/etcd/server/v3"] == ETCD
    sums = (MODULE / "go.sum").read_text()
    for build in BUILDS:
        assert f"{'k8s.io/kubernetes' if 'k8s.io' in build.package else build.package} v" in sums
