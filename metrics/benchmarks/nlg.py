"""Likeness and repetition of continued texts, as MEOW (arXiv 2409.11844) measures language generation.

    bleu     corpus BLEU of what the model said against what the text says, in [0, 1]
    rep3     mean over texts of 1 - distinct / all word trigrams of what the model said
    mauve    MAUVE between the two, where it was asked for with the same `scored`

scored=continuation: what follows the prompt. scored=whole: prompt and continuation with special tokens against the whole text, as
in the released code; the prompt of 32 tokens then agrees with itself, and of a text that is no longer only one token is new.

That code means Rep3 to be the same, but gives 0 for all texts once one has fewer than 3 words; here such texts are left out. It
takes BLEU from the library `evaluate`: 13a words, up to four of them, no smoothing, in [0, 1]. sacrebleu has the same words and
formula, but smooths unless told not to, and counts to 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sacrebleu.metrics import BLEU

from metrics.tables import mean_over
from metrics.text_quality import repetition
from utils.checks import choose
from utils.items.metric import Metric, measured
from utils.items.saved import Metrics, Row, Saved

CONTINUED, MAUVE = "continued", "mauve"  # tasks
SCORED = ("continuation", "whole")
MEOW = "MEOW (arXiv 2409.11844)"
ORDERS = 4

_BLEU = BLEU(smooth_method="none")


def scored_pairs(rows: Sequence[Row], scored: str) -> list[tuple[str, str]]:
    """(said, given) of each row. continuation: without the texts that end with their prompt, which leave nothing to compare."""
    if scored == "whole":
        return [(row["output"], row["text"]) for row in rows]
    return [(row["generation"], row["truth"]) for row in rows if row["truth"].strip()]


def bleu_counts(said: str, given: str) -> np.ndarray:
    """What corpus BLEU adds up over texts, (2 * ORDERS + 2,): matching n-grams, n-grams said, words said, words given."""
    score = _BLEU.corpus_score([said], [[given]])
    return np.array([*score.counts, *score.totals, score.sys_len, score.ref_len], dtype=np.int64)


def corpus_bleu(counts: np.ndarray) -> float:
    """BLEU in [0, 1] from (n, 2 * ORDERS + 2) counts of n texts; 0 if no four words in a row agree anywhere."""
    total = [int(count) for count in counts.sum(axis=0)]
    score = BLEU.compute_bleu(total[:ORDERS], total[ORDERS : 2 * ORDERS], total[-2], total[-1], smooth_method="none")
    return score.score / 100


@dataclass(frozen=True)
class NlgMetrics(Metrics):
    """From the rows that `Nlg` adds (data/benchmarks/nlg.py). scored: continuation | whole."""

    scored: str = "continuation"

    def __post_init__(self) -> None:
        choose("benchmark.scored", self.scored, SCORED)

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """Every number that the rows allow; compat changes none. Raises ValueError if no text has anything to compare."""
        rows = saved.rows(CONTINUED)
        pairs = scored_pairs(rows, self.scored)
        if not pairs:
            raise ValueError(f"generations.jsonl holds no text to score with scored={self.scored}; evaluate again")
        about = self._about(rows, len(pairs))
        metrics = {"bleu": _bleu(pairs, about, saved.resamples)} | _rep3(pairs, about, saved.resamples)
        asked = [row for row in saved.rows(MAUVE) if row["scored"] == self.scored]
        return metrics | ({"mauve": _mauve(asked[0], about)} if asked else {})

    def _about(self, rows: Sequence[Row], count: int) -> str:
        what = {
            "continuation": f"continuations alone, {len(rows) - count} texts without one left out",
            "whole": "whole texts, prompt and special tokens included, scored=whole",
        }[self.scored]
        return f"{what}; texts of {rows[0]['corpora']} continued greedily from their first 32 tokens; {MEOW}"


def _bleu(pairs: Sequence[tuple[str, str]], about: str, resamples: int) -> Metric:
    counts = np.stack([bleu_counts(said, given) for said, given in pairs])
    definition = f"corpus BLEU in [0, 1], 13a words, no smoothing, of {about}"
    return measured({"texts": counts}, definition, lambda samples: corpus_bleu(samples["texts"]), resamples=resamples)


def _rep3(pairs: Sequence[tuple[str, str]], about: str, resamples: int) -> dict[str, Metric]:
    values = pd.Series({place: repetition(said) for place, (said, _) in enumerate(pairs) if len(said.split()) >= 3})
    if values.empty:
        return {}
    short = f"{len(pairs) - len(values)} outputs of fewer than 3 words left out"
    definition = f"mean of 1 - distinct / all word trigrams, {short}, of {about}"
    return {"rep3": mean_over(values, definition, resamples, "texts", short)}


def _mauve(row: Row, about: str) -> Metric:
    value, definition = row["value"], "MAUVE (scaling factor 2, 256 tokens, features of GPT-2 large), no interval, empty outputs"
    return Metric(value, row["n"], (value, value), f"{definition} left out, of {about}")
