"""The one boundary that text from elsewhere crosses on its way to the terminal. Pure."""

from __future__ import annotations

REPLACEMENT = "\ufffd"


def clean(text: str) -> str:
    """The text with every character that is not for display replaced by U+FFFD.

    That is whatever `str.isprintable` denies: C0, C1 and DEL, line separators, bidi and zero-width format characters,
    lone surrogates. What remains can move no cursor, start no escape sequence and turn no line around.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else REPLACEMENT for character in text)
