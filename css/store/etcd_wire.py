"""The connection to etcd: a channel per endpoint, deadlines, tokens, and what its errors mean. Knows no record.

Uses the stubs and messages of `etcd3.etcdrpc` only: that package's client shuns a failed endpoint for 300 s, and its
watcher can die in silence. Calls block: they are made in threads. Needs etcd 3.4 or newer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from etcd3 import etcdrpc

from css.config import Store as Settings
from css.errors import Compacted, ConfigError, CssError, Rejected, Unavailable

DEADLINE = 5.0
"""Seconds of one call; a leader election takes about two."""

_OPTIONS = (
    # A page of large objects, or what a lost batch really holds: the usual 4 MiB would fail it, again and again.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A frozen etcd is noticed in 14 s with all three; without the last it takes 69 s, without any for ever.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
)
_NEEDS_LEADER = ("hasleader", "true")

_ENDPOINT_TO_BLAME = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
_STALE_TOKEN = ("invalid auth token", "auth store is old", "user name is empty")


class Peer:
    """One endpoint: its name, and the services behind its channel, which connects on first use and again when lost."""

    def __init__(self, target: str, channel: grpc.Channel) -> None:
        self.target = target
        self.channel = channel
        self.kv = etcdrpc.KVStub(channel)
        self.lease = etcdrpc.LeaseStub(channel)
        self.watch = etcdrpc.WatchStub(channel)
        self.auth = etcdrpc.AuthStub(channel)


class Wire:
    """Calls one endpoint until it fails, then the next. Safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        targets = [_target(endpoint) for endpoint in settings.etcd_endpoints]
        if not targets:
            raise ConfigError("store.etcd_endpoints: expected at least one host:port, found none")
        self._user = settings.etcd_user
        self._password = _read(settings.etcd_password_file, "store.etcd_password_file").decode().strip("\r\n")
        credentials = _credentials(settings) if any(tls for _, tls in targets) else None
        self._peers = [Peer(target, _channel(target, credentials if tls else None)) for target, tls in targets]
        self._current = 0
        self._token = ""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Wire {self.peer.target}, one of {len(self._peers)}>"

    @property
    def peer(self) -> Peer:
        """The endpoint in use."""
        return self._peers[self._current]

    def kv(self, method: str, request: Any) -> Any:
        """A call of the KV service. Raises the errors of our vocabulary."""
        return self._call("kv", method, request)

    def grant(self, seconds: int) -> int:
        """A new lease that lives so long without being kept alive; its id."""
        return int(self._call("lease", "LeaseGrant", etcdrpc.LeaseGrantRequest(TTL=max(1, seconds))).ID)

    def watch(self, peer: Peer, requests: Iterator[Any]) -> Any:
        """A watch stream: an iterator of responses with `cancel()`. Its errors are for `translated`."""
        token = self._authenticate(peer)
        return peer.watch.Watch(requests, metadata=(*_metadata(token), _NEEDS_LEADER))

    def translated(self, error: grpc.RpcError, peer: Peer) -> CssError:
        """What a failed call or stream means; the next call goes to the next endpoint if this one is to blame."""
        code, details = error.code(), str(error.details() or "")
        if code is grpc.StatusCode.OUT_OF_RANGE:
            return Compacted()
        if "request is too large" in details or "larger than max" in details:
            return Rejected("too large", details)
        if code in _ENDPOINT_TO_BLAME and peer is self.peer:
            self._current = (self._current + 1) % len(self._peers)
        advice = " (its quota is used up: compact, defragment, disarm the alarm)" if "space exceeded" in details else ""
        return Unavailable("etcd", f"{peer.target}: {details or code.name}{advice}")

    def forget_token(self) -> None:
        """The next call authenticates anew."""
        self._token = ""

    def close(self) -> None:
        for peer in self._peers:
            peer.channel.close()

    def _call(self, service: str, method: str, request: Any) -> Any:
        for again in (True, False):
            peer = self.peer
            token = self._authenticate(peer)
            try:
                return getattr(getattr(peer, service), method)(request, timeout=DEADLINE, metadata=_metadata(token))
            except grpc.RpcError as error:
                # A token dies with its time, and with etcd. Nothing was done then: the same call again, with a new one.
                if again and self._user and _is_stale(error):
                    self._renounce(token)
                    continue
                raise self.translated(error, peer) from error
        raise AssertionError("unreachable")

    def _authenticate(self, peer: Peer) -> str:
        """The token, a new one if there is none; "" where none is needed."""
        if not self._user:
            return ""
        with self._lock:
            if not self._token:
                request = etcdrpc.AuthenticateRequest(name=self._user, password=self._password)
                try:
                    self._token = peer.auth.Authenticate(request, timeout=DEADLINE).token
                except grpc.RpcError as error:
                    if "authentication is not enabled" in str(error.details()):
                        return ""
                    raise self.translated(error, peer) from error
            return self._token

    def _renounce(self, token: str) -> None:
        with self._lock:
            if self._token == token:  # unless another thread has got a new one meanwhile
                self._token = ""


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("token", token),) if token else ()


def _is_stale(error: grpc.RpcError) -> bool:
    details = str(error.details() or "")
    return error.code() is grpc.StatusCode.UNAUTHENTICATED or any(text in details for text in _STALE_TOKEN)


def _channel(target: str, credentials: Any) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, options=_OPTIONS)
    return grpc.secure_channel(target, credentials, options=_OPTIONS)


def _target(endpoint: str) -> tuple[str, bool]:
    """`host:port` and whether it speaks TLS, of `host:port`, `http://host:port` or `https://host:port`."""
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query:
        raise ConfigError(f"store.etcd_endpoints: expected host:port or http(s)://host:port, found {endpoint!r}")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}", parts.scheme == "https"


def _credentials(settings: Settings) -> Any:
    return grpc.ssl_channel_credentials(
        _read(settings.etcd_ca, "store.etcd_ca") or None,
        _read(settings.etcd_key, "store.etcd_key") or None,
        _read(settings.etcd_cert, "store.etcd_cert") or None,
    )


def _read(path: str, setting: str) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot be read: {error}") from error
