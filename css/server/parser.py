"""Bytes -> requests. llhttp (httptools) parses; the checks that it does not make are here. Pure: no I/O, no clock.

Whatever is wrong ends the connection after its answer: what follows on it cannot be trusted any more.
"""

from __future__ import annotations

from collections import deque

import httptools

from css.server.http import Limits, Request

# What may have come together with a head: the end of what was before it.
_READ_AHEAD = 16 * 1024

# Names that an intermediary might read otherwise than we do, if sent twice.
_ONCE = frozenset({"host", "content-length", "transfer-encoding", "authorization", "origin", "upgrade"})


class BadRequest(Exception):
    """What arrived is no request that we serve; `status` and `why` are the answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


class RequestParser:
    """One connection's input. `requests` holds those that are complete; `begun` says that one is under way."""

    def __init__(self, limits: Limits, peer: str) -> None:
        self.requests: deque[tuple[Request, bool]] = deque()
        """Complete requests, each with whether the connection may go on after its answer."""
        self.begun = False
        self.upgraded: bytes | None = None
        """After a request to change the protocol: the bytes that followed it."""
        self._limits = limits
        self._peer = peer
        self._parser = httptools.HttpRequestParser(self)
        self._expect = False
        self._in_head, self._head_bytes = True, 0
        self._reset()

    def feed(self, data: bytes) -> None:
        """Take in what arrived. Raises `BadRequest`."""
        if self._in_head:  # a header that never ends is not seen before it does
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head + self._limits.url + _READ_AHEAD:
                raise BadRequest(431, f"a head of more than {self._limits.head} bytes")
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

    def expects_continue(self) -> bool:
        """Whether the client waits for a word before it sends the body; asked once per request."""
        expected, self._expect = self._expect, False
        return expected and self.begun

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._reset()
        self.begun = True

    def on_url(self, piece: bytes) -> None:
        self._target += piece
        if len(self._target) > self._limits.url:
            raise BadRequest(414, f"a URL of more than {self._limits.url} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if self._head_size > self._limits.head:
            raise BadRequest(431, f"a head of more than {self._limits.head} bytes")
        text = name.decode("latin-1").lower()
        if text in self._headers:
            if text in _ONCE:
                raise BadRequest(400, f"more than one {text} header")
            self._headers[text] += ", " + value.decode("latin-1")
        else:
            self._headers[text] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        headers = self._headers
        self._in_head = False
        if not self._target.startswith(b"/") or not self._target.isascii():
            raise BadRequest(400, "the target must be an absolute path in ASCII")
        if "host" not in headers and self._parser.get_http_version() != "1.0":
            raise BadRequest(400, "no Host header")
        if "transfer-encoding" in headers and "content-length" in headers:
            raise BadRequest(400, "both Content-Length and Transfer-Encoding")
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
        self.requests.append((request, self._parser.should_keep_alive()))
        self.begun = False
        self._in_head, self._head_bytes = True, 0

    def _reset(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._body: list[bytes] = []
        self._size = 0
        self._expect = False
