"""Broken instead of unlearned: a model that falls silent or repeats itself has the numbers of one that forgot.

It shows in how its outputs read, beside those of the oracle, else of the target, which were asked the same: the share that is
empty, the share that is mostly one character, and how many trigrams are repeated (metrics/text_quality.py), of any measure, over
all tasks or over one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MARK = "†"
ABOVE = 0.25  # the reference; ours
_READING = re.compile(r"(.+_)?(empty|dominated|rep3)(_.+)?")
RULE = (
    f"{MARK} collapsed, and never bold: the share of outputs that are empty or mostly one character, or of trigrams that are "
    f"repeated, is more than {ABOVE} above that of the oracle (without one, of the target)"
)


def says_how_it_reads(metric: str) -> bool:
    """Whether a metric of that name is one of the numbers above."""
    return _READING.fullmatch(metric) is not None


def collapse(own: Mapping[str, float], reference: Mapping[str, float]) -> str:
    """By which number a model is marked, "" for one that is not. own, reference: metric -> value, also of other metrics."""
    above = {name: own[name] - reference[name] for name in own if name in reference and says_how_it_reads(name)}
    worst = max(above, key=above.__getitem__, default="")
    return f"{worst} {own[worst]:.2f} against {reference[worst]:.2f}" if worst and above[worst] > ABOVE else ""
