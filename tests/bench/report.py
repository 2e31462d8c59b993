"""Where benchmarks write: a line for people on stdout, a line of JSON in build/bench.jsonl.

`ratio` says how many times better we are than the peer: above 1 is good whatever the unit. Ratios count, and only those
of one run: absolute values depend on the machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

OUTPUT = Path(__file__).resolve().parent.parent.parent / "build" / "bench.jsonl"


def report(
    bench: str,
    metric: str,
    *,
    ours: float,
    peer: float | None,
    unit: str,
    peer_name: str = "",
    better: Literal["less", "more"] = "less",
    goal: float | None = None,
) -> float | None:
    """Tell one figure; returns the ratio. `peer` None: nobody to compare with. `goal`: the ratio asked for, shown."""
    ratio: float | None = None
    if peer is not None and ours and peer:
        ratio = round(peer / ours if better == "less" else ours / peer, 2)
    line = {
        "bench": bench,
        "metric": metric,
        "ours": round(ours, 4),
        "peer": None if peer is None else round(peer, 4),
        "unit": unit,
        "ratio": ratio,
        "peer_name": peer_name,
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    with OUTPUT.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    against = "" if peer is None else f"   {peer_name} {peer:10.3f} {unit:6}   {ratio}x"
    aim = "" if goal is None else f"   (goal {goal:g}x: {'met' if ratio is not None and ratio >= goal else 'MISSED'})"
    print(f"{bench:10} {metric:28} {ours:10.3f} {unit:6}{against}{aim}", flush=True)
    return ratio
