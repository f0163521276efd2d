"""The flags that choose settings, among them all of the Go service's, and what was given of them. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from css.cli.settings import Setting, level
from css.errors import ConfigError
from css.explain import number

_SETTINGS: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
    (
        "source.queue",
        ("--queue", "--queue_name"),
        {"metavar": "QUEUE", "help": "SQS queue: name, sqs://NAME, URL or ARN; or replay://FILE"},
    ),
    (
        "server.bind",
        ("--bind",),
        {"metavar": "HOST:PORT", "help": "address to serve (default 127.0.0.1:3000); :PORT means every address"},
    ),
    (
        "store.etcd_endpoints",
        ("--etcd-endpoint",),
        {"metavar": "URL", "action": "append", "help": "keep state in etcd; may be given several times"},
    ),
    ("store.path", ("--store",), {"metavar": "FILE", "help": "keep state in this file (default css.db)"}),
    (
        "reconcile.rate",
        ("--reconcile-rate",),
        {"metavar": "CALLS_PER_SECOND", "help": "ECS API calls per second (default 10); 0: no limit"},
    ),
    (
        "auth.insecure",
        ("--insecure",),
        {"action": "store_const", "const": True, "help": "serve other addresses than loopback without authentication"},
    ),
    (
        "redact_environment",
        ("--keep-environment",),
        {"action": "store_const", "const": False, "help": "store the values of environment overrides as they come"},
    ),
    ("log.level", ("--log-level",), {"metavar": "LEVEL", "help": "debug, info, warning or error"}),
    ("log.file", ("--log-file",), {"metavar": "FILE", "help": "append the log to this file (default: standard error)"}),
)
_MEANING: dict[str, Callable[[Any], object]] = {
    "reconcile.rate": number,
    "log.level": level,
    "store.etcd_endpoints": lambda texts: [endpoint for text in texts for endpoint in text.split(",")],
}
"""What a flag's text becomes. Endpoints may also be joined by commas, as etcd's own tools take them."""


def take_settings(parser: argparse.ArgumentParser, *keys: str) -> None:
    """Let `parser` take the flags of these settings (none named: of all)."""
    for key, flags, how in _SETTINGS:
        if not keys or key in keys:
            parser.add_argument(*flags, dest=key, **how)


def take_config(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take a configuration file."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="TOML; config.example.toml shows every setting")


def given(args: argparse.Namespace) -> list[Setting]:
    """What the command line says of the settings. Raises `ConfigError`."""
    flags = []
    for key, names, _ in _SETTINGS:
        value = getattr(args, key, None)
        if value is not None:
            meaning = _MEANING.get(key)
            flags.append(Setting(key, meaning(value) if meaning else value, names[0]))
    keys = {setting.key for setting in flags}
    if {"store.path", "store.etcd_endpoints"} <= keys:
        raise ConfigError("--store and --etcd-endpoint: expected one of them, found both")
    if "store.path" in keys:
        flags.append(Setting("store.etcd_endpoints", [], "--store"))  # the file's endpoints do not outlive the flag
    return flags
