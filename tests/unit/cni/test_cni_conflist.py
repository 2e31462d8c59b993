"""The two files on the host: whole, put back, and never offering what a plugin does not speak."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cni.conflist import FILE_NAME, PORTMAP, PROGRAM, Installed, chain, choose_version, render, spoken_by


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    program = tmp_path / "built"
    program.write_bytes(b"\x7fELF")
    return Installed(
        conf_dir=tmp_path / "net.d", bin_dir=tmp_path / "bin", program=program, text=render(version="1.0.0", mtu=1450)
    )


def test_both_files_are_put_there_and_then_left_alone(installed: Installed, tmp_path: Path) -> None:
    program, conflist = tmp_path / "bin" / PROGRAM, tmp_path / "net.d" / FILE_NAME
    assert installed.ensure() == (program, conflist)
    assert program.stat().st_mode & 0o777 == 0o755
    assert json.loads(conflist.read_text())["plugins"][0]["mtu"] == 1450
    assert installed.ensure() == ()
    assert [path.name for path in conflist.parent.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("damage", ["unlink", "edit", "mode", "link"])
def test_damage_is_repaired(installed: Installed, tmp_path: Path, damage: str) -> None:
    installed.ensure()
    program = tmp_path / "bin" / PROGRAM
    match damage:
        case "unlink":
            program.unlink()
        case "edit":
            program.write_bytes(b"#!/bin/sh")
        case "mode":
            program.chmod(0o600)
        case "link":
            program.unlink()
            program.symlink_to("/bin/true")
    assert installed.ensure() == (program,)
    assert program.read_bytes() == b"\x7fELF"
    assert not program.is_symlink()
    assert installed.ensure() == ()


def test_a_file_that_was_touched_but_is_right_is_not_rewritten(installed: Installed, tmp_path: Path) -> None:
    installed.ensure()
    (tmp_path / "bin" / PROGRAM).touch()
    assert installed.ensure() == ()


def test_the_version_is_one_that_all_speak() -> None:
    assert choose_version([]) == "1.1.0"
    assert choose_version([frozenset({"0.4.0", "1.0.0"}), frozenset({"1.1.0", "0.4.0", "1.0.0"})]) == "1.0.0"
    with pytest.raises(ValueError, match="no CNI version"):
        choose_version([frozenset({"0.1.0"})])


def test_plugins_are_asked_what_they_speak(tmp_path: Path) -> None:
    plugin = tmp_path / "portmap"
    plugin.write_text('#!/bin/sh\necho \'{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}\'\n')
    plugin.chmod(0o755)
    assert chain(tmp_path) == ("1.0.0", (PORTMAP,))
    plugin.write_text("#!/bin/sh\nexit 1\n")
    assert spoken_by(plugin) == frozenset()
    assert chain(tmp_path) == ("1.1.0", ())


def test_the_conflist_asks_for_the_families_wanted() -> None:
    parsed = json.loads(render(version="1.0.0", mtu=0, families=(4, 6), chained=(PORTMAP,)))
    assert parsed["plugins"][0]["ipam"] == {"type": "tortie", "assign_ipv4": True, "assign_ipv6": True}
    assert parsed["plugins"][1] == {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
