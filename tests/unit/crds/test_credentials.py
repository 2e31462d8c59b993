"""Where the API server is and who we are, out of files that people and kubelets write."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from crds.credentials import Token, from_environment, from_kubeconfig, from_service_account
from crds.errors import BadObject


def kubeconfig(path: Path, *, user: dict[str, Any] | None = None, **cluster: Any) -> Path:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ns"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://192.0.2.1:6443/"} | cluster}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_kubeconfig_with_inline_data(tmp_path: Path) -> None:
    data = base64.b64encode(b"PEM").decode()
    user = {"client-certificate-data": data, "client-key-data": data, "token": "t"}
    found = from_kubeconfig(kubeconfig(tmp_path / "k", user=user, **{"certificate-authority-data": data}))
    assert found.server == "https://192.0.2.1:6443"
    assert (found.ca, found.certificate, found.key) == (b"PEM", b"PEM", b"PEM")
    assert found.token.current() == "t"
    assert found.namespace == "ns"
    assert "PEM" not in repr(found.key) or "key" not in repr(found)


def test_a_kubeconfig_with_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"CA")
    (tmp_path / "token").write_text("from file\n")
    where = kubeconfig(tmp_path / "k", user={"tokenFile": "token"}, **{"certificate-authority": "ca.crt"})
    found = from_kubeconfig(where)
    assert found.ca == b"CA"
    assert found.token.current() == "from file"
    assert found.verify is ssl.CERT_REQUIRED


@pytest.mark.parametrize("method", ["exec", "auth-provider", "username"])
def test_a_login_that_starts_programs_is_refused_by_name(tmp_path: Path, method: str) -> None:
    with pytest.raises(BadObject, match=method):
        from_kubeconfig(kubeconfig(tmp_path / "k", user={method: {}}))


@pytest.mark.parametrize(
    ("text", "problem"), [("{", "must be YAML"), ("[]", "must be a kubeconfig"), ("{}", "contexts")]
)
def test_a_broken_kubeconfig_says_what_is_missing(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(BadObject, match=problem):
        from_kubeconfig(tmp_path / "k")


def test_the_first_file_of_the_list_that_exists_counts(tmp_path: Path) -> None:
    there = kubeconfig(tmp_path / "there")
    found = from_environment({"KUBECONFIG": f"{tmp_path / 'absent'}:{there}"})
    assert found.server == "https://192.0.2.1:6443"


def test_no_credentials_at_all_are_said(tmp_path: Path) -> None:
    with pytest.raises(BadObject, match="KUBECONFIG"):
        from_environment({"HOME": str(tmp_path)})
    with pytest.raises(BadObject, match="must name a file that exists"):
        from_environment({"KUBECONFIG": str(tmp_path / "absent")})


@pytest.mark.parametrize(
    ("host", "url"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_in_a_pod_the_service_account_is_used(tmp_path: Path, host: str, url: str) -> None:
    for name, text in (("ca.crt", "CA"), ("token", "t"), ("namespace", "tortie-system")):
        (tmp_path / name).write_text(text)
    found = from_service_account({"KUBERNETES_SERVICE_HOST": host}, directory=tmp_path)
    assert (found.server, found.namespace, found.token.current()) == (url, "tortie-system", "t")


def test_a_token_file_is_read_again_when_it_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    token = Token(file=file)
    assert token.current() == "old"
    (tmp_path / "next").write_text("newer")
    (tmp_path / "next").replace(file)
    assert token.current() == "newer"
    assert not token.read_again()


def test_a_token_file_that_is_away_for_a_moment_keeps_the_last_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    token = Token(file=file)
    assert token.current() == "old"
    file.unlink()
    assert token.current() == "old"
    with pytest.raises(OSError, match="No such file"):
        Token(file=file).current()
