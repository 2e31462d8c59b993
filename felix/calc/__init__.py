"""Pure: what this node wants, from what is seen. No kernel, cluster, clock, thread, loop or random.

Map: `routes` (the routes of the main table), `bgp_view` (who to speak with, what to announce, what to accept),
`views` (the cluster as IPAM is shown it).
"""
