"""Schemas of BGPConfiguration and BGPPeer. Fields, limits and defaults: Calico's, native v3 CRDs.

asNumber has no default in the schema: a BGPConfiguration `node.<name>` that says nothing must not override `default`.
"""

from crds.schema import (
    AS_MAX,
    DURATION,
    NAME_MAX,
    PRIORITY_MAX,
    Schema,
    address,
    choice,
    cidr,
    flag,
    items,
    number,
    record,
    rule,
    selector,
    text,
)

COMMUNITY = r"^([0-9]+:[0-9]+|[0-9]+:[0-9]+:[0-9]+)$"
_COMMUNITY_RULE = (
    "!self.matches('^[0-9]{1,10}(:[0-9]{1,10}){1,2}$')"
    " || (self.split(':').size() == 2 ? self.split(':').all(part, int(part) <= 65535)"
    " : self.split(':').all(part, int(part) <= 4294967295))"
)


def community(field: str) -> Schema:
    """`aa:nn` (16 bits each, RFC 1997) or `aa:nn:mm` (32 bits each, RFC 8092)."""
    return text(
        "A community, aa:nn or aa:nn:mm.",
        longest=32,
        pattern=COMMUNITY,
        rules=(
            rule(_COMMUNITY_RULE, f"{field} must be aa:nn with parts to 65535 or aa:nn:mm with parts to 4294967295"),
        ),
    )


def _ranges(description: str, *, field: str) -> Schema:
    item = record("A range.", {"cidr": cidr("The range.", field=f"{field}.cidr")})
    return items(description, item, most=500)


_PASSWORD = record(
    "The TCP-MD5 password.",
    {
        "secretKeyRef": record(
            "A key of a Secret in the agent's namespace.",
            {
                "name": text("The Secret.", longest=NAME_MAX),
                "key": text("The key in it.", longest=NAME_MAX),
                "optional": flag("The session comes up without a password while the Secret is missing."),
            },
            required=("key",),
        )
    },
)

BGP_CONFIGURATION = record(
    "How nodes speak BGP: `default` for all, `node.<name>` for one.",
    {
        "asNumber": number("AS number of the nodes; 64512 when not set.", low=1, high=AS_MAX),
        "nodeToNodeMeshEnabled": flag("Every node peers with every other; true when not set."),
        "listenPort": number("TCP port of BGP; 179 when not set.", low=1, high=65535),
        "bindMode": choice("Listen on all addresses, or on the node's own.", "None", "NodeIP"),
        "logSeverityScreen": text(
            "Least severity that is logged.",
            longest=16,
            pattern=r"^(?i)(Trace|Debug|Info|Warning|Warn|Error|Fatal)?$",
            default="Info",
        ),
        "nodeMeshPassword": _PASSWORD,
        "nodeMeshMaxRestartTime": text("Graceful restart time of the mesh, as 120s.", longest=64, pattern=DURATION),
        "communities": items(
            "Names for communities.",
            record(
                "A name and what it stands for.",
                {
                    "name": text("The name.", longest=NAME_MAX),
                    "value": community("each of spec.communities"),
                },
            ),
            most=500,
        ),
        "prefixAdvertisements": items(
            "Communities to add to announced routes.",
            record(
                "Routes in a range and their communities.",
                {
                    "cidr": cidr("The range.", field="each of spec.prefixAdvertisements.cidr"),
                    "communities": items("Names or values.", text("One.", longest=NAME_MAX), most=50),
                },
            ),
            most=500,
        ),
        "serviceClusterIPs": _ranges("Cluster addresses of Services to announce.", field="spec.serviceClusterIPs"),
        "serviceExternalIPs": _ranges("External addresses of Services to announce.", field="spec.serviceExternalIPs"),
        "serviceLoadBalancerIPs": _ranges("LoadBalancer addresses to announce.", field="spec.serviceLoadBalancerIPs"),
        "serviceLoadBalancerAggregation": choice(
            "Enabled: announce ranges. Disabled: announce each address.", "Enabled", "Disabled", default="Enabled"
        ),
        "ignoredInterfaces": items(
            "Interfaces whose networks are not announced; * is a wildcard.", text("A name.", longest=64), kind="set"
        ),
        "localWorkloadPeeringIPV4": address(
            "IPv4 address on which local Pods can peer.", field="spec.localWorkloadPeeringIPV4", family=4
        ),
        "localWorkloadPeeringIPV6": address(
            "IPv6 address on which local Pods can peer.", field="spec.localWorkloadPeeringIPV6", family=6
        ),
        "ipv4NormalRoutePriority": number("Metric of IPv4 routes; 1024 when not set.", low=1, high=PRIORITY_MAX),
        "ipv6NormalRoutePriority": number("Metric of IPv6 routes; 1024 when not set.", low=1, high=PRIORITY_MAX),
        "programClusterRoutes": choice(
            "Kept for compatibility: Tortie's agent always writes the routes.",
            "Enabled",
            "Disabled",
            "EnabledIPIPOnly",
            "EnabledNoEncapOnly",
        ),
    },
    rules=(
        rule(
            "!has(self.nodeMeshPassword) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",
            "spec.nodeMeshPassword must not be set while spec.nodeToNodeMeshEnabled is false",
            at="nodeMeshPassword",
        ),
        rule(
            "!has(self.nodeMeshMaxRestartTime) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",
            "spec.nodeMeshMaxRestartTime must not be set while spec.nodeToNodeMeshEnabled is false",
            at="nodeMeshMaxRestartTime",
        ),
        rule(
            "!has(self.communities) || self.communities.size() == 0"
            " || (has(self.prefixAdvertisements) && self.prefixAdvertisements.size() > 0)",
            "spec.communities must go with at least one of spec.prefixAdvertisements",
            at="communities",
        ),
    ),
)

