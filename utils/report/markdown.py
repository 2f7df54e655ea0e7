"""Tables in Markdown: every plain string is escaped, so that no label breaks a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

MISSING = "–"
_ESCAPES = {"\\": "\\\\", "&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "*": "\\*", "`": "\\`"}
_AT_AN_END = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # of a word, where it sets italics; within one it stays, for people who read


class Markdown(str):
    """Text that is Markdown already and stays as it is."""


def escape(text: str) -> Markdown:
    """Plain text that stays what it is in a line or in a cell; line breaks become spaces."""
    if isinstance(text, Markdown):
        return text
    line = "".join(_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))
    line = _AT_AN_END.sub(r"\\_", line)
    return Markdown(line.replace("](", "]\\("))  # no link; brackets alone stay, for people who read the file as text


def bold(text: str) -> Markdown:
    return Markdown(f"**{escape(text)}**")


def number(entry: Mapping[str, Any] | None, form: str) -> str:
    """The value of an entry of metrics.json, in a format such as .2f; MISSING where there is none."""
    value = None if entry is None else entry.get("value")
    return MISSING if value is None else format(value, form)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table, also to be read as text: the first column to the left, the others, numbers, to the right."""
    align = ["left", *["right"] * (len(header) - 1)]
    cells = [[escape(cell) for cell in row] for row in rows]
    return tabulate(cells, map(escape, header), "pipe", colalign=align, disable_numparse=True)
