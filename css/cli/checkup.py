"""What `css check-config` says: the settings that differ from their defaults, where from, and what looks wrong.

Reads no file's contents, only whether they could be read; reaches nothing over the network.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from css.cli.settings import Settled
from css.config import Config
from css.explain import printable


def report(file: Path, settled: Settled) -> list[str]:
    """The lines of the answer."""
    lines = [f"{file}: ok"]
    default = dict(_flat(msgspec.to_builtins(Config())))
    for key, value in _flat(msgspec.to_builtins(settled.config)):
        origin = settled.origins.get(key, "")
        elsewhere = origin not in ("", str(file))
        if elsewhere and key.startswith("aws.") and not value:
            lines.append(f"  {key}: what {origin} says")
        elif value != default[key] or elsewhere:
            lines.append(f"  {key} = {_toml(value)}" + (f"  ({origin})" if elsewhere else ""))
    lines += [f"  {name} = {_toml(value)}  (environment, for boto3)" for name, value in settled.exports.items()]
    lines.append("  everything else has its default")
    lines += [f"warning: {warning}" for warning in warnings(settled.config)]
    return [printable(line) for line in lines]


def warnings(config: Config) -> Iterator[str]:
    """What is allowed, and yet hardly meant."""
    for key in ("etcd_password_file", "etcd_ca", "etcd_cert", "etcd_key"):
        path = getattr(config.store, key)
        if path and not os.access(path, os.R_OK):
            yield f"store.{key}: {path} cannot be read by this user"
    if not config.store.etcd_endpoints and not os.access(_nearest(Path(config.store.path)), os.W_OK):
        yield f"store.path: {config.store.path} cannot be written by this user"
    if not config.source.queue and not config.reconcile.enabled:
        yield "neither source.queue nor reconcile.enabled: nothing will ever change"
    if not config.source.queue and config.reconcile.enabled:
        yield "no source.queue: changes are seen only every reconcile.interval"
    if not config.redact_environment:
        yield "redact_environment is off: values of environment overrides are stored and served"
    if config.auth.insecure:
        yield "auth.insecure is on: whoever reaches the address may read everything"


def _flat(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _toml(value: object) -> str:
    match value:
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case Mapping():
            return f"{{name = {_toml(value.get('name'))}, ...}}"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case _:
            return str(value)


def _nearest(path: Path) -> Path:
    """The folder above that exists: the ones below it are made when the service starts."""
    return next(folder for folder in path.absolute().parents if folder.exists())
