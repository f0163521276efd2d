"""argv and environment -> settings -> a command; the only place that ends the process. Decides nothing of the service.

Commands import what they need when they run: help is quick, and the terminal UI loads no AWS library.
A wrong setting is one line on standard error and exit status 2; a defect is a traceback and 1.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from css import __version__
from css.cli.argv import Command, overview, parse
from css.cli.flags import given, take_config, take_settings
from css.cli.settings import Settled, settle
from css.config import Config
from css.errors import ConfigError
from css.explain import printable


def main(argv: Sequence[str]) -> int:
    """Run a command; returns the exit status."""
    try:
        return _dispatch(list(argv))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException as error:
        causes = list(_leaves(error))
        if all(isinstance(cause, KeyboardInterrupt) for cause in causes):
            return 130
        if not all(isinstance(cause, ConfigError) for cause in causes):
            raise
        for cause in causes:
            print(f"css: {printable(str(cause))}", file=sys.stderr)
        return 2


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview(COMMANDS))
        return 0 if argv else 2
    if argv == ["--version"]:
        print(f"css {__version__}")
        return 0
    if argv[0].startswith("-"):
        argv = ["run", *argv]  # the Go service had no commands
    name, *rest = argv
    if name == "tui":
        from tui.__main__ import main as tui

        return tui(rest)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean {close[0]}?" if close else "see css --help"
        raise ConfigError(f'unknown command "{name}"; {advice}')
    command = COMMANDS[name]
    return command.perform(parse(name, command, rest))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _settle(args: argparse.Namespace) -> Settled:
    return settle(args.config, os.environ, given(args))


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    take_config(parser)
    take_settings(parser)
    parser.add_argument("--version", action="version", version=f"css {__version__}")


def _run(args: argparse.Namespace) -> int:
    from css.logsetup import configure

    settled = _settle(args)
    os.environ.update(settled.exports)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines on standard error are no JSON
    configure(settled.config.log)
    # The threads that talk to AWS and etcd share the interpreter with the event loop: at the default of 5 ms a commit
    # waits for its turn longer than for etcd.
    sys.setswitchinterval(0.0005)
    from css.service import run

    return loop(run, settled.config)


def loop(program: Callable[..., Any], *args: Any) -> int:
    """`trio.run`; a defect is also a line of the log."""
    import structlog
    import trio

    try:
        trio.run(program, *args)
    except Exception as error:
        if not all(isinstance(cause, ConfigError) for cause in _leaves(error)):
            structlog.get_logger().critical("ended by a defect", exc_info=error)
        raise
    return 0


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    from css.cli.simulate import world_arguments

    take_settings(parser, "server.bind", "store.path", "auth.insecure", "log.level", "log.file")
    world_arguments(parser)


def _demo(args: argparse.Namespace) -> int:
    from css.cli.demo import demo, isolate, settings
    from css.cli.simulate import chosen, world_flags
    from css.logsetup import configure

    chosen(args, world_only=True)  # a wrong flag is refused here, not by the region's own process
    isolate(os.environ)
    flags = given(args)
    config = settle(None, os.environ, [*settings(), *flags]).config
    configure(config.log)
    store = next((Path(config.store.path) for flag in flags if flag.key == "store.path"), None)
    if store and store.exists():
        raise ConfigError(f"--store: expected a new file, because the world is new; {store} exists")
    return loop(demo, config, world_flags(args), store)


def _simulate_arguments(parser: argparse.ArgumentParser) -> None:
    from css.cli.simulate import region_arguments, world_arguments

    world_arguments(parser)
    region_arguments(parser)


def _simulate(args: argparse.Namespace) -> int:
    from css.cli.signals import until_signal
    from css.cli.simulate import alone, chosen
    from css.logsetup import configure

    configure(settle(None, os.environ, []).config.log)
    return loop(until_signal, partial(alone, chosen(args), until_eof=args.until_eof))


def _record_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="appended to; play it back with --queue replay://FILE")
    take_config(parser)
    take_settings(parser, "source.queue", "redact_environment", "log.level", "log.file")
    parser.add_argument("--delete", action="store_true", help="delete recorded messages from the queue")


def _record(args: argparse.Namespace) -> int:
    from css.cli.signals import until_signal
    from css.logsetup import configure

    settled = _settle(args)
    if not settled.config.source.queue:
        raise ConfigError("--queue: source.queue: expected the queue to record, found nothing")
    os.environ.update(settled.exports)
    configure(settled.config.log)
    return loop(until_signal, partial(_record_queue, settled.config, args.file, delete=args.delete))


async def _record_queue(config: Config, path: Path, *, delete: bool) -> None:
    from css.metrics import Metrics
    from css.normalize import Policy
    from css.source import open_source
    from css.source.record import record
    from css.status import Status

    source = open_source(config, Status(), Metrics())
    try:
        path.open("ab").close()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    print(f"recording to {printable(str(path))}; Ctrl-C ends", file=sys.stderr)

    def said(count: int) -> None:
        print(f"{count} messages", file=sys.stderr, end="\r" if sys.stderr.isatty() else "\n", flush=True)

    await record(source, path, Policy(config.redact_environment, config.source.account), delete=delete, said=said)


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="FILE", type=Path, help="a TOML file")
    take_settings(parser)


def _check(args: argparse.Namespace) -> int:
    from css.cli.checkup import report
    from css.server.auth import refuse_open

    settled = _settle(args)
    refuse_open(settled.config)
    print("\n".join(report(args.config, settled)))
    return 0


COMMANDS: dict[str, Command] = {
    "run": Command(
        "run the service",
        "css run --queue event_stream --etcd-endpoint http://127.0.0.1:2379",
        _run_arguments,
        _run,
    ),
    "demo": Command(
        "run the service on a simulated region: no AWS account, nothing to set up",
        "css demo --tasks 500 --rate 20",
        _demo_arguments,
        _demo,
    ),
    "simulate": Command(
        "run a simulated region alone: an endpoint for SQS and ECS that boto3 can use",
        "css simulate --bind 127.0.0.1:4566 --tasks 1000 --rate 50 --duplicates 0.1",
        _simulate_arguments,
        _simulate,
    ),
    "record": Command(
        "record the messages of a queue to a file",
        "css record --queue event_stream_copy events.jsonl",
        _record_arguments,
        _record,
    ),
    "check-config": Command(
        "check a configuration file, and show what would be used",
        "css check-config css.toml",
        _check_arguments,
        _check,
    ),
}