_PEER_IP_RULE = (
    "self == '' || isIP(self)"
    " || (self.matches('^[0-9.]+:[0-9]{1,5}$') && isIP(self.split(':')[0])"
    " && int(self.split(':')[1]) >= 1 && int(self.split(':')[1]) <= 65535)"
    r" || (self.matches('^\\[[0-9a-fA-F:.]+\\]:[0-9]{1,5}$') && isIP(self.substring(1, self.indexOf(']')))"
    " && ip(self.substring(1, self.indexOf(']'))).family() == 6"
    " && int(self.substring(self.lastIndexOf(':') + 1)) >= 1"
    " && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535)"
)


def _set(field: str) -> str:
    return f"(has(self.{field}) && self.{field} != '')"


def _exclusive(first: str, second: str) -> Schema:
    return rule(
        f"!({_set(first)} && {_set(second)})",
        f"spec.{first} and spec.{second} must not both be set",
        at=first,
    )


_PEER_RULES = (
    _exclusive("node", "nodeSelector"),
    _exclusive("peerIP", "peerSelector"),
    _exclusive("peerIP", "localWorkloadSelector"),
    _exclusive("peerSelector", "localWorkloadSelector"),
    rule(
        f"!{_set('peerSelector')} || !has(self.asNumber)",
        "spec.asNumber must not be set with spec.peerSelector: the nodes have their own",
        at="asNumber",
    ),
    rule(
        f"!{_set('localWorkloadSelector')} || has(self.asNumber)",
        "spec.asNumber must be set with spec.localWorkloadSelector",
        at="asNumber",
    ),
    rule(
        "!(has(self.keepOriginalNextHop) && self.keepOriginalNextHop && has(self.nextHopMode))",
        "spec.keepOriginalNextHop and spec.nextHopMode must not both be set",
        at="nextHopMode",
    ),
    rule(
        f"!{_set('reachableBy')} || {_set('peerIP')}",
        "spec.reachableBy must go with spec.peerIP",
        at="reachableBy",
    ),
    rule(
        f"!{_set('reachableBy')} || !{_set('peerIP')} || !isIP(self.reachableBy)"
        " || (ip(self.reachableBy).family() == 6) == (self.peerIP.split(':').size() > 2)",
        "spec.reachableBy must be of the same family as spec.peerIP",
        at="reachableBy",
    ),
)

BGP_PEER = record(
    "A BGP session: between which nodes and whom.",
    {
        "node": text("The one node that has this peer.", longest=NAME_MAX),
        "nodeSelector": selector("The nodes that have this peer.", field="spec.nodeSelector"),
        "peerIP": text(
            "The peer's address, with a port where it is not 179.",
            longest=64,
            rules=(rule(_PEER_IP_RULE, "spec.peerIP must be an IP address, 192.0.2.1:1790 or [2001:db8::1]:1790"),),
        ),
        "peerSelector": selector("The nodes that are the peers.", field="spec.peerSelector"),
        "localWorkloadSelector": selector("The local Pods that are the peers.", field="spec.localWorkloadSelector"),
        "asNumber": number("The peer's AS number.", low=1, high=AS_MAX),
        "localASNumber": number("The AS number to show to this peer.", low=1, high=AS_MAX),
        "filters": items("BGPFilters by name, in order.", text("A name.", longest=NAME_MAX), most=100),
        "password": _PASSWORD,
        "sourceAddress": choice(
            "UseNodeIP: the session comes from the node's address.", "UseNodeIP", "None", default="UseNodeIP"
        ),
        "keepOriginalNextHop": flag("Deprecated: nextHopMode Keep."),
        "nextHopMode": choice("What next hop announced routes have.", "Auto", "Self", "Keep"),
        "maxRestartTime": text("Graceful restart time, as 120s.", longest=64, pattern=DURATION),
        "keepaliveTime": text(
            "Time between keepalives, as 30s; three make the hold time.", longest=64, pattern=DURATION
        ),
        "numAllowedLocalASNumbers": number("How often the own AS may stand in a path.", low=0, high=2147483647),
        "ttlSecurity": number("Hops to the peer, checked by TTL (RFC 5082); 0 means no check.", low=0, high=255),
        "reachableBy": address("Gateway of a static route to the peer.", field="spec.reachableBy"),
        "reversePeering": choice("Auto: nodes that are selected as peers peer back.", "Auto", "Manual", default="Auto"),
    },
    rules=_PEER_RULES,
)
