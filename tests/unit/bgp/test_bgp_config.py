"""The configuration text: canonical, and deaf to injection."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import commands, config, wire

RELAY = (sys.executable, "-I", "/opt/tortie/relay.py", "/run/tortie-speaker/relay.sock")


def session(**changes: Any) -> wire.Session:
    values: dict[str, Any] = {
        "id": wire.NeighborId("10.77.0.2", "10.77.0.1"),
        "name": "tor",
        "peer_as": 65002,
        "local_as": 65001,
        "router_id": "10.77.0.1",
        "families": (wire.Family.IPV4,),
        **changes,
    }
    return wire.Session(**values)


def test_the_whole_text() -> None:
    full = session(password="s3 cret", ttl_hops=1, listen_port=179, connect_port=1790, hold_time_s=9)
    rendered = config.render([full], relay=("/usr/bin/python3", "/opt/relay.py"))
    assert rendered.text == (
        "process relay {\n    run /usr/bin/python3 /opt/relay.py;\n    encoder json;\n}\n"
        f"neighbor {rendered.mark} {{\n    router-id 0.0.0.1;\n    local-as 65535;\n    peer-as 65535;\n"
        "    passive true;\n    family { ipv4 unicast; }\n}\n"
        'neighbor 10.77.0.2 {\n    description "tor";\n    router-id 10.77.0.1;\n    local-address 10.77.0.1;\n'
        "    local-as 65001;\n    peer-as 65002;\n    hold-time 9;\n    connect 1790;\n    listen 179;\n"
        '    md5-base64 true;\n    md5-password "czMgY3JldA==";\n    incoming-ttl 255;\n    manual-eor true;\n'
        "    family { ipv4 unicast; }\n    capability { graceful-restart 120; route-refresh enable; }\n"
        "    api { processes [ relay ]; neighbor-changes; receive { parsed; open; update; } "
        "send { parsed; update; } }\n"
        "}\n"
    )
    assert rendered.refused == ()


def test_equal_sessions_give_equal_bytes_in_any_order_and_others_another_mark() -> None:
    one, two = session(), session(id=wire.NeighborId("10.77.0.3", "10.77.0.1"))
    forth, back = config.render([one, two], relay=RELAY), config.render([two, one], relay=RELAY)
    assert (forth.text, forth.mark) == (back.text, back.mark)
    assert config.render([one], relay=RELAY).mark != forth.mark


EVERY_KIND = [
    session(),
    session(id=wire.NeighborId("10.77.0.3"), password="~!@#$%^&*(){};\"'\\\n", ttl_hops=3),
    session(id=wire.NeighborId("fd00::2", "fd00::1"), families=(wire.Family.IPV6,), listen_port=1790),
    session(id=wire.NeighborId("fe80::2"), families=(wire.Family.IPV6,), source_interface="eth0.100"),
    session(id=wire.NeighborId("10.77.0.2", "10.78.0.1"), restart_time_s=0, hold_time_s=0),
]


@pytest.mark.parametrize("sessions", [[], EVERY_KIND], ids=["none", "every kind"])
def test_exabgp_itself_accepts_it(sessions: list[wire.Session], tmp_path: Path) -> None:
    rendered = config.render(sessions, relay=RELAY)
    assert rendered.refused == ()
    path = tmp_path / "exabgp.conf"
    path.write_text(rendered.text)
    command = [sys.executable, "-m", "exabgp", "validate", "-n", str(path)]
    environment = {**os.environ, **config.environment(user="root")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


SAFE_LINE = re.compile(
    r"process relay \{|    run [A-Za-z0-9 ._/+-]+;|    encoder json;|\}|neighbor [0-9a-f.:]+ \{"
    r'|    description "[A-Za-z0-9 ._:/+=-]+";|    (router-id|local-address) [0-9a-f.:]+;'
    r"|    (local-as|peer-as|hold-time|connect|listen|incoming-ttl) \d+;|    (passive|manual-eor|md5-base64) true;"
    r'|    md5-password "[A-Za-z0-9+/=]+";|    source-interface [A-Za-z0-9._-]+;'
    r"|    family \{ (ipv[46] unicast;)( ipv6 unicast;)? \}"
    r"|    capability \{ (graceful-restart \d+; )?route-refresh enable; \}"
    r"|    api \{ processes \[ relay \]; neighbor-changes; receive \{ parsed; open; update; \} "
    r"send \{ parsed; update; \} \}"
)
nasty = st.one_of(
    st.text(max_size=30),
    st.sampled_from(['x"; } process x { run /bin/sh; }', "a\\u0022b", "a\nb", "json", "a\\", "#", "", "10.0.0.1 {"]),
)


@given(
    peer=st.one_of(nasty, st.ip_addresses().map(str)),
    local=st.one_of(nasty, st.ip_addresses().map(str)),
    name=nasty,
    router_id=st.one_of(nasty, st.just("1.2.3.4")),
    password=nasty,
    interface=nasty,
    numbers=st.tuples(*[st.integers(-5, 1 << 33)] * 7),
)
def test_nothing_in_a_session_can_become_another_line(
    *, peer: str, local: str, name: str, router_id: str, password: str, interface: str, numbers: tuple[int, ...]
) -> None:
    wild = wire.Session(
        id=wire.NeighborId(peer, local),
        name=name,
        router_id=router_id,
        password=password,
        source_interface=interface,
        families=(wire.Family.IPV4,),
        peer_as=numbers[0],
        local_as=numbers[1],
        connect_port=numbers[2],
        listen_port=numbers[3],
        hold_time_s=numbers[4],
        restart_time_s=numbers[5],
        ttl_hops=numbers[6],
    )
    rendered = config.render([wild, session()], relay=RELAY)
    lines = rendered.text.split("\n")
    assert lines.pop() == ""
    assert [line for line in lines if not SAFE_LINE.fullmatch(line)] == []
    assert sum(line.startswith("neighbor ") for line in lines) == 1 + len(rendered.sessions)
    assert len(rendered.sessions) + len(rendered.refused) == 2
    assert rendered.text.isascii()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"restart_time_s": 4096}, "restart_time_s: must lie in 0..4095, is 4096"),
        ({"hold_time_s": 2}, "hold_time_s: must lie in 3..65535"),
        ({"password": "x" * 81}, "password: must be ASCII and at most 80 bytes"),
        ({"id": wire.NeighborId("fe80::1%eth0")}, "peer: must be an address without a zone"),
        ({"id": wire.NeighborId("fe80::1")}, "source_interface: must name the interface"),
        ({"id": wire.NeighborId("10.0.0.1", "fd00::1")}, "local: must be another address of the family"),
        ({"families": ()}, "families: must name at least one"),
    ],
)
def test_a_refusal_names_the_field(changes: dict[str, Any], sentence: str) -> None:
    rendered = config.render([session(**changes)], relay=RELAY)
    assert rendered.sessions == ()
    assert sentence in rendered.refused[0]
    assert "xxxx" not in rendered.refused[0]


def test_two_sessions_with_one_address_are_one_too_many() -> None:
    rendered = config.render([session(), session(name="again")], relay=RELAY)
    assert [found.name for found in rendered.sessions] == ["tor"]
    assert "already taken by 'tor'" in rendered.refused[0]


@given(texts=st.lists(nasty, min_size=1), next_hop=nasty, community=nasty)
def test_nothing_in_a_route_can_become_another_command(texts: list[str], next_hop: str, community: str) -> None:
    group = wire.RouteGroup(family=wire.Family.IPV4, prefixes=tuple(texts), next_hop=next_hop, communities=(community,))
    key = wire.NeighborId("10.0.0.2", "10.0.0.1")
    try:
        lines = [line.text for line in commands.announce(key, commands.offers(group))]
    except ValueError:
        return
    for line in lines:
        assert re.fullmatch(r"[a-z0-9 .:/\[\]-]+", line)
        assert "json" not in line


def test_many_prefixes_share_a_line_and_families_do_not() -> None:
    group = wire.RouteGroup(
        family=wire.Family.IPV4, prefixes=tuple(f"10.{n // 256}.{n % 256}.0/24" for n in range(1201)), med=7
    )
    key = wire.NeighborId("10.0.0.2", "10.0.0.1")
    lines = list(commands.announce(key, commands.offers(group)))
    assert [len(line.prefixes) for line in lines] == [500, 500, 201]
    assert lines[0].text.startswith(
        "neighbor 10.0.0.2 local-ip 10.0.0.1 announce attributes next-hop self med 7 nlri 10.0.0.0/24 10.0.1.0/24 "
    )
    mixed = msgspec.structs.replace(group, prefixes=("fd00::/64",))
    with pytest.raises(ValueError, match="not of the family"):
        commands.offers(mixed)
