"""The connection to etcd: a channel per endpoint, deadlines, tokens, and what its errors mean. Knows no record.

Uses the stubs and messages of `etcd3.etcdrpc` only: that package's client shuns a failed endpoint for 300 s, and its
watcher can die in silence. Calls block: they are made in threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from etcd3 import etcdrpc

from css.config import Store as Settings
from css.errors import Compacted, ConfigError, CssError, Rejected, Unavailable

_DEADLINE = 5.0
"""Seconds of one call; a leader election takes about two."""

_OPTIONS = (
    # A catching-up watch answers with as much as there is: the usual 4 MiB would end it, again and again.
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


class Wire:
    """Calls one endpoint until it fails, then the next. Safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        self._endpoints = [_target(endpoint) for endpoint in settings.etcd_endpoints]
        self._credentials = _credentials(settings) if any(tls for _, tls in self._endpoints) else None
        self._user = settings.etcd_user
        self._password = _read(settings.etcd_password_file, "store.etcd_password_file").decode().strip("\r\n")
        self._channels: dict[int, grpc.Channel] = {}
        self._current = 0
        self._token: str | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Wire {self.endpoint} of {len(self._endpoints)}>"

    @property
    def endpoint(self) -> str:
        """The one in use."""
        return self._endpoints[self._current][0]

    def kv(self, method: str, request: Any) -> Any:
        """A call of the KV service. Raises the errors of our vocabulary."""
        return self._call(lambda channel: getattr(etcdrpc.KVStub(channel), method), request)

    def grant(self, seconds: int) -> int:
        """A new lease that lives so long without being kept alive; its id."""
        request = etcdrpc.LeaseGrantRequest(TTL=max(1, seconds))
        return int(self._call(lambda channel: etcdrpc.LeaseStub(channel).LeaseGrant, request).ID)

    def watch(self, requests: Iterator[Any]) -> Any:
        """An open watch stream: an iterator of responses with `cancel()`. Errors: translate with `translated`."""
        return etcdrpc.WatchStub(self._channel()).Watch(requests, metadata=(*self._metadata(), _NEEDS_LEADER))

    def translated(self, error: grpc.RpcError) -> CssError:
        """What a failed call or stream means; the next call goes to the next endpoint if this one is to blame."""
        code, details = error.code(), str(error.details() or "")
        if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
            return Compacted()
        if "request is too large" in details or "larger than max" in details:
            return Rejected("too large", details)
        if code is grpc.StatusCode.UNAUTHENTICATED or "invalid auth token" in details:
            self._token = None
        elif "space exceeded" not in details:
            self._rotate()
        advice = " (its quota is used up: compact, defragment, disarm the alarm)" if "space exceeded" in details else ""
        return Unavailable("etcd", f"{self.endpoint}: {details or code.name}{advice}")

    def forget_token(self) -> None:
        """The next call authenticates anew."""
        self._token = None

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _call(self, method: Callable[[grpc.Channel], Any], request: Any) -> Any:
        for again in (True, False):
            try:
                return method(self._channel())(request, timeout=_DEADLINE, metadata=self._metadata())
            except grpc.RpcError as error:
                # A token dies with its time, and with etcd: a new one at once, and the same call again.
                stale = error.code() is grpc.StatusCode.UNAUTHENTICATED or "invalid auth token" in str(error.details())
                if again and stale and self._user:
                    self._token = None
                    continue
                raise self.translated(error) from error
        raise AssertionError("unreachable")

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        if not self._user:
            return ()
        with self._lock:
            if self._token is None:
                request = etcdrpc.AuthenticateRequest(name=self._user, password=self._password)
                try:
                    self._token = etcdrpc.AuthStub(self._channel()).Authenticate(request, timeout=_DEADLINE).token
                except grpc.RpcError as error:
                    raise self.translated(error) from error
            return (("token", self._token),)

    def _channel(self) -> grpc.Channel:
        index = self._current
        channel = self._channels.get(index)
        if channel is None:
            target, tls = self._endpoints[index]
            if tls:
                channel = grpc.secure_channel(target, self._credentials, options=_OPTIONS)
            else:
                channel = grpc.insecure_channel(target, options=_OPTIONS)
            self._channels[index] = channel
        return channel

    def _rotate(self) -> None:
        self._current = (self._current + 1) % len(self._endpoints)


def _target(endpoint: str) -> tuple[str, bool]:
    """`host:port` and whether it speaks TLS, of `host:port`, `http://host:port` or `https://host:port`."""
    parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None or parts.path.strip("/"):
        raise ConfigError(f"store.etcd_endpoints: expected host:port or http(s)://host:port, found {endpoint!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", parts.scheme == "https"


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


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else b"\0"
