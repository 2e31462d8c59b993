"""BGP: what we tell our neighbours, and what we hear from them.

In the agent (pure):
    sessions         Calico's BGPConfiguration and BGPPeer -> neighbours and problems (plan, node_facts, peering)
    advertise        own blocks and exceptions -> route groups
    rib              what was heard -> best routes (adj_in, hearing, decision)
    import_policy    which of them may be used (filters, ranges)
Between the two:
    wire             the protocol of the Unix socket between agent and speaker
In the speaker:
    supervisor       PID 1: keeps ExaBGP running (exabgp_process, children, probe, wanted_file, agent_door)
    speaker          its brain, pure: what ExaBGP must be told next (commands, config, exabgp_events)
    relay            ExaBGP's child, moves bytes

DESIGN.md has the picture, the invariants and what happens when something dies.
"""
