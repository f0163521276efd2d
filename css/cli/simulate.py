"""`css simulate`: a simulated region in a process of its own, and the flags that choose its world and its faults."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from functools import partial

import trio

from css.explain import convert, number
from css.simulator.region import simulate
from css.simulator.settings import Simulation

_WORLD = (
    ("clusters", "how many clusters"),
    ("services", "services of each cluster"),
    ("tasks", "running tasks at the start, over all clusters"),
    ("rate", "changes per second in the long run; 0: a still world"),
    ("seed", "the same seed makes the same world"),
)
_REGION = (
    ("bind", "address and port; port 0 takes a free one"),
    ("region", "name of the region"),
    ("account", "account, 12 digits"),
    ("queue", "name of the queue"),
    ("retention", "seconds after which ECS forgets a stopped task"),
    ("preload", "events that lie in the queue at the start"),
)
_FAULTS = (
    ("duplicates", "share of events that come twice, 0 to 1"),
    ("reorder", "messages come in any order within a window of so many"),
    ("loss", "share of events that never come"),
    ("late", "share of events that come late"),
    ("late-seconds", "how late at most"),
    ("errors", "share of requests answered with a 5xx"),
    ("describe-failures", "share of described objects answered as a failure"),
    ("throttle", "ECS calls per second beyond which calls are throttled; 0: never"),
    ("throttle-burst", "so many calls at once before that"),
    ("latency", "seconds that each request waits, give or take a half"),
)
_TEXTS = {"bind", "region", "account", "queue"}
_DEFAULTS = Simulation()


def world_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the world: also those of `css demo`."""
    _add(parser.add_argument_group("the world"), _WORLD, _DEFAULTS)


def region_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the endpoint and its faults."""
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    _add(parser.add_argument_group("the region"), _REGION, _DEFAULTS)
    _add(parser.add_argument_group("faults (none by default)"), _FAULTS, _DEFAULTS.faults)


def _add(group: argparse._ArgumentGroup, flags: tuple[tuple[str, str], ...], defaults: object) -> None:
    for name, text in flags:
        default = getattr(defaults, name.replace("-", "_"))
        metavar = "TEXT" if name in _TEXTS else "N"
        group.add_argument(f"--{name}", metavar=metavar, help=f"{text} (default {default})")


def world_flags(args: argparse.Namespace) -> list[str]:
    """The world's flags as they were given, for another process."""
    return [f"--{name}={getattr(args, name)}" for name, _ in _WORLD if getattr(args, name) is not None]


def chosen(args: argparse.Namespace, *, world_only: bool = False) -> Simulation:
    """The settings that the flags choose. Raises `ConfigError`."""
    flags = _WORLD if world_only else (*_WORLD, *_REGION, *_FAULTS)
    given = {flag: getattr(args, flag.replace("-", "_")) for flag, _ in flags}
    document: dict[str, object] = {}
    faults: dict[str, object] = {}
    origins = {}
    for flag, text in given.items():
        if text is None:
            continue
        name, fault = flag.replace("-", "_"), flag in dict(_FAULTS)
        (faults if fault else document)[name] = text if flag in _TEXTS else number(text)
        origins[f"faults.{name}" if fault else name] = f"--{flag}"
    return convert({**document, "faults": faults}, Simulation, "css simulate", origins)


async def alone(settings: Simulation, *, until_eof: bool) -> None:
    """Run a region and say where; `until_eof`: end with standard input, so that no parent leaves one behind."""
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(simulate, settings))
        _say(
            f"{url}\n"  # the first line is for programs, the rest for people
            f"{settings.tasks} tasks in {settings.clusters} clusters, {settings.rate:g} changes a second; try\n\n"
            f"  AWS_ENDPOINT_URL={url} AWS_REGION={settings.region} AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x \\\n"
            f"    css run --queue {settings.queue} --reconcile-rate 0\n\n"
        )
        if until_eof:
            async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
                while await stdin.receive_some(4096):
                    pass
            nursery.cancel_scope.cancel()


def _say(text: str) -> None:
    """To standard output, past its buffer: a reader that has left is no defect, now or at exit."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), text.encode())
