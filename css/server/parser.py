"""Bytes -> requests. llhttp (httptools) parses; the checks that it does not make are here. Pure: no I/O, no clock.

Whatever is wrong ends the connection after its answer: what follows on it cannot be trusted any more.
"""

from __future__ import annotations

from collections import deque

import httptools
import msgspec

from css.server.http import Limits, Request

# What may have come together with a head: the end of what was before it.
_READ_AHEAD = 16 * 1024

# llhttp takes HTTP/2.0, 0.9, RTSP and ICE too.
_VERSIONS = ("1.1", "1.0")

# Names that an intermediary might read otherwise than we do, if sent twice.
_ONCE = frozenset({"host", "content-length", "transfer-encoding", "authorization", "origin", "upgrade"})


class BadRequest(Exception):
    """What arrived is no request that we serve; `status` and `why` are the answer."""

    def __init__(self, status: int, why: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.headers = headers


class Arrived(msgspec.Struct, frozen=True):
    """A complete request, and what it means for its connection."""

    request: Request
    keep: bool
    """The connection may go on after the answer."""
    chunks: bool
    """The client understands an answer in chunks (HTTP/1.0 does not)."""


class RequestParser:
    """One connection's input. `requests` holds those that are complete; `begun` says that one is under way."""

    def __init__(self, limits: Limits, peer: str) -> None:
        self.requests: deque[Arrived] = deque()
        self.upgraded: bytes | None = None
        """After a request to change the protocol: the bytes that followed it."""
        self._limits = limits
        self._peer = peer
        self._parser = httptools.HttpRequestParser(self)
        self._begun = False
        self._fed = 0
        self.in_head = True
        self._expect = False
        self._reset()

    @property
    def begun(self) -> bool:
        """Anything has come of a request that is not complete."""
        return self._begun or self._fed > 0

    def feed(self, data: bytes) -> None:
        """Take in what arrived. Raises `BadRequest`."""
        self._check_size(len(data))
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.upgraded = data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, BadRequest):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise BadRequest(400, f"malformed request: {str(error)[:200]}") from error

    def _check_size(self, more: int) -> None:
        # A header, a trailer or a chunk's extension that never ends is not seen by the callbacks before it does.
        self._fed += more
        room = self._limits.head + self._limits.url + _READ_AHEAD
        if self.in_head and self._fed > room:
            raise BadRequest(431, f"a head of more than {self._limits.head} bytes")
        if self._fed > room + 2 * self._limits.body:
            raise BadRequest(413, f"a body of more than {self._limits.body} bytes, with what frames it")

    def expects_continue(self) -> bool:
        """Whether the client waits for a word before it sends the body; asked once per request."""
        expected, self._expect = self._expect, False
        return expected and self.begun

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._reset()
        self._begun = True

    def on_url(self, piece: bytes) -> None:
        self._target += piece
        if len(self._target) > self._limits.url:
            raise BadRequest(414, f"a URL of more than {self._limits.url} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if self._head_size > self._limits.head:
            raise BadRequest(431, f"a head of more than {self._limits.head} bytes")
        if not self.in_head:
            return  # a trailer: nobody between us and the client has judged it as they did the headers
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        if key in self._headers:
            if key in _ONCE:
                raise BadRequest(400, f"more than one {key} header")
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        headers = self._headers
        self.in_head = False
        self._version = self._parser.get_http_version()
        if self._version not in _VERSIONS:
            raise BadRequest(505, "HTTP/1.1 is spoken here")
        if not self._target.startswith(b"/") or not self._target.isascii():
            raise BadRequest(400, "the target must be an absolute path in ASCII")
        if "host" not in headers and self._version != "1.0":
            raise BadRequest(400, "no Host header")
        if "transfer-encoding" in headers and "content-length" in headers:
            raise BadRequest(400, "both Content-Length and Transfer-Encoding")
        if "transfer-encoding" in headers and self._version == "1.0":
            raise BadRequest(400, "HTTP/1.0 knows no Transfer-Encoding")
        if int(headers.get("content-length", 0)) > self._limits.body:
            raise BadRequest(413, f"a body of more than {self._limits.body} bytes")
        if "upgrade" in headers and not all(value.isascii() for value in headers.values()):
            raise BadRequest(400, "an upgrade with a header that is not ASCII")
        self._expect = headers.get("expect", "").lower() == "100-continue"

    def on_body(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limits.body:
            raise BadRequest(413, f"a body of more than {self._limits.body} bytes")
        self._body.append(piece)

    def on_message_complete(self) -> None:
        path, _, query = self._target.decode("ascii").partition("?")
        method = self._parser.get_method().decode("ascii")
        request = Request(method, path, query, self._headers, b"".join(self._body), self._peer)
        chunks = self._version != "1.0"
        # Keep-alive of HTTP/1.0 would have to be said in the answer; it is not worth that.
        self.requests.append(Arrived(request, chunks and self._parser.should_keep_alive(), chunks))
        self._begun, self._fed, self.in_head = False, 0, True

    def _reset(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._body: list[bytes] = []
        self._size = 0
        self._expect = False
        self._version = ""
