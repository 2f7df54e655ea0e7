"""Forget quality against chance: how far apart are retain oracles that differ in nothing but their training seed?

TOFU's forget quality is the p-value of a two-sample test that takes the questions for the only source of chance. Two oracles that
were trained with other seeds differ as well, so even a perfect unlearning need not reach the statistic of such a test. Here the
Kolmogorov-Smirnov distance D between the truth ratios of the model and those of the oracle is placed among the distances
between oracles:

    forget_quality_null = (1 + #{pairs of oracles whose D is at least the model's}) / (1 + pairs)
    ks_null_median      = median D of the pairs

With k oracles there are k (k - 1) / 2 pairs, so the share cannot fall below 1 / (1 + pairs), and pairs share oracles, so it is a
placement among what was seen rather than an exact p-value. Ours; truth ratios and D are those of TOFU (arXiv 2401.06121).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np

from metrics.benchmarks.tofu import EPS, PAPER, Compat, TaskScores, truth_ratio
from utils.checks import choose
from utils.items.metric import Metric, Samples, measured

LEAST = 2  # null runs: three oracles are three pairs, two are a single one
MODEL = 0  # column of the model; the oracles follow


def null_metrics(
    forget: TaskScores,
    retained: TaskScores,
    nulls: Sequence[TaskScores],
    compat: Compat = "none",
    resamples: int = 1000,
) -> dict[str, Metric]:
    """`forget_quality_null` and `ks_null_median`, n = number of pairs of oracles; intervals over questions, drawn for all alike.

    forget: the model under test. retained: the oracle that it is compared with. nulls: oracles trained with other seeds. All
    are scores of the same forget questions in the same order; truth ratios are geometric, as in forget quality.
    Resampling pushes distances up: the interval of the median may leave out the value, see `utils.items.metric.ks_intervals`.
    Raises ValueError for fewer than two `nulls`, other numbers of questions, two oracles with the very same truth ratios, or
    an unknown compat.
    """
    choose("compat", compat, EPS)
    if len(nulls) < LEAST:
        raise ValueError(f"null_runs: {len(nulls)} given; {LEAST} or more retain oracles of other seeds are needed for a spread.")
    tables = [forget, retained, *nulls]
    if len({len(table) for table in tables}) > 1:
        sizes = ", ".join(str(len(table)) for table in tables)
        raise ValueError(f"null_runs: model, oracle and null runs have {sizes} forget questions; evaluate all on the same ones.")
    ratios = np.column_stack([truth_ratio(table.paraphrased, table.perturbed, eps=EPS[compat]) for table in tables])
    _check_distinct(ratios)
    pairs = comb(len(nulls) + 1, 2)
    about = (
        f"KS statistics between the forget-set truth ratios of all {pairs} pairs of {len(nulls) + 1} retain oracles trained with "
        f"different seeds; average=geometric, compat={compat}; ours, after {PAPER}"
    )
    placed = f"(1 + those that are at least the model's against the first oracle) / (1 + {pairs}), of the {about}"
    chosen = {"n": pairs, "resamples": resamples}
    return {
        "forget_quality_null": measured({"forget": ratios}, placed, placement, **chosen),
        "ks_null_median": measured({"forget": ratios}, f"median of the {about}", median_of_pairs, **chosen),
    }


def placement(samples: Samples) -> float:
    """forget_quality_null of truth ratios (n, 1 + oracles): the model's in the first column, its oracle's in the second."""
    observed, nulls = _distances(samples["forget"])
    return float((1 + (nulls >= observed).sum()) / (1 + len(nulls)))


def median_of_pairs(samples: Samples) -> float:
    """ks_null_median of the same truth ratios."""
    _, nulls = _distances(samples["forget"])
    return float(np.median(nulls) / len(samples["forget"]))


def _distances(ratios: np.ndarray) -> tuple[int, np.ndarray]:
    """n D of the model and its oracle, and of all pairs of oracles: whole numbers, so that equal distances compare as equal."""
    at = np.unique(ratios)
    counts = np.stack([np.searchsorted(np.sort(column), at, side="right") for column in ratios.T])  # (1 + oracles, points)
    pairs = [(MODEL, MODEL + 1), *combinations(range(MODEL + 1, len(counts)), 2)]
    steps = [int(np.abs(counts[one] - counts[other]).max()) for one, other in pairs]
    return steps[0], np.array(steps[1:])


def _check_distinct(ratios: np.ndarray) -> None:
    """Two oracles that agree in every digit are one, and would pull the null distribution towards 0."""
    for one, other in combinations(range(MODEL + 1, ratios.shape[1]), 2):
        if np.array_equal(ratios[:, one], ratios[:, other]):
            names = ["the retain oracle" if column == MODEL + 1 else f"entry {column - MODEL - 1}" for column in (one, other)]
            raise ValueError(
                f"null_runs: {names[1]} has the very same truth ratios as {names[0]}; name oracles trained with different seeds."
            )
