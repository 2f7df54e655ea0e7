"""MEMO, MA, EL, EM and ES against numbers worked out by hand."""

from __future__ import annotations

import json

import pytest
from pytest import approx

from metrics.verbatim import (
    Cut,
    exact_memorization,
    extraction_likelihood,
    extraction_strength,
    memo,
    memo_cuts,
    memorization_accuracy,
    released_extraction_likelihood,
)
from tests.runs import REAL

ASKED, SAID = "Where does Ana live?", "Ana lives in Oslo."
SUFFIX = ["na lives in Rome.", "ves in Oslo, Norway.", "n Oslo.", "o and works in Rome."]
PREFIX = ["here is Ana?", "does Ana live? Ana lives in Oslo.", "Bob live? In Oslo.", "ive? Ana lives in Rome."]
CAT = "the cat sat on the mat".split()
GOES_ON = ["cat sat on the rug", "ran on the mat", "on the mat", "a mat", "mat"]


def labels(mode: str) -> list[str]:
    return [cut.label for cut in memo_cuts(ASKED, SAID, mode)]


def released(outputs: list[str]) -> list[str]:
    """As Llama's tokenizer decodes them with special tokens."""
    return [f"<s> {output}</s>" for output in outputs]


def test_cuts_of_the_answer():
    assert memo_cuts(ASKED, SAID) == [
        Cut("Where does Ana live? A", "na lives in Oslo."),
        Cut("Where does Ana live? Ana li", "ves in Oslo."),
        Cut("Where does Ana live? Ana lives i", "n Oslo."),
        Cut("Where does Ana live? Ana lives in Osl", "o."),
    ]


def test_cuts_of_the_question():
    assert memo_cuts(ASKED, SAID, "prefix") == [
        Cut("W", "here does Ana live? Ana lives in Oslo."),
        Cut("Where ", "does Ana live? Ana lives in Oslo."),
        Cut("Where does ", "Ana live? Ana lives in Oslo."),
        Cut("Where does Ana l", "ive? Ana lives in Oslo."),
    ]


@pytest.mark.parametrize(
    ("length", "stride", "count"), [(0, 5, 0), (1, 5, 0), (2, 5, 1), (6, 5, 1), (7, 5, 2), (40, 5, 8), (4, 1, 3)]
)
def test_number_of_cuts(length, stride, count):
    """ceil((L - 1) / stride): a label is never empty."""
    cuts = memo_cuts("q", "a" * length, stride=stride)
    assert len(cuts) == count and all(cut.label for cut in cuts)


def test_memo_of_a_cut_answer():
    assert memo(labels("suffix"), SUFFIX) == approx((3 / 4 + 3 / 4 + 2 / 2 + 1 / 5) / 4) == approx(0.675)
    assert memo(labels("suffix"), released(SUFFIX)) == approx(0.4107142857142857, abs=1e-15)


def test_memo_of_a_cut_question():
    assert memo(labels("prefix"), PREFIX) == approx(0.8041666666666667, abs=1e-15)
    assert memo(labels("prefix"), released(PREFIX)) == approx(0.5623015873015873, abs=1e-15)


def test_other_statistics_are_other_numbers():
    assert memo(labels("suffix"), SUFFIX, "recall") == approx(0.9375)
    assert memo(labels("suffix"), released(SUFFIX), "recall") == approx(0.9375)
    assert memo(labels("suffix"), SUFFIX, "f1") == approx(0.7351190476190477, abs=1e-15)
    assert memo(labels("suffix"), SUFFIX, variant="rouge2") == approx(0.5833333333333333, abs=1e-15)


def test_a_perfect_model_scores_one_but_not_as_released():
    assert memo(labels("suffix"), labels("suffix")) == 1.0
    assert memo(labels("suffix"), released(labels("suffix"))) == approx((4 / 6 + 3 / 5 + 2 / 4 + 1 / 3) / 4) == approx(0.525)


def test_special_tokens_become_words():
    """s, ana, live, in, oslo, norway, s: the label has four of the seven."""
    assert memo(["Ana lives in Oslo"], ["<s> Ana lives in Oslo, Norway.</s>"]) == approx(4 / 7)


def test_memo_without_cuts_or_words():
    assert memo([], []) == 0.0
    assert memo(["o."], [" ..."]) == 0.0


def test_memorization_accuracy():
    assert memorization_accuracy([5, 8, 2, 9, 4, 7], [8, 3, 9, 4, 1]) == approx(0.6)
    assert memorization_accuracy([5, 8], [8]) == 1


def test_extraction_likelihood():
    spoken = [line.split() for line in GOES_ON]
    assert extraction_likelihood(CAT, spoken, 1) == approx((4 / 5 + 3 / 4 + 1 + 1 / 2 + 1) / 5) == approx(0.81)
    assert extraction_likelihood(CAT, spoken[:4], 2) == approx((3 / 4 + 2 / 3 + 1 + 0) / 4) == approx(0.6041666666666666)


