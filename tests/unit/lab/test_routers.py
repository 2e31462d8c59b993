"""Router configurations as whole texts.

After a wanted change: `TORTIE_WRITE_GOLDENS=1 pytest tests/unit/lab/test_routers.py`, and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from lab import routers, topology

GOLDEN = Path(__file__).parents[2] / "golden" / "lab"


@pytest.mark.parametrize("which", ["default", "dual-tor"])
@pytest.mark.parametrize("name", ["spine", "tor1", "tor2"])
def test_a_routers_text_is_the_golden_one(which: str, name: str) -> None:
    loaded = topology.load(topology.find(which))
    router = loaded.router(name)
    text = routers.bird(loaded, router) if router.kind == "bird" else routers.frr(loaded, router)
    golden = GOLDEN / f"{which}-{name}.conf"
    if os.environ.get("TORTIE_WRITE_GOLDENS"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_a_router_takes_from_a_node_its_pools_and_its_own_address_only() -> None:
    loaded = topology.load(topology.find("dual-tor"))
    accepted = {s.symbol: s.accepted for s in routers.sessions(loaded, loaded.router("tor1")) if s.peer == "n1"}
    assert {name: [str(net) for net in nets or ()] for name, nets in accepted.items()} == {
        "n1_v4": ["10.244.0.0/16", "10.1.0.11/32"],
        "n1_v6": ["fd00:244::/48", "fd00:1::11/128"],
    }


def test_a_router_without_pools_of_a_family_takes_nothing_of_it() -> None:
    loaded = topology.load(topology.find("default"))
    only_v4 = msgspec.structs.replace(loaded, pools=loaded.pools[:1])
    bird = routers.bird(only_v4, only_v4.router("tor1"))
    assert "import filter { reject; };" in bird
    assert "ipv6 prefix-list n3_v6 deny any" in routers.frr(only_v4, only_v4.router("tor2"))


def test_without_graceful_restart_both_dialects_say_so() -> None:
    loaded = topology.load(topology.find("default"))
    harsh = msgspec.structs.replace(loaded, bgp=msgspec.structs.replace(loaded.bgp, graceful_restart=False))
    assert "graceful restart off;" in routers.bird(harsh, harsh.router("tor1"))
    assert " bgp graceful-restart-disable" in routers.frr(harsh, harsh.router("tor2"))
