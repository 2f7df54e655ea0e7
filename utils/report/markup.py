"""HTML and SVG as nested calls: every plain string is escaped, every element that is opened is closed."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping

_VOID = frozenset({"meta", "br"})
# Code points that HTML forbids; a generation may hold any of them. Lone surrogates cannot be written as UTF-8 at all.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")

Attributes = Mapping[str, str | float]


class Html(str):
    """Text that is markup already and goes into a page as it is."""


def escape(text: str) -> Html:
    """Plain text as markup: special characters become entities, characters that HTML forbids become U+FFFD."""
    return Html(html.escape(_FORBIDDEN.sub("\ufffd", text), quote=True))


def element(name: str, attributes: Attributes, *children: str) -> Html:
    """`<name attributes>children</name>`; children that are not `Html` are escaped. Numbers are rounded to 0.01."""
    parts = "".join(f' {key}="{_plain(value)}"' for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{parts}>")
    return Html(f"<{name}{parts}>{join(children)}</{name}>")


def join(parts: Iterable[str], separator: str = "") -> Html:
    """Several pieces as one, each escaped unless it is `Html`."""
    return Html(separator.join(part if isinstance(part, Html) else escape(part) for part in parts))


def _plain(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{round(value, 2):g}"
