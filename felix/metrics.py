"""What Prometheus is told, gathered when it asks.

Theory: every figure is read off the state at scrape time, so that an idle agent spends nothing on metrics and no
figure can drift from what it describes. Names are Calico's where Calico has the thing (felix_*, ipam_*); ours begin
with tortie_.

Called by `felix.health` through `page`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from bgp.wire import State
from felix.agent import Agent, Turn
from felix.bgp_link import BgpLink
from felix.pod_notes import PodNotes
from felix.snapshot import Sync
from felix.watches import Watches

APPLY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is looked at."""

    agent: Agent
    watches: Watches
    link: BgpLink
    notes: PodNotes


class AgentMetrics(Collector):
    """The agent's figures."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        applied = Histogram(
            "felix_int_dataplane_apply_time_seconds",
            "Time that a turn took to write to the kernel.",
            registry=self._registry,
            buckets=APPLY_BUCKETS_S,
        )
        sources.agent.apply_s = applied.observe

    def page(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        yield from self._agent()
        yield from self._bgp()
        turn = self._sources.agent.last
        if turn is not None:
            yield from self._turn(turn)

    def _agent(self) -> Iterator[Metric]:
        synced = self._sources.watches.snapshot().sync is Sync.COMPLETE
        # Calico's numbers: 1 wait-for-ready, 2 resync, 3 in-sync.
        yield _gauge("felix_resync_state", "Current datastore state: 2 listing, 3 in sync.", 3 if synced else 2)
        started = CounterMetricFamily("felix_resyncs_started", "Lists asked of the API server.", labels=["kind"])
        failing = GaugeMetricFamily("tortie_watch_failing", "1 while a watch fails.", labels=["kind"])
        for reflector in self._sources.watches.all:
            started.add_metric([reflector.kind.kind], reflector.lists)
            failing.add_metric([reflector.kind.kind], 1 if reflector.failing else 0)
        yield started
        yield failing
        yield _gauge("tortie_pod_notes_pending", "Pod annotations not written yet.", self._sources.notes.pending)
        yield CounterMetricFamily(
            "tortie_pod_notes_failures", "Refused writes of pod annotations.", value=self._sources.notes.failures
        )

    def _turn(self, turn: Turn) -> Iterator[Metric]:
        agent = self._sources.agent
        yield _gauge("felix_active_local_endpoints", "Pod addresses on this node.", len(turn.pods))
        yield _gauge("felix_cluster_num_hosts", "Nodes in the cluster.", len(turn.snapshot.nodes))
        yield _gauge("felix_cluster_num_workload_endpoints", "Pods in the cluster.", len(turn.snapshot.pods))
        yield _gauge("felix_int_dataplane_failures", "Routes that the kernel refuses now.", turn.failures)
        yield _gauge("felix_route_table_num_routes", "Routes of ours in the kernel.", len(agent.writer.standing))
        yield _gauge("tortie_routes_unresolved", "Prefixes without a next hop in reach.", len(turn.routes.unresolved))
        yield _gauge(
            "tortie_routes_refused", "Prefixes inside own blocks, heard from others.", len(turn.routes.refused)
        )
        yield _gauge("tortie_routes_kept", "Routes kept until their source is in sync.", turn.kept)
        yield _gauge("tortie_ipam_blocks", "Confirmed blocks of this node.", len(turn.blocks))
        size = sum(block.num_addresses for block in turn.blocks if block.version == 4)
        yield _gauge("tortie_ipam_addresses_v4", "IPv4 addresses in them.", size)

    def _bgp(self) -> Iterator[Metric]:
        status = self._sources.link.status()
        yield _gauge("tortie_bgp_speaker_connected", "1 while the speaker is connected.", int(status.connected))
        yield _gauge("tortie_bgp_synced", "1 once every neighbour has said all it has.", int(status.synced))
        yield CounterMetricFamily("tortie_bgp_exabgp_starts", "Starts of ExaBGP.", value=status.starts)
        labels = ["peer", "source"]
        up = GaugeMetricFamily("tortie_bgp_session_up", "1 while established.", labels=labels)
        received = GaugeMetricFamily("tortie_bgp_prefixes_received", "Heard and not withdrawn.", labels=labels)
        sent = GaugeMetricFamily("tortie_bgp_prefixes_sent", "Sent and not withdrawn.", labels=labels)
        for view in status.neighbors:
            of = [str(view.neighbor.id), view.neighbor.source]
            up.add_metric(of, int(view.state is State.UP))
            received.add_metric(of, view.received)
            sent.add_metric(of, view.sent)
        yield from (up, received, sent)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
