"""A simulated region for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from css.simulator.inventory import World
from css.simulator.region import Simulation
from tests.simulated_region import Region, running


@pytest.fixture
def region() -> Iterator[Callable[..., Region]]:
    """`region(**settings)`, or `region(world=...)`, starts one; it ends with the test."""
    with ExitStack() as stack:

        def start(world: World | None = None, **settings: Any) -> Region:
            return stack.enter_context(running(Simulation(**settings), world))

        yield start
