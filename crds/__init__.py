"""The vocabulary: what the Kubernetes API server stores, as Python values. Imports nothing else of Tortie.

    errors       what can go wrong at this border: BadObject, Conflict, NotFound, Gone ...
    meta         ObjectMeta, Condition, Resource: what every wire object has in common, and its spelling
    pools        IPPool, IPReservation, IPAMConfiguration        (projectcalico.org/v3)
    blocks       IPAMBlock, BlockAffinity, IPAMHandle
    bgp_kinds    BGPConfiguration, BGPPeer, BGPFilter
    cluster      ClusterInformation
    core         the few fields of Kubernetes' own kinds that Tortie reads
    codec        bytes <-> wire objects, and error messages that name the field
    peers        what makes a BGPPeer usable: the same for the agent and for its condition
    filters      the same for the rules of a BGPFilter
    values       parsed, frozen values made from wire objects (Pool ...)
    selector     Calico's selector language: text -> Selector -> matches(labels)
    names        names of objects that follow from their content
    store        the Store protocol: get, list, create, replace, patch, delete, watch
    fake_store   a store in memory, with optimistic concurrency and fault injection
    http_store   the store of agent and operator: aiohttp and msgspec
    kube_store   a synchronous store on the `kubernetes` package: command line, lab, tests
    generate     `python -m crds.generate` writes crds/manifests/*.yaml from schema_*.py

Purpose, invariants and decisions: DESIGN.md beside this file.
"""