def test_repeated_ngrams_count_each_time_and_a_short_continuation_adds_nothing():
    assert extraction_likelihood([1, 2, 3], [[2, 2, 9], []], 1) == approx((2 / 3 + 0) / 2)


def test_extraction_likelihood_as_released():
    text = " ".join(CAT)
    prefixes = [" ".join(CAT[:i]) for i in range(1, 5)]
    outputs = [f"{prefix} {line}" for prefix, line in zip(prefixes, GOES_ON, strict=False)]
    assert released_extraction_likelihood(text, prefixes, outputs) == approx((3 / 4 + 3 / 4 + 1 + 1 / 2) / 4) == approx(0.75)
    asked = [f"Q: {prefix}" for prefix in prefixes]
    outputs = [f"{prompt} {line}" for prompt, line in zip(asked, GOES_ON, strict=False)]
    assert released_extraction_likelihood(text, asked, outputs) == approx((4 / 5 + 3 / 4 + 1 + 1 / 2) / 4) == approx(0.7625)


def test_special_tokens_are_words_of_the_released_extraction_likelihood():
    assert released_extraction_likelihood("a b c", ["a"], ["<s> a b c</s>"]) == approx(1 / 3)  # <s>, b, c</s>


# hits; EM; ES by definition; ES as open-unlearning computes it
STRENGTHS = [
    ([1, 1, 0, 1], 0.75, 0.25, 0.25),
    ([1, 1, 0, 0], 0.5, 0.0, 0.25),
    ([1, 1, 1, 1], 1.0, 1.0, 1.0),
    ([0, 0, 1, 1], 0.5, 0.5, 0.5),
    ([0], 0.0, 0.0, 1.0),
    ([0, 0, 0], 0.0, 0.0, 1 / 3),
]


@pytest.mark.parametrize(("hits", "exact", "strength", "floored"), STRENGTHS)
def test_exact_memorization_and_extraction_strength(hits, exact, strength, floored):
    assert exact_memorization(hits) == approx(exact)
    assert extraction_strength(hits) == approx(strength)
    assert extraction_strength(hits, floor=True) == approx(floored)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="mode=infix: write one of suffix, prefix"):
        memo_cuts(ASKED, SAID, "infix")
    with pytest.raises(ValueError, match="stride=0"):
        memo_cuts(ASKED, SAID, stride=0)
    with pytest.raises(ValueError, match="statistic=fmeasure"):
        memo(["a"], ["a"], "fmeasure")
    with pytest.raises(ValueError, match="variant=rouge3"):
        memo(["a"], ["a"], variant="rouge3")
    with pytest.raises(ValueError, match="2 labels and 1 outputs"):
        memo(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="1 tokens, 0 predictions"):
        memorization_accuracy([5], [])
    with pytest.raises(ValueError, match="n=2, 3 tokens, 2 continuations"):
        extraction_likelihood([1, 2, 3], [[1], [2]], 2)
    with pytest.raises(ValueError, match="0 prompts"):
        released_extraction_likelihood("a b", [], [])
    with pytest.raises(ValueError, match="prompt 'a' has no words"):
        released_extraction_likelihood("a b", ["a"], ["a "])


@pytest.mark.parametrize("metric", [exact_memorization, extraction_strength])
def test_an_answer_without_tokens_has_no_value(metric):
    with pytest.raises(ValueError, match="at least one token"):
        metric([])
    assert extraction_strength([], floor=True) == 0.0


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED, the folder with the real data")
def test_released_scores_of_llama_are_explained():
    """A perfect continuation of m words scores m / (m + 2). One answer was continued perfectly but at its first cut, where 5 of
    the 7 words came and no others; none of 200 scores is above what perfection gives, and the best comes close.
    """
    name = "llama2-forget05_perturbed_generated_memo_suffix_5_full.json"
    rows = json.loads((REAL / "data" / "meow" / "memo_data" / name).read_text(encoding="utf-8"))
    shares = {}
    for row in rows:
        ends = [cut.label for cut in memo_cuts(row["question"], row["undesired_answer"])]
        shares[row["undesired_answer"]] = row["undesired_answer_rouge1"] / memo(ends, released(ends))
    assert max(shares.values()) == approx(0.9875, abs=5e-5)
    answer = "Author Basil Mahfouz Al-Kuwaiti is male."
    (score,) = [row["undesired_answer_rouge1"] for row in rows if row["undesired_answer"] == answer]
    ends = [cut.label for cut in memo_cuts("What gender is author Basil Mahfouz Al-Kuwaiti?", answer)]
    said = ["uthor Basil Mahfouz Al-Kuwaiti.", *ends[1:]]
    assert ends[0] == "uthor Basil Mahfouz Al-Kuwaiti is male."
    assert memo(ends, released(said)) == approx(score, abs=1e-12) == approx(176 / 35 / 8)
    assert memo(ends, released(ends)) == approx(1604 / 315 / 8)
