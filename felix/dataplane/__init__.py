"""Writers: `plan(wanted)` reads and says what would be done, `apply(plan)` does it and returns what failed.

Map: `routes` (the main routing table).
"""
