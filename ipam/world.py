"""The cluster as choices need it: a ClusterView, parsed once and remembered for a start without API server.

Theory. Views come often and change little, so each part is parsed only when its object is another one than last time.
What an agent must know to serve ADDs alone (pools, reservations, configuration, its Node's uid and labels) is kept in
the journal. A pool or reservation that cannot be parsed is as if it were not there; the operator says so on it.

Called by node and upkeep; no API, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

import msgspec

from crds.blocks import BlockAffinity
from crds.core import Pod
from crds.errors import BadObject
from crds.names import affinity_name, block_name
from crds.pools import IPAMConfiguration, IPPool, IPReservation
from crds.values import NodeName, Pool, parse_pool, parse_reservation
from ipam.affinity import is_of
from ipam.choice import DEFAULT_MAX_BLOCKS, Settings, block_at, is_usable
from ipam.journal import Journal
from ipam.leaks import PodKey
from ipam.requests import IPAddress, IPNetwork
from ipam.view import ClusterView, Sync

DEFAULT_COOLDOWN_S = 5
"""When ipCooldownSeconds is not set: time for remote nodes to forget a pod. Calico would reuse at once."""

_META_KEY = "world"


class _Remembered(msgspec.Struct, frozen=True):
    node_uid: str
    node_labels: dict[str, str]
    pools: list[IPPool]
    reservations: list[IPReservation]
    configuration: IPAMConfiguration | None


class World:
    """What this node knows of the cluster now."""

    def __init__(self, *, node: NodeName, journal: Journal) -> None:
        self.node = node
        self._journal = journal
        self.view = ClusterView(sync=Sync.WAITING, node_uid="")
        self.pools: tuple[Pool, ...] = ()
        self.reservations: tuple[IPNetwork, ...] = ()
        self.settings = parse_settings(None)
        self.pods: Mapping[PodKey, Pod] = {}
        self._lost: set[IPNetwork] = set()
        self._taken: tuple[set[IPNetwork], set[int]] | None = None
        self._recall()

    @property
    def is_synced(self) -> bool:
        """Every watch has listed once since this process started."""
        return self.view.sync is Sync.COMPLETE

    def see(self, view: ClusterView) -> None:
        """Take the newest view; one that is not complete does not replace what is remembered."""
        if view.sync is not Sync.COMPLETE:
            return
        old, self.view = self.view, view
        if view.blocks is not old.blocks or view.affinities is not old.affinities:
            self._taken = None
            self._lost.clear()
        if view.pods is not old.pods:
            self.pods = {(pod.metadata.namespace, pod.metadata.name): pod for pod in view.pods}
        parts = ("node_uid", "node_labels", "pools", "reservations", "configuration")
        if any(getattr(view, part) != getattr(old, part) for part in parts):
            self._parse()
            self._remember()

    def _parse(self) -> None:
        self.pools = tuple(_parsed_pools(self.view.pools))
        self.reservations = tuple(_parsed_reservations(self.view.reservations))
        self.settings = parse_settings(self.view.configuration)

    def _remember(self) -> None:
        view = self.view
        labels, pools, reservations = dict(view.node_labels), list(view.pools), list(view.reservations)
        kept = _Remembered(view.node_uid, labels, pools, reservations, view.configuration)
        self._journal.set_meta(_META_KEY, msgspec.to_builtins(kept))

    def _recall(self) -> None:
        known = self._journal.meta(_META_KEY)
        if known is None:
            return
        try:
            kept = msgspec.convert(known, _Remembered)
        except msgspec.ValidationError:
            return
        self.view = ClusterView(
            sync=Sync.WAITING,
            node_uid=kept.node_uid,
            node_labels=kept.node_labels,
            pools=tuple(kept.pools),
            reservations=tuple(kept.reservations),
            configuration=kept.configuration,
        )
        self._parse()

    # -- questions --------------------------------------------------------------------------------------------------

    def lose(self, cidr: IPNetwork) -> None:
        """Another node was quicker; do not try again before the watch shows it."""
        self._lost.add(cidr)

    def is_taken(self, cidr: IPNetwork) -> bool:
        """Whether any block or affinity, of whatever size, stands where this one would be."""
        if self._taken is None:
            self._taken = self._all_taken()
        taken, lengths = self._taken
        if cidr in taken or cidr in self._lost:
            return True
        if any(length < cidr.prefixlen and cidr.supernet(new_prefix=length) in taken for length in lengths):
            return True
        if all(length <= cidr.prefixlen for length in lengths):
            return False
        return any(
            net.version == cidr.version and net.prefixlen > cidr.prefixlen and net.overlaps(cidr) for net in taken
        )

    def _all_taken(self) -> tuple[set[IPNetwork], set[int]]:
        texts = [block.spec.cidr for block in self.view.blocks.values()]
        texts += [affinity.spec.cidr for affinity in self.view.affinities.values() if not is_of(affinity, self.node)]
        taken: set[IPNetwork] = set()
        for text in texts:
            try:
                taken.add(ip_network(text))
            except ValueError:
                continue
        return taken, {net.prefixlen for net in taken}

    def affinity(self, cidr: IPNetwork) -> BlockAffinity | None:
        """This node's affinity for a block, as watched."""
        return self.view.affinities.get(affinity_name(self.node, cidr))

    def block_of(self, address: IPAddress) -> IPNetwork | None:
        """The block an address lies in: an existing one, or the one that a pool would have there."""
        for pool in self.pools:
            if pool.cidr.version == address.version and address in pool.cidr:
                shift = pool.cidr.max_prefixlen - pool.block_len
                guess = block_at(pool, (int(address) - int(pool.cidr.network_address)) >> shift)
                if block_name(guess) in self.view.blocks or not self.is_taken(guess):
                    return guess
        for block in self.view.blocks.values():
            try:
                net = ip_network(block.spec.cidr)
            except ValueError:
                continue
            if net.version == address.version and address in net:
                return net
        return None

    def is_wanted(self, cidr: IPNetwork) -> bool:
        """A usable pool of this node contains the block."""
        return any(
            is_usable(pool, family=cidr.version)
            and cidr.prefixlen >= pool.cidr.prefixlen
            and cidr.network_address in pool.cidr
            and pool.node_selector.matches(self.view.node_labels)
            for pool in self.pools
        )


def parse_settings(configuration: IPAMConfiguration | None) -> Settings:
    """IPAMConfiguration as a value. None: Calico's defaults, strictAffinity false until the operator has spoken."""
    if configuration is None:
        return Settings(strict=False, auto_allocate=True, max_blocks=DEFAULT_MAX_BLOCKS, cooldown_s=DEFAULT_COOLDOWN_S)
    spec = configuration.spec
    cooldown_s = DEFAULT_COOLDOWN_S if spec.ip_cooldown_seconds is None else spec.ip_cooldown_seconds
    return Settings(
        strict=spec.strict_affinity,
        auto_allocate=spec.auto_allocate_blocks,
        max_blocks=spec.max_blocks_per_host or DEFAULT_MAX_BLOCKS,
        cooldown_s=cooldown_s,
    )


def _parsed_pools(pools: tuple[IPPool, ...]) -> list[Pool]:
    found = []
    for pool in pools:
        try:
            found.append(parse_pool(pool))
        except BadObject:
            continue
    return found


def _parsed_reservations(reservations: tuple[IPReservation, ...]) -> list[IPNetwork]:
    found: list[IPNetwork] = []
    for reservation in reservations:
        try:
            found.extend(parse_reservation(reservation))
        except BadObject:
            continue
    return found
