"""What goes wrong on the way, decided by chance: to events between the world and the queue, to requests.

Pure; seeded apart from the world, so that faults never change what happens in it. The knobs are `settings.Faults`.
"""

from __future__ import annotations

from random import Random
from typing import Literal

import msgspec

from css.simulator.settings import Faults

Verdict = Literal["", "error", "throttled"]


class FaultCounts(msgspec.Struct):
    """What was done so far."""

    lost: int = 0
    duplicated: int = 0
    late: int = 0
    errors: int = 0
    throttled: int = 0
    describe_failures: int = 0


class FaultPlan:
    """Applies `knobs`, which may be replaced at any time."""

    def __init__(self, knobs: Faults, seed: int) -> None:
        self.knobs = knobs
        self.counts = FaultCounts()
        self._rng = Random(f"faults {seed}")
        self._tokens = float(knobs.throttle_burst)
        self._filled_at = 0.0

    def __repr__(self) -> str:
        return f"<FaultPlan {self.knobs!r}>"

    def deliveries(self) -> list[float]:
        """After how many seconds an event comes: once normally, twice or not at all by chance."""
        knobs = self.knobs
        if self._happens(knobs.loss):
            self.counts.lost += 1
            return []
        duplicate = self._happens(knobs.duplicates)
        self.counts.duplicated += duplicate
        return [self._delay() for _ in range(1 + duplicate)]

    def request(self, service: str, now: float) -> Verdict:
        """What becomes of a request to `service` ("ecs", "sqs")."""
        if service == "ecs" and not self._token(now):
            self.counts.throttled += 1
            return "throttled"
        if service in self.knobs.services and self._happens(self.knobs.errors):
            self.counts.errors += 1
            return "error"
        return ""

    def latency(self, service: str) -> float:
        """Seconds that a request waits."""
        knobs = self.knobs
        return knobs.latency * self._rng.uniform(0.5, 1.5) if service in knobs.services else 0.0

    def hangs(self, service: str) -> bool:
        return self.knobs.hang and service in self.knobs.services

    def describe_fails(self) -> bool:
        fails = self._happens(self.knobs.describe_failures)
        self.counts.describe_failures += fails
        return fails

    def _delay(self) -> float:
        if not self._happens(self.knobs.late):
            return 0.0
        self.counts.late += 1
        return self._rng.uniform(0.0, self.knobs.late_seconds)

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._rng.random() < probability

    def _token(self, now: float) -> bool:
        """Take a token of the bucket that ECS keeps per account."""
        knobs = self.knobs
        if not knobs.throttle:
            return True
        self._tokens = min(knobs.throttle_burst, self._tokens + (now - self._filled_at) * knobs.throttle)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
