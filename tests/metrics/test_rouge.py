from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from pytest import approx

from metrics.rouge import Rouge, rouge

shared = os.environ.get("LETHE_SHARED", "")


def test_by_hand():
    # truth: 4 words; generation: 6 words; shared words: the, cat, mat; longest common subsequence: the cat mat
    scores = rouge("the black cat left a mat", "the cat sat mat")
    assert scores == approx((3 / 4, 3 / 4, 3 / 6, 2 * 0.75 * 0.5 / 1.25))


def test_order_counts_for_rouge_l_only():
    scores = rouge("b a", "a b")
    assert (scores.rouge1_recall, scores.rougeL_recall) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("generation", "truth", "stemmed", "plain"),
    [
        ("he writes novels", "He wrote a novel!", 2 / 4, 1 / 4),  # novels ~ novel; wrote keeps its vowel
        ("the cats", "the cat", 1.0, 0.5),  # cats has four letters and is stemmed
        ("two cat", "two cats", 1.0, 0.5),
        ("Erdoğan", "erdo an", 1.0, 1.0),  # a letter outside a-z splits the word
    ],
)
def test_stemmer(generation, truth, stemmed, plain):
    assert rouge(generation, truth).rougeL_recall == approx(stemmed)
    assert rouge(generation, truth, stemmer=False).rougeL_recall == approx(plain)


@pytest.mark.parametrize(("generation", "truth"), [("", "a cat"), ("a cat", ""), ("...", "!?"), ("dog", "cat")])
def test_nothing_in_common_gives_zero(generation, truth):
    assert rouge(generation, truth) == Rouge(0.0, 0.0, 0.0, 0.0)


@pytest.mark.skipif(not shared, reason="LETHE_SHARED is not set: no published logs")
@pytest.mark.parametrize("log", ["full", "retain99"])
def test_published_recalls_come_out_again_from_the_published_generations(log):
    path = Path(shared) / "golden" / "tofu_logs" / f"llama2-7b_{log}_wd0.01.json.gz"
    tasks = json.loads(gzip.decompress(path.read_bytes())).values()
    without = compared = 0
    for task in tasks:
        for index, (_, generation, truth) in task["generated_text"].items():
            scores = rouge(generation, truth)
            assert scores.rougeL_recall == approx(task["rougeL_recall"][index], abs=1e-12)
            assert scores.rouge1_recall == approx(task["rouge1_recall"][index], abs=1e-12)
            without += rouge(generation, truth, stemmer=False).rougeL_recall != scores.rougeL_recall
            compared += 1
    assert compared == {"full": 817, "retain99": 557}[log]
    assert without > 0  # the stemmer is what makes them agree
