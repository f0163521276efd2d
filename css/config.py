"""Every setting, its default, its bounds and why. Only frozen structs: `css/cli/settings.py` fills and checks them.

`config.example.toml` shows all of it; a test keeps the two equal.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Seconds = Annotated[float, msgspec.Meta(gt=0, le=604_800)]
Days = Annotated[float, msgspec.Meta(gt=0, le=3650)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class Aws(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How boto3 finds its way; empty means: as boto3 would by itself (environment, profile files, instance role)."""

    region: str = ""
    profile: str = ""
    endpoint_url: str = ""
    """One endpoint for SQS and ECS (a simulated region, a VPC endpoint); `AWS_ENDPOINT_URL` works as well."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where events come from."""

    queue: str = ""
    """Name, `sqs://name`, URL or ARN of the SQS queue, or `replay://FILE`; empty: no events, reconcile only."""
    receivers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    """Long polls side by side; one drains about a thousand events a second."""
    wait: Annotated[int, msgspec.Meta(ge=0, le=20)] = 20
    """Seconds of one long poll."""
    visibility_timeout: Annotated[int, msgspec.Meta(ge=10, le=43_200)] = 60
    """Seconds until an unacknowledged message comes again; extended while the store is behind."""
    account: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{12})?$", description="12 digits, or nothing")] = ""
    """Only events of this account are taken, others go to the quarantine; empty: any."""


class Store(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where state is kept: one file (default), or etcd when endpoints are given."""

    path: str = "css.db"
    etcd_endpoints: tuple[str, ...] = ()
    etcd_prefix: str = "ecs/"
    """The Go service's prefix; change it to share an etcd without sharing data."""
    etcd_user: str = ""
    etcd_password_file: str = ""
    etcd_ca: str = ""
    etcd_cert: str = ""
    etcd_key: str = ""
    tombstone_days: Days = 14.0
    """How long a removed object's version is remembered: as long as the queue may keep a late duplicate."""
    event_days: Days = 1.0
    """How long event log entries stay."""
    quarantine_days: Days = 14.0


class Writer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How changes are gathered into commits."""

    batch: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    linger_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 20.0


class Reconcile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Repair against the ECS API."""

    enabled: bool = True
    interval: Seconds = 1200.0
    rate: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 10.0
    """ECS API calls per second, of the account-wide 20 for these calls; 0: no limit."""
    burst: Count = 50
    clusters: tuple[str, ...] = ()
    """Cluster names (globs) to reconcile; empty: all."""


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """HTTP and websocket."""

    bind: str = "127.0.0.1:3000"
    max_connections: Count = 2000
    allowed_hosts: tuple[str, ...] = ()
    """Host headers accepted besides loopback names and the bound address; a load balancer's name goes here."""
    allowed_origins: tuple[str, ...] = ()
    """Browser origins that may connect besides this service's own."""
    drain: Seconds = 10.0
    """Seconds to finish what was begun after SIGTERM."""


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A bearer token: its SHA-256, so that the file holds no secret."""

    name: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$", description="64 lowercase hexadecimal digits")]


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may read. Without tokens only loopback is served, unless `insecure` says that is wanted."""

    token: tuple[Token, ...] = ()
    insecure: bool = False


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is said of the work: human on a terminal, JSON lines otherwise."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"
    file: str = ""
    """Empty: standard error."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration."""

    aws: Aws = Aws()
    source: Source = Source()
    store: Store = Store()
    writer: Writer = Writer()
    reconcile: Reconcile = Reconcile()
    server: Server = Server()
    auth: Auth = Auth()
    log: Log = Log()
    redact_environment: bool = True
    """Values of environment overrides are replaced before anything is stored; names are kept."""
