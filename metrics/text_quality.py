"""How a text reads, without looking at what it says: empty, repetitive, varied, one character over and over, surprising.

Unlearned models often fall silent or repeat themselves, and then a harmful rate of zero means little. Words are what stands
between white space, as it is written. Where a number is undefined for a text (no words, or too few) the functions raise
ValueError, and metrics leave that text out and say so by n.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from metrics.tables import mean_over
from utils.items.metric import Evidence, Metric, Samples

MOSTLY = 0.5  # share of a text's characters that one of them must exceed to dominate it


def is_empty(text: str) -> bool:
    """Whether the text is empty or white space."""
    return not text.strip()


def word_count(text: str) -> int:
    """Number of words; 0 for an empty text."""
    return len(text.split())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The word n-grams of a text in order, none if it has fewer than n words. Raises ValueError for n < 1."""
    if n < 1:
        raise ValueError(f"n={n}: n-grams have at least one word")
    words = text.split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def repetition(text: str, n: int = 3) -> float:
    """Rep-n: 1 - distinct word n-grams / all word n-grams, in [0, 1); 0 if none comes twice.

    The mean over texts with n = 3 is Rep3 of MEOW (arXiv 2409.11844). Raises ValueError for a text of fewer than n words.
    """
    found = ngrams(text, n)
    if not found:
        raise ValueError(f"a text of {len(text.split())} words has no {n}-grams to repeat")
    return 1 - len(set(found)) / len(found)


def unique_token_share(text: str) -> float:
    """Distinct words / words, in (0, 1]: what LLMU (arXiv 2310.10683) calls diversity, with words as tokens.

    Raises ValueError for a text without words.
    """
    return 1 - repetition(text, 1)


def is_dominated(text: str) -> bool:
    """Whether one character makes up more than half of the text, white space aside; False for an empty text.

    LLMU (arXiv 2310.10683) prints "NM", not meaningful, as the fluency of such outputs; that "mostly" is a half is ours.
    """
    characters = Counter("".join(text.split()))
    return bool(characters) and max(characters.values()) > MOSTLY * characters.total()


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """Distinct-n: different word n-grams of all texts together / all their word n-grams, in (0, 1].

    Source: Li et al., arXiv 1510.03055. Raises ValueError if no text has n words.
    """
    found = [gram for text in texts for gram in ngrams(text, n)]
    if not found:
        raise ValueError(f"none of {len(texts)} texts has {n} words")
    return len(set(found)) / len(found)


def distinct_evidence(texts: Mapping[Hashable, str], n: int = 2) -> Evidence:
    """`distinct` over the texts that have n words, by their names: what its interval and its comparison between runs resample.

    A text drawn twice adds nothing new, so the interval lies low and may leave out the value itself.
    """
    numbers: dict[tuple[str, ...], int] = {}
    grams = {
        name: np.array([numbers.setdefault(gram, len(numbers)) for gram in ngrams(text, n)], dtype=int)
        for name, text in texts.items()
    }
    kept = {name: found for name, found in grams.items() if len(found)}
    by_place = list(kept.values())

    def statistic(samples: Samples) -> float:
        drawn = np.concatenate([by_place[int(place)] for place in samples["texts"]])
        seen = np.zeros(len(numbers), dtype=bool)
        seen[drawn] = True
        return float(seen.sum() / len(drawn))

    return Evidence({"texts": np.arange(len(kept))}, statistic, {"texts": list(kept)})


def perplexity(token_nlls: ArrayLike) -> float:
    """exp of the mean negative log-likelihood of a text's tokens, (T,) nats -> [1, inf).

    Texts are averaged as perplexities, not as losses: mean over {1, 2} and {0} is (e^1.5 + 1) / 2, not e^1.
    Raises ValueError for a text without tokens.
    """
    losses = np.asarray(token_nlls, dtype=np.float64)
    if losses.size == 0:
        raise ValueError("a text without tokens has no perplexity: leave it out and count it")
    with np.errstate(over="ignore"):
        return float(np.exp(losses.mean()))


DISTINCT = (1, 2, 3)
# name: number of one output, words that an output needs to have it, definition
READING: dict[str, tuple[Callable[[str], float], int, str]] = {
    "empty": (is_empty, 0, "share of outputs that are empty or white space; ours"),
    "words": (word_count, 0, "mean number of words of an output, 0 for an empty one; ours"),
    "dominated": (is_dominated, 0, "share of outputs of which one character is more than half; LLMU (arXiv 2310.10683)"),
    "diversity": (unique_token_share, 1, "mean share of distinct words in an output; LLMU (arXiv 2310.10683)"),
    "rep2": (partial(repetition, n=2), 2, "mean of 1 - distinct / all word bigrams of an output; as rep3"),
    "rep3": (repetition, 3, "mean of 1 - distinct / all word trigrams of an output; MEOW (arXiv 2409.11844)"),
}

EVERYTHING = (*READING, *(f"distinct{n}" for n in DISTINCT))


def reading(texts: Mapping[Hashable, str], resamples: int = 1000, names: Sequence[str] = EVERYTHING) -> dict[str, Metric]:
    """How a model's outputs read: name of the question -> its output. names: which numbers, of READING and distinct1, 2, 3.

    A number that an output does not have (too few words) is over the others; n says how many. What none has is left out.
    """
    metrics: dict[str, Metric] = {}
    for name, (measure, words, definition) in READING.items():
        chosen = {index: text for index, text in texts.items() if len(text.split()) >= words}
        if chosen and name in names:
            metrics[name] = mean_over(pd.Series({index: measure(text) for index, text in chosen.items()}), definition, resamples)
    for n in DISTINCT:
        pooled = {index: text for index, text in texts.items() if len(text.split()) >= n}
        if pooled and f"distinct{n}" in names:
            definition = f"distinct / all word {n}-grams of all outputs together (arXiv 1510.03055); the interval lies low"
            evidence = distinct_evidence(pooled, n)
            value = distinct(list(pooled.values()), n)
            metrics[f"distinct{n}"] = Metric(value, len(pooled), evidence.interval(resamples, 0), definition, evidence)
    return metrics
