"""ROUGE-1 and ROUGE-L of one generation against one truth.

Every benchmark of this project that reports ROUGE uses the same library (`rouge_score`), so that numbers compare:
text is lowered, everything outside a-z and 0-9 separates words, and words longer than three letters are stemmed
(Porter) unless switched off.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from rouge_score.rouge_scorer import RougeScorer


class Rouge(NamedTuple):
    """Shares in [0, 1]. Recall is relative to the words of the truth, precision to those of the generation."""

    rouge1_recall: float
    rougeL_recall: float
    rougeL_precision: float
    rougeL_f1: float


@cache
def scorer(*variants: str, stemmer: bool = True) -> RougeScorer:
    """Of rouge1, rouge2, rougeL. Building one builds a stemmer, so one per setting serves all items."""
    return RougeScorer(variants, use_stemmer=stemmer)


def rouge(generation: str, truth: str, stemmer: bool = True) -> Rouge:
    """Compare `generation` with `truth`. All four scores are 0 where one of the texts holds no word.

    Source: Lin 2004, as implemented in `rouge_score`; TOFU (arXiv 2401.06121) reports ROUGE-L recall with stemming.
    """
    scores = scorer("rouge1", "rougeL", stemmer=stemmer).score(target=truth, prediction=generation)
    longest = scores["rougeL"]
    return Rouge(
        rouge1_recall=float(scores["rouge1"].recall),
        rougeL_recall=float(longest.recall),
        rougeL_precision=float(longest.precision),
        rougeL_f1=float(longest.fmeasure),
    )
