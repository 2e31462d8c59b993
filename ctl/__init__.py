"""`tortiectl`: what a network engineer types.

Map: `main` (commands and options), `connection` (which cluster), `show` (tables, JSON, YAML), `ipam_show` (pools,
blocks, one address), `node_status` (asks every node's agent), `bgp_routes` (the routes those agents hold).
Everything here reads; the top layer, it may import all packages, and nothing imports it.
"""
