"""What is typed after `/`: words that a task must contain, and `key:value` with the values of the HTTP interface. Pure.

Stands for the one-line filter language of css/query.py until that has it.
"""

from __future__ import annotations

import msgspec

from css.query import PARAMETERS, Filter, parse
from tui.rows import Task

_NAMES = {name.lower(): name for name in PARAMETERS}


class Search(msgspec.Struct, frozen=True):
    """All words and all filters must match; the empty search matches everything."""

    text: str = ""
    words: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()

    def matches(self, task: Task) -> bool:
        for word in self.words:
            if word not in task.haystack:
                return False
        return all(wanted.matches(task.key, task.fields) for wanted in self.filters)

    def narrows(self, other: Search) -> bool:
        """Whether it matches nothing that `other` does not: more letters of the same words."""
        return not self.filters and not other.filters and self.text.startswith(other.text)


def read(text: str) -> Search:
    """Understand a search. Raises `css.query.InvalidFilter` for a value that has no meaning.

    A key that is no parameter makes no filter (`web:3` is a word); one whose value is not typed yet filters nothing.
    """
    words: list[str] = []
    filters: list[Filter] = []
    for term in text.split():
        key, colon, value = term.partition(":")
        name = _NAMES.get(key.lower())
        if not colon or name is None:
            words.append(term.lower())
        elif value.strip("!,"):
            filters.append(parse("task", {name: value}))
    return Search(text, tuple(words), tuple(filters))
