"""Schemas of ClusterInformation and CalicoNodeStatus."""

from crds.schema import AS_MAX, CONDITIONS, NAME_MAX, Schema, choice, flag, items, number, record, text

CLUSTER_INFORMATION = record(
    "Facts about the whole cluster.",
    {
        "calicoVersion": text("Left empty, so that a calicoctl of any version works."),
        "clusterGUID": text("Made once, never changed."),
        "clusterType": text("What the cluster runs on."),
        "datastoreReady": flag("False locks the addresses: none is given out or freed."),
        "variant": text("Not used."),
    },
)

NODE_STATUS_SPEC = record(
    "Which node, and what to know of it.",
    {
        "node": text("The node.", longest=NAME_MAX),
        "classes": items("What to know.", choice("One.", "Agent", "BGP", "Routes"), kind="set", most=3),
        "updatePeriodSeconds": number("How often the answer is renewed; 0: once.", low=0, high=86400),
    },
)

_DAEMON = record(
    "The speaker for one family.",
    {
        "state": choice("Whether it works.", "Ready", "NotReady"),
        "routerID": text("Its BGP identifier."),
        "version": text("Its version."),
        "lastBootTime": text("When it was started."),
        "lastReconfigurationTime": text("When its configuration was last loaded."),
    },
)


def _peers(description: str) -> Schema:
    return items(
        description,
        record(
            "A session.",
            {
                "peerIP": text("The peer's address."),
                "type": choice("Where it is configured.", "NodeMesh", "NodePeer", "GlobalPeer"),
                "state": choice(
                    "State of the session (RFC 4271).",
                    *("Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established", "Close"),
                ),
                "since": text("When the state began."),
                "asNumber": number("The peer's AS number.", low=0, high=AS_MAX),
                "prefixesReceived": number("Prefixes heard.", low=0),
                "prefixesSent": number("Prefixes announced.", low=0),
                "reason": text("Why the session is not up."),
            },
        ),
    )


def _routes(description: str) -> Schema:
    return items(
        description,
        record(
            "A route.",
            {
                "type": choice("In the kernel, or only heard.", "FIB", "RIB"),
                "destination": text("Its prefix."),
                "gateway": text("Its next hop."),
                "interface": text("Its interface."),
                "learnedFrom": record(
                    "Where it came from.",
                    {
                        "sourceType": choice("The source.", "Kernel", "Static", "Direct", "NodeMesh", "BGPPeer"),
                        "peerIP": text("The peer it came from."),
                    },
                ),
                "asPath": items("AS path.", number("An AS number.", low=0, high=AS_MAX)),
                "reason": text("Why it is not used."),
            },
        ),
    )


NODE_STATUS = record(
    "The node's answer.",
    {
        "lastUpdated": text("When it was written.", nullable=True),
        "agent": record("The speaker.", {"birdV4": _DAEMON, "birdV6": _DAEMON}),
        "bgp": record(
            "Sessions.",
            {
                "numberEstablishedV4": number("IPv4 sessions that are up."),
                "numberEstablishedV6": number("IPv6 sessions that are up."),
                "numberNotEstablishedV4": number("IPv4 sessions that are not."),
                "numberNotEstablishedV6": number("IPv6 sessions that are not."),
                "peersV4": _peers("IPv4 sessions."),
                "peersV6": _peers("IPv6 sessions."),
            },
            required=(
                *("numberEstablishedV4", "numberEstablishedV6"),
                *("numberNotEstablishedV4", "numberNotEstablishedV6"),
            ),
        ),
        "routes": record("Routes.", {"routesV4": _routes("IPv4 routes."), "routesV6": _routes("IPv6 routes.")}),
        "conditions": CONDITIONS,
    },
)
