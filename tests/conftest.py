"""What several folders of tests share: one etcd, and simulated regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from css.simulator.inventory import World
from css.simulator.region import Simulation
from tests.etcd_server import EtcdServer
from tests.simulated_region import Region, running


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """For tests that are not about durability; each takes a prefix of its own in it."""
    with EtcdServer(tmp_path_factory.mktemp("etcd"), fsync=False) as server:
        yield server


@pytest.fixture
def region() -> Iterator[Callable[..., Region]]:
    """`region(**settings)`, or `region(world=...)`, starts one; it ends with the test."""
    with ExitStack() as stack:

        def start(world: World | None = None, **settings: Any) -> Region:
            return stack.enter_context(running(Simulation(**settings), world))

        yield start
