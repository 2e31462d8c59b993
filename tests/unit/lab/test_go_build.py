"""Building into the cache: whole or not at all, and told. The compiler is a script, for the real one takes minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.binaries import BUILDS, ETCD, KUBERNETES, kubernetes_binaries
from lab.go_build import BuildFailed

GOOD = f"""#!/bin/sh
[ "$1" = env ] && {{ echo go1.26.0; exit 0; }}
while [ "$1" != -o ]; do shift; done
cat > "$2" <<'END'
#!/bin/sh
case $0 in
*etcd) echo 'etcd Version: {ETCD}' ;;
*kubectl) echo 'Client Version: v{KUBERNETES}' ;;
*) echo 'Kubernetes v{KUBERNETES}' ;;
esac
END
chmod +x "$2"
"""
OTHER_VERSION = GOOD.replace(ETCD, "3.4.0").replace(KUBERNETES, "1.20.0")
BROKEN = """#!/bin/sh
[ "$1" = env ] && { echo go1.26.0; exit 0; }
echo 'no space left on device' >&2
exit 1
"""


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORTIE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "cache" / "bin"


def compiler(tmp_path: Path, text: str) -> None:
    go = tmp_path / "bin" / "go"
    go.parent.mkdir(exist_ok=True)
    go.write_text(text)
    go.chmod(0o755)


def build() -> list[str]:
    said: list[str] = []
    kubernetes_binaries(say=said.append, environment={})
    return said


def kept(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.is_dir()]


def test_what_is_built_is_kept_told_and_not_built_again(empty_cache: Path, tmp_path: Path) -> None:
    compiler(tmp_path, GOOD)
    said = build()
    assert all(any(f"building {item.program} (" in line for line in said) for item in BUILDS)
    assert kept(empty_cache) == [f"kubernetes-{KUBERNETES}-etcd-{ETCD}"]
    compiler(tmp_path, BROKEN)
    assert build() == []


@pytest.mark.parametrize(("text", "words"), [(BROKEN, "no space left on device"), (OTHER_VERSION, "right version")])
def test_a_build_that_fails_is_told_and_leaves_nothing(
    empty_cache: Path, tmp_path: Path, text: str, words: str
) -> None:
    compiler(tmp_path, text)
    with pytest.raises(BuildFailed, match=words):
        build()
    assert kept(empty_cache) == []
    compiler(tmp_path, GOOD)
    build()
    assert kept(empty_cache) == [f"kubernetes-{KUBERNETES}-etcd-{ETCD}"]
