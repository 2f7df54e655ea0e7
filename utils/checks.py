"""Checks of options: a wrong one is refused in one sentence, `key=value: write ...`, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def require(holds: bool, key: str, value: object, words: str) -> None:
    """Raises ValueError unless `holds`: the key, the value, and in `words` what to write instead."""
    if not holds:
        raise ValueError(f"{key}={value}: write {words}")


def choose(key: str, value: object, valid: Iterable[object]) -> None:
    """Raises ValueError, with the nearest valid names, unless `value` is one of `valid` (and of its type)."""
    options = tuple(valid)
    names = [
        "true" if option is True else "false" if option is False else "null" if option is None else str(option)
        for option in options
    ]
    fits = any(value == option and isinstance(value, bool) == isinstance(option, bool) for option in options)
    require(fits, key, value, f"{'one of ' if len(names) > 1 else ''}{', '.join(names)}{did_you_mean(value, names)}")


def several(key: str, values: object, valid: Iterable[str]) -> None:
    """Raises ValueError unless `values` is a list of one or more of `valid`, none of them twice."""
    names = tuple(valid)
    asked = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    unknown = [name for name in asked or [values] if name not in names]
    hint = did_you_mean(unknown[0], names) if unknown else ""
    fits = 0 < len(asked) == len(set(asked)) and not unknown
    require(fits, key, values, f"a list out of {', '.join(names)}, each at most once{hint}")


def flag(key: str, value: object) -> None:
    """Raises ValueError unless `value` is true or false."""
    require(isinstance(value, bool), key, value, "true or false")


def whole(key: str, value: object, least: int = 0, words: str = "") -> None:
    """Raises ValueError unless `value` is a whole number of at least `least`. words: what else may be said of it."""
    require(is_whole(value, least), key, value, f"a whole number from {least}{_aside(words)}")


def whole_or(key: str, value: object, other: str | None, least: int = 1, words: str = "") -> None:
    """The same, where `other` (all, auto, null) may be written instead of a number."""
    instead = "null" if other is None else other
    require(value == other or is_whole(value, least), key, value, f"{instead}, or a whole number from {least}{_aside(words)}")


def share(key: str, value: object, words: str = "") -> None:
    """Raises ValueError unless `value` is a number above 0 and up to 1. words: what else may be said of it."""
    require(is_share(value), key, value, f"a number above 0 and up to 1{_aside(words)}")


def positive(key: str, value: object) -> None:
    """Raises ValueError unless `value` is a finite number above 0."""
    require(is_number(value) and value > 0, key, value, "a number above 0")


def not_negative(**values: object) -> None:
    """Raises ValueError for the first of the named values that is not a finite number of at least 0."""
    for key, value in values.items():
        require(is_number(value) and value >= 0, key, value, "a number from 0")


def is_whole(value: object, least: int = 0) -> bool:
    """Whether `value` is a whole number of at least `least`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Whether `value` is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def first_line(error: Exception) -> str:
    """What the error of a library says, for one sentence: its first line, at most 160 characters of it, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def is_share(value: object) -> bool:
    """Whether `value` is a number above 0 and up to 1."""
    return is_number(value) and 0 < value <= 1


def nearest(word: object, valid: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` valid names that look like `word`, then those whose last dotted part does; capitals do not matter."""
    lower = {name.lower(): name for name in sorted(valid)}
    tails = {name: name.rpartition(".")[2] for name in lower}
    wanted = str(word).lower()
    close = get_close_matches(wanted, lower, most)
    by_tail = get_close_matches(wanted.rpartition(".")[2], tails.values(), most, 0.75)
    close += [name for name, tail in tails.items() if tail in by_tail and name not in close]
    return [lower[name] for name in close[:most]]


def did_you_mean(word: object, valid: Iterable[str]) -> str:
    """`; did you mean ...?` for the end of a sentence; nothing where no valid name looks like `word`."""
    close = nearest(word, valid)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def did_you_mean_or_all(word: object, valid: Iterable[str]) -> str:
    """The same, but where no valid name looks like `word` all that there are, in their order."""
    names = tuple(valid)
    return did_you_mean(word, names) or f"; there are {', '.join(names)}"


def _aside(words: str) -> str:
    return f" ({words})" if words else ""
