"""Checks of options: a wrong one is refused in one sentence, `key=value: write ...`, before anything is loaded."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from math import inf
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 2.0**127  # of a number, about: models compute in float32
LARGEST_WHOLE = 2**31 - 1  # of a count, and of a seed: libraries hold both in 32 bits
LONGEST = 160  # characters of a value, or of what a library says, that a sentence shows
NAME = re.compile(r"[\w.+-]*\w[\w.+-]*")


def require(holds: bool, key: str, value: object, words: str) -> None:
    """Raises ValueError unless `holds`: the key, the value, and in `words` what to write instead."""
    if not holds:
        raise ValueError(f"{key}={shown(value)}: write {words}")


def shown(value: object) -> str:
    """A value as part of a sentence: on one line, and no longer than fits."""
    line = printable(str(value))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def printable(text: str) -> str:
    """The text on one line, with an escape for every letter that would not be seen, or would end the line."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


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
    require(is_whole(value, least), key, value, f"{_whole_from(least, value)}{_aside(words)}")


def whole_or(key: str, value: object, other: str | None, least: int = 1, words: str = "") -> None:
    """The same, where `other` (all, auto, null) may be written instead of a number."""
    instead = "null" if other is None else other
    require(
        value == other or is_whole(value, least),
        key,
        value,
        f"{instead}, or a whole number from {least}{_top(value)}{_aside(words)}",
    )


def share(key: str, value: object, words: str = "") -> None:
    """Raises ValueError unless `value` is a number above 0 and up to 1. words: what else may be said of it."""
    require(is_share(value), key, value, f"a number above 0 and up to 1{_aside(words)}")


def positive(key: str, value: object) -> None:
    """Raises ValueError unless `value` is a finite number above 0."""
    require(is_number(value) and value > 0, key, value, f"a number above 0{_top(value)}")


def not_negative(**values: object) -> None:
    """Raises ValueError for the first of the named values that is not a finite number of at least 0."""
    for key, value in values.items():
        require(is_number(value) and value >= 0, key, value, f"a number from 0{_top(value)}")


def is_whole(value: object, least: int = 0) -> bool:
    """Whether `value` is a whole number of at least `least` that fits 32 bits; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST_WHOLE


def is_number(value: object) -> bool:
    """Whether `value` is a finite number that fits a float32; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def minutes(every: object) -> float | None:
    """10m -> 10.0; None for what is no time."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)m", str(every))
    return float(found[1]) if found else None


def text(key: str, value: object) -> None:
    """Raises ValueError unless `value` is a text."""
    require(isinstance(value, str), key, value, "a text, in quotes where it looks like a number")


def path(key: str, value: object) -> None:
    """Raises ValueError unless `value` can be the path of a file or folder, whether there is one or not."""
    fits = isinstance(value, str) and bool(value.strip()) and value.isprintable()
    require(fits, key, value, "a path, with ./ before one that looks like a number")


def name(key: str, value: object) -> None:
    """Raises ValueError unless `value` can be part of a path: letters, digits and . _ + - in any language, but no slash."""
    fits = isinstance(value, str) and NAME.fullmatch(value) is not None
    require(fits, key, value, "a name of letters, digits and . _ + -")


def node(key: str, value: object) -> None:
    """Raises ValueError unless `value` is a node of the configuration: options below it, not a value."""
    require(isinstance(value, Mapping), key, value, f"its options one by one, as in {key}.OPTION=VALUE")


def package(what: str, module: str, install: str) -> None:
    """Raises ValueError if a package that `what` needs is not installed. install: its name, for pip."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{what} needs the package {module}; install it with: pip install {install}")


def declared(key: str, options: Mapping[str, Any], of: type) -> None:
    """Raises ValueError for the first of the options that is not of the type which the class `of` declares for it.

    What a class declares as an object must be a node. Which values of a type make sense is for the class itself to say. key: the
    node that they lie in, empty for none.
    """
    hints = _hints(of)
    for option, value in options.items():
        hint = hints.get(option, Any)
        require(_fits(value, hint), f"{key}.{option}" if key else option, "null" if value is None else value, _words(hint))


def first_line(error: Exception) -> str:
    """What the error of a library says, for one sentence: its first line, at most 160 characters of it, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST]


def last_line(error: Exception) -> str:
    """The same of an error that names its place first and its cause last."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()[:LONGEST]


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


def _whole_from(least: int, value: object) -> str:
    return f"a whole number from {least}{_top(value) if isinstance(value, int) else ''}"


def _top(value: object) -> str:
    """Where numbers end, for one that lies beyond."""
    if isinstance(value, int):
        return f" to {LARGEST_WHOLE}" if value > LARGEST_WHOLE else ""
    return f" to {LARGEST:.2g}" if isinstance(value, float) and LARGEST < value < inf else ""


_hints = cache(get_type_hints)  # which reads them anew from their source each time


def _fits(value: object, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(_fits(one, inner[0]) for one in value)
    if hint is Any:
        return True
    plain = {NoneType: value is None, bool: isinstance(value, bool), str: isinstance(value, str), float: is_number(value)}
    plain[int] = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_WHOLE
    return plain.get(hint, isinstance(value, Mapping))


def _words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_words, inner))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is not None and issubclass(origin, Mapping):
        return f"options, each {_words(inner[1])}"
    if origin is not None and issubclass(origin, Sequence):
        return f"a list, each of it {_words(inner[0])}"
    plain = {NoneType: "null", bool: "true or false", str: "a text, in quotes where it looks like a number"}
    return (plain | {float: "a number", int: "a whole number"}).get(hint, "its options one by one")
