"""Checks of loss options: a wrong one is refused when the config is read, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches


def choose(key: str, value: object, valid: Iterable[object]) -> None:
    """Raises ValueError, naming the key, the value and the nearest valid names, unless `value` is one of `valid`."""
    options = tuple(valid)
    if value in options:
        return
    names = [str(option) for option in options]
    close = get_close_matches(str(value).lower(), names, n=2)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    raise ValueError(f"{key}={value} is not one of {', '.join(names)}{hint}")


def positive(key: str, value: float) -> None:
    """Raises ValueError unless `value` is a finite number above 0."""
    if not _is_number(value) or value <= 0:
        raise ValueError(f"{key}={value} must be a number above 0.")


def not_negative(**values: float) -> None:
    """Raises ValueError for the first of the named values that is not a finite number of at least 0."""
    for key, value in values.items():
        if not _is_number(value) or value < 0:
            raise ValueError(f"{key}={value} must be a number of at least 0.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
