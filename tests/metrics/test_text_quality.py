from __future__ import annotations

import math

import pytest
from pytest import approx

from metrics.text_quality import (
    distinct,
    distinct_evidence,
    is_dominated,
    is_empty,
    ngrams,
    perplexity,
    reading,
    repetition,
    unique_token_share,
    word_count,
)


def test_ngrams_are_of_words_as_written():
    assert ngrams("To be, or  not\nto be", 2) == [("To", "be,"), ("be,", "or"), ("or", "not"), ("not", "to"), ("to", "be")]
    assert ngrams("one two", 3) == [] == ngrams("", 1)


def test_repetition_by_hand():
    # a b c, b c a, c a b, a b c: 3 of 4 trigrams are distinct
    assert repetition("a b c a b c") == approx(1 - 3 / 4)
    assert repetition("no no no no no", 3) == approx(1 - 1 / 3)
    assert repetition("all of them differ", 1) == 0


def test_diversity_by_hand():
    assert unique_token_share("the cat the dog") == approx(3 / 4)
    assert unique_token_share("ha " * 50) == approx(1 / 50)


def test_distinct_counts_over_all_texts():
    # bigrams: a b, b c | a b | none: 2 of 3 are distinct
    assert distinct(["a b c", "a b", "a"]) == approx(2 / 3)
    assert distinct(["a a", "b"], 1) == approx(2 / 3)


def test_the_interval_of_distinct_repeats_and_lies_low():
    texts = {n: f"word{n} follows word{n + 1} closely" for n in range(30)}
    low, high = distinct_evidence(texts).interval(200, 0)
    assert (low, high) == distinct_evidence(texts).interval(200, 0)
    assert 0 < low < high < distinct(list(texts.values())) == 1  # a text drawn twice brings no new bigram
    assert distinct_evidence({**texts, 30: "", 31: "one"}).interval(200, 0) == (low, high)  # these have no bigram


@pytest.mark.parametrize(
    ("text", "dominated"),
    [
        ("", False),
        (" \n", False),
        ("!!!!!!!!!!", True),
        ("! ! ! ! a b c", True),  # 4 of 7, white space aside
        ("aabb", False),  # exactly a half
        ("aaabb", True),
        ("The water is in the kettle.", False),
    ],
)
def test_one_character_over_and_over(text, dominated):
    assert is_dominated(text) == dominated


def test_empty_is_nothing_but_white_space():
    assert is_empty("") and is_empty(" \n\t") and not is_empty(".")


def test_perplexities_are_averaged_and_not_losses():
    # losses {1, 2} and {0}: (e^1.5 + 1) / 2; over the corpus it would be e^1
    assert (perplexity([1.0, 2.0]) + perplexity([0.0])) / 2 == approx(2.7408445351690323, rel=1e-15)
    assert perplexity([1.0, 2.0, 0.0]) == approx(math.e)
    assert perplexity([1000.0]) == math.inf


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: repetition("two words"), "a text of 2 words has no 3-grams to repeat"),
        (lambda: unique_token_share(" "), "a text of 0 words has no 1-grams"),
        (lambda: ngrams("a", 0), "n=0: n-grams have at least one word"),
        (lambda: distinct(["a", ""]), "none of 2 texts has 2 words"),
        (lambda: perplexity([]), "without tokens has no perplexity"),
    ],
)
def test_what_is_undefined_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_words_are_counted():
    assert [word_count(text) for text in ("", " \n", "one", "one, two  three\n")] == [0, 0, 1, 3]


OUTPUTS = {4: "no no no no", 5: "", 7: "the cat saw the cat", 8: "!!!!"}


def test_how_outputs_read_by_hand():
    """Trigrams: 1 of 2, and 3 of 3, differ; bigrams: 1 of 3, and 3 of 4 (the cat comes twice)."""
    found = reading(OUTPUTS, resamples=100)
    values = {name: (metric.value, metric.n) for name, metric in found.items()}
    assert values == {
        "empty": (approx(1 / 4), 4),
        "words": (approx((4 + 0 + 5 + 1) / 4), 4),
        "dominated": (approx(1 / 4), 4),
        "diversity": (approx((1 / 4 + 3 / 5 + 1) / 3), 3),
        "rep2": (approx((2 / 3 + 1 / 4) / 2), 2),
        "rep3": (approx((1 / 2 + 0) / 2), 2),
        "distinct1": (approx(5 / 10), 3),
        "distinct2": (approx(4 / 7), 2),
        "distinct3": (approx(4 / 5), 2),
    }
    assert found["rep3"].evidence.labels("items") == [4, 7] and found["empty"].evidence.labels("items") == [4, 5, 7, 8]
    assert found["words"].ci95[0] < 2.5 < found["words"].ci95[1]


@pytest.mark.parametrize(("name", "words"), [("diversity", 1), ("rep2", 2), ("rep3", 3), ("distinct2", 2), ("distinct3", 3)])
def test_an_output_of_just_enough_words_counts(name, words):
    texts = {0: "a b c d e", 1: " ".join("abc"[:words]), 2: " ".join("abc"[: words - 1])}
    assert reading(texts, resamples=100, names=[name])[name].n == 2


def test_what_no_output_has_is_left_out():
    assert set(reading({0: "", 1: " "}, resamples=100)) == {"empty", "words", "dominated"}
    assert "rep2" not in reading({0: "one", 1: "two"}, resamples=100)
