"""The Go service's recorded answers (tests/data/conformance/v1.json): reading them, and comparing ours with them.

Scenario name -> steps, in order; each scenario starts with an empty store, queue and ECS API. A step's `op`:
`world` (`clusters`: cluster ARN -> `tasks`, `instances`: what the ECS API describes, times in epoch seconds; the first
reconcile ends before the next step), `preload` (`key`, `value` already in the store), `message` (`body`, `poison`),
`request` (`method`, `path`, `answer`), `count` (`path`, `answer`: the number of items), `note-version` (`path`: that
object's `entityVersion` is `$VERSION` in later paths), `stream` (`path`, `feed`: events sent once it is open, `answer`
with `lines`). An `answer` lists what must be equal; `"$V"` stands for any entity version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"

Step = dict[str, Any]


def load() -> dict[str, list[Step]]:
    """The scenarios."""
    scenarios: dict[str, list[Step]] = json.loads((DATA / "conformance" / "v1.json").read_text(encoding="utf-8"))
    return scenarios


def matches(
    answer: Mapping[str, Any], status: int, content_type: str, body: bytes, headers: Mapping[str, str]
) -> list[str]:
    """What of a whole answer differs from the recorded one; header names are lower case."""
    differences = []
    if status != answer["status"]:
        differences.append(f"status {status}, not {answer['status']}")
    if "content_type" in answer and content_type != answer["content_type"]:
        differences.append(f"content type {content_type!r}, not {answer['content_type']!r}")
    if "location" in answer and headers.get("location") != answer["location"]:
        differences.append(f"location {headers.get('location')!r}, not {answer['location']!r}")
    if "text" in answer and body != answer["text"].encode():
        differences.append(f"text {body[:200]!r}, not {answer['text']!r}")
    if "json" in answer:
        differences += _unequal(answer["json"], json.loads(body) if body else None)
    return differences


def lines_match(lines: list[Any], body: bytes) -> list[str]:
    """What of a stream's body differs from the recorded lines: each is one JSON text, ended by a newline, in order."""
    if not body.endswith(b"\n"):
        return [f"no newline at the end of {body[-80:]!r}"]
    return _unequal(lines, [json.loads(line) for line in body[:-1].split(b"\n")])


def count_matches(answer: int, body: bytes) -> list[str]:
    """Whether a list has that many items."""
    found = len(json.loads(body)["items"])
    return [] if found == answer else [f"{found} items, not {answer}"]


def _unequal(recorded: Any, found: Any) -> list[str]:
    one, other = _comparable(recorded), _comparable(found)
    return [] if one == other else [f"found    {json.dumps(other)}\nrecorded {json.dumps(one)}"]


def _comparable(value: Any) -> Any:
    """Entity versions hidden, `items` sorted."""
    if isinstance(value, list):
        return [_comparable(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    made = {name: _comparable(inner) for name, inner in value.items()}
    version = made.get("entityVersion")
    if isinstance(version, str) and version.isascii() and version.isdigit():
        made["entityVersion"] = "$V"
    if isinstance(made.get("items"), list):
        made["items"].sort(key=lambda item: json.dumps(item, sort_keys=True))
    return made
