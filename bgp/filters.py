"""BGPFilter import rules, parsed: by CIDR, first terminal action wins.

Called by `bgp.import_policy`; made from BGPFilter objects by `parse_filter`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One BGPFilter's import side."""

    name: str
