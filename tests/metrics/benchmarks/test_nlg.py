"""BLEU, Rep3 and MAUVE of continued texts: by hand."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from pytest import approx

from metrics.benchmarks.nlg import NlgMetrics, bleu_counts, corpus_bleu, scored_pairs
from utils.items.saved import Saved

CAT = ("the cat sat on the mat", "the cat sat on a mat")
SHORT = ("a b c d", "a b c d e")


def row(index: int, said: str, given: str) -> dict:
    texts = {"question": "Once upon", "generation": said, "truth": given}
    whole = {"output": f"<s> Once upon {said}", "text": f"Once upon {given}".strip()}
    return {"task": "continued", "index": index, **texts, **whole, "corpora": "wikitext test"}


def numbers(rows: list[dict], scored: str = "continuation") -> dict:
    return NlgMetrics(scored).numbers(Saved(None, rows, resamples=100))


def test_counts_by_hand():
    """Words that match: the (once, as in the text), cat, sat, on, mat. Pairs: 3 of 5, triples: 2 of 4, fours: 1 of 3."""
    assert bleu_counts(*CAT).tolist() == [5, 3, 2, 1, 6, 5, 4, 3, 6, 6]


def test_bleu_of_one_text_by_hand():
    """5/6 x 3/5 x 2/4 x 1/3 = 1/12, and as many words as in the text."""
    assert corpus_bleu(bleu_counts(*CAT)[None]) == approx((1 / 12) ** 0.25)


def test_short_answers_pay_for_brevity():
    """Every n-gram of four words is in the text of five: exp(1 - 5/4)."""
    assert corpus_bleu(bleu_counts(*SHORT)[None]) == approx(exp(-0.25))


def test_bleu_adds_counts_up_over_texts():
    """9/10 x 6/8 x 4/6 x 2/4 with 10 words for 11; the mean of the two values of their own would be 0.658."""
    found = numbers([row(0, *CAT), row(1, *SHORT)])["bleu"]
    assert found.value == approx((9 / 10 * 6 / 8 * 4 / 6 * 2 / 4) ** 0.25 * exp(-0.1))
    assert found.n == 2 and found.ci95[0] == approx((1 / 12) ** 0.25) and found.ci95[1] == approx(exp(-0.25))


def test_words_are_separated_as_13a_does():
    """Points and angle brackets are words of their own, case counts."""
    assert bleu_counts("It is 1.5, said <s>.", "It is 1.5 , said < s > .").tolist()[0] == 9
    assert bleu_counts("it", "It").tolist()[:1] == [0]


def test_nothing_in_common_is_zero_without_smoothing():
    assert corpus_bleu(bleu_counts("a b c x", "a b c d")[None]) == 0  # three words in a row agree, four never
    assert corpus_bleu(bleu_counts("", "a b c d")[None]) == 0
    assert corpus_bleu(np.zeros((1, 10), dtype=int)) == 0


def test_rep3_by_hand():
    """a b c, b c a, c a b, a b c: a quarter repeats. no no no, three times: two thirds. Too short texts are left out."""
    rows = [row(0, "a b c a b c", "x"), row(1, "no no no no no", "x"), row(2, "no no", "x"), row(3, "", "x")]
    found = numbers(rows)["rep3"]
    assert found.value == approx((1 / 4 + 2 / 3) / 2) and found.n == 2
    assert "2 outputs of fewer than 3 words left out" in found.definition
    assert "rep3" not in numbers(rows[2:])


def test_a_text_that_ends_with_its_prompt_has_no_continuation():
    rows = [row(0, *CAT), row(1, "more", " ")]
    assert scored_pairs(rows, "continuation") == [CAT]
    found = numbers(rows)["bleu"]
    assert found.n == 1 and found.definition.startswith(
        "corpus BLEU in [0, 1], 13a words, no smoothing, of continuations alone, 1 "
    )
    assert "of wikitext test continued greedily from their first 32 tokens; MEOW (arXiv 2409.11844)" in found.definition


def test_whole_texts_are_compared_with_prompt_and_special_tokens():
    """< s > Once upon a b c against Once upon a b c: 5/8 x 4/7 x 3/6 x 2/5 = 1/14, and 8 words are no less than 5."""
    rows = [row(0, "a b c", "a b c"), row(1, "a b c", "")]
    assert scored_pairs(rows, "whole")[1] == ("<s> Once upon a b c", "Once upon")
    found = numbers(rows[:1], "whole")
    assert found["bleu"].value == approx((1 / 14) ** 0.25) and "scored=whole" in found["bleu"].definition
    assert numbers(rows, "whole")["bleu"].n == 2


def test_mauve_is_reported_for_what_it_was_computed_on():
    mauve = {"task": "mauve", "index": 0, "scored": "whole", "value": 0.75, "n": 1}
    rows = [row(0, *CAT), mauve]
    assert "mauve" not in numbers(rows)
    found = numbers(rows, "whole")["mauve"]
    assert (found.value, found.n, found.ci95) == (0.75, 1, (0.75, 0.75))
    assert found.definition.startswith("MAUVE (scaling factor 2, 256 tokens, features of GPT-2 large), no interval")


def test_nothing_to_compare_is_an_error():
    for rows in ([], [row(0, "more", "")]):
        with pytest.raises(ValueError, match="no text to score with scored=continuation; evaluate again"):
            numbers(rows)
    with pytest.raises(ValueError, match="benchmark.scored=all: write one of continuation, whole"):
        NlgMetrics("all")
