"""The service's own metrics, in one registry. Labels are bounded: kinds, reasons, operations, never ids or names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector


class Metrics:
    """One per service; passed to the actors, each of which moves its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.received = Counter("css_messages_received", "Messages taken from a source", ["source"], registry=registry)
        self.acknowledged = Counter(
            "css_messages_acknowledged", "Messages deleted at the source", ["source"], registry=registry
        )
        self.source_errors = Counter("css_source_errors", "Failed calls to a source", ["operation"], registry=registry)
        self.queue_depth = Gauge("css_queue_depth", "Messages waiting in the queue", registry=registry)
        self.rejected = Counter(
            "css_messages_rejected", "Messages put on the quarantine shelf", ["reason"], registry=registry
        )
        self.changes = Counter("css_changes", "Changes decided by the writer", ["kind", "outcome"], registry=registry)
        self.commits = Histogram(
            "css_commit_seconds",
            "Time of one store commit",
            registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
        )
        self.store_errors = Counter(
            "css_store_errors", "Times the store could not serve", ["operation"], registry=registry
        )
        self.event_lag = Gauge("css_event_lag_seconds", "Between an event's time and its arrival", registry=registry)
        self.revision = Gauge("css_revision", "Revision of the view", registry=registry)
        self.objects = Gauge("css_objects", "Objects held, by kind", ["kind"], registry=registry)
        self.relists = Counter("css_store_relists", "Times the view was loaded from a snapshot", registry=registry)
        self.ecs_calls = Counter("css_ecs_calls", "Calls to the ECS API", ["operation", "outcome"], registry=registry)
        self.reconciles = Counter("css_reconcile_passes", "Reconcile passes", ["outcome"], registry=registry)
        self.drift = Counter("css_drift", "Corrections by reconcile passes", ["kind", "what"], registry=registry)
        self.requests = Counter("css_http_requests", "HTTP requests answered", ["route", "status"], registry=registry)
        self.connections = Gauge("css_http_connections", "Open connections", registry=registry)
        self.followers = Gauge("css_followers", "Open streams and websockets", ["route"], registry=registry)
        self.resyncs = Counter("css_resyncs", "Followers that had to start over", ["reason"], registry=registry)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
