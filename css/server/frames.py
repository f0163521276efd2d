"""What a client's websocket frames may cost. Pure: the caller brings the clock.

trio-websocket bounds the size of a message, but neither the rate of frames (each ping is answered) nor the number of a
message's pieces (empty ones add up for ever). So what comes in passes here first; only frame headers are looked at.
"""

from __future__ import annotations

from css.server.http import Limits

POLICY_VIOLATION = 1008
TOO_BIG = 1009

_BURST = 4.0
_PIECES = 64
_FINAL, _CONTROL, _MASKED, _LENGTH = 0x80, 0x08, 0x80, 0x7F


class FrameGate:
    """Says when a client exceeds the limits on a frame's size, on frames in time, on pieces of a message."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._head = b""
        self._skip = 0
        self._pieces = 0
        self._most = _BURST * limits.frames_per_second
        self._tokens = self._most
        self._at = now

    def feed(self, data: bytes, now: float) -> int:
        """The close code of a violation, else 0."""
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._limits.frames_per_second)
        self._at = now
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
                continue
            self._head += data[position : position + 1]
            position += 1
            violation = self._judge()
            if violation:
                return violation
        return 0

    def _judge(self) -> int:
        """Look at the header gathered so far; nothing to say until it is whole."""
        head = self._head
        if len(head) < 2:
            return 0
        size = head[1] & _LENGTH
        extended = {126: 2, 127: 8}.get(size, 0)
        if len(head) < 2 + extended:
            return 0
        if extended:
            size = int.from_bytes(head[2:], "big")
        if size > self._limits.message:
            return TOO_BIG
        self._head = b""
        self._skip = size + (4 if head[1] & _MASKED else 0)
        self._tokens -= 1
        if not head[0] & _CONTROL:
            self._pieces = 0 if head[0] & _FINAL else self._pieces + 1
        return POLICY_VIOLATION if self._tokens < 0 or self._pieces > _PIECES else 0
