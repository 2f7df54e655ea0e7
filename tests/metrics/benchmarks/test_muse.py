"""The metrics of MUSE by hand, and PrivLeak of the authors' own scores, to the last digit."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from metrics.benchmarks.muse import FORGET, HOLDOUT, PUBLISHED, SHARES, MuseMetrics, cut_answer
from utils.items.metric import Metric
from utils.items.saved import Saved

GOLDEN = Path(os.environ.get("LETHE_SHARED", "nowhere")) / "golden" / "muse_privleak.json"

# Scores of three forget and four holdout texts: of 12 pairs, holdout is lower in 2 and ties in 1, so A = 2.5 / 12.
FORGET_SCORES, HOLDOUT_SCORES = [0.2, 0.5, 0.9], [0.4, 0.9, 1.5, 2.0]
PASSAGE = ("the keeper lit two lamps", "the keeper lit one lamp and slept", "the keeper lit one lamp")


def rows(task: str, *texts: list[float]) -> list[dict]:
    """One text for each list of token log-probabilities."""
    return [
        {"task": task, "index": i, "role": "answer", "number": 0, "logp": np.array(logp), "wanted": f"text {i}"}
        for i, logp in enumerate(texts)
    ]


def table(forget: list[float] = FORGET_SCORES, holdout: list[float] = HOLDOUT_SCORES) -> pd.DataFrame:
    """Texts of one token, so that every min-k% score is the number given. In reverse: tables need not be in order."""
    groups = {FORGET: forget, HOLDOUT: holdout}
    return pd.DataFrame([row for task, scores in groups.items() for row in rows(task, *([-s] for s in scores))][::-1])


def with_another_token(scores: pd.DataFrame) -> pd.DataFrame:
    """The same with a certain token at the end of each text."""
    return scores.assign(logp=[np.append(logp, 0.0) for logp in scores["logp"]])


def generation(task: str, text: str, truth: str, **more: object) -> dict:
    return {"task": task, "index": 0, "question": "?", "generation": text, "truth": truth, **more}


RETRAINED = table([0.2, 1.0, 1.2])  # holdout is lower in 0 + 2 + 2 pairs of 12


def measured(scores=None, generations=(), oracle=None, compat="none", resamples=2, **dials) -> dict[str, Metric]:
    scores = table()[:0] if scores is None else scores
    return MuseMetrics(**dials).numbers(Saved(scores, generations, oracle, compat=compat, resamples=resamples))


def values(*args, **kwargs) -> dict[str, float]:
    return {name: metric.value for name, metric in measured(*args, **kwargs).items()}


def test_the_auc_is_that_of_muse():
    """2 pairs and a tie of 12. 0 where all forget texts are known by heart, 1 where they are less likely than unseen ones."""
    assert values(table())["privleak_auc"] == approx(0.20833333333333334, rel=1e-15)
    assert values(table([0.1, 0.2], [0.3]))["privleak_auc"] == 0.0
    assert values(table([0.3, 0.4], [0.2]))["privleak_auc"] == 1.0


@pytest.mark.skipif(not GOLDEN.is_file(), reason="LETHE_SHARED is not set: no logged scores")
@pytest.mark.parametrize("compat", ["none", "muse_released"])
def test_the_authors_scores_give_the_authors_numbers(compat):
    golden = json.loads(GOLDEN.read_text())
    tables = {case["model"]: table(case["min40_forget"], case["min40_holdout"]) for case in golden["cases"]}
    assert len(tables) == 10
    for case in golden["cases"]:
        found = values(tables[case["model"]], oracle=tables["retrain"], compat=compat)
        assert found["privleak_auc"] == approx(case["auc_forget_holdout"], rel=1e-13)
        assert found["privleak_auc_retrained"] == approx(PUBLISHED[golden["corpus"]]["min40"], rel=1e-13)
        assert found["privleak"] == approx(case["privleak"], rel=1e-13, abs=1e-12)


def test_min_k_reads_every_token_but_open_unlearning_drops_the_last_of_at_most_2048():
    """Of 5 tokens 2 are taken, 6 and 4 nats; of the 4 before the last one is, 4 nats. A holdout text has 4.5, between the two, so
    that the forget text is the less likely (1 for MUSE) or the likelier one (1 for open-unlearning)."""
    text = [-1.0, -4.0, -2.0, -3.0, -6.0]
    scores = pd.DataFrame(rows(FORGET, text) + rows(HOLDOUT, [-4.5] * 3))
    assert values(scores)["privleak_auc"] == 1.0
    assert values(scores, compat="open_unlearning")["privleak_auc"] == 1.0
    long = pd.DataFrame(rows(FORGET, [-1.0] * 2048 + [-9.0] * 2000) + rows(HOLDOUT, [-2.0] * 3))
    assert values(long)["privleak_auc"] == 1.0  # 1619 of 4048 tokens, all of them of 9 nats
    assert values(long, compat="open_unlearning")["privleak_auc"] == 1.0  # 2047 tokens, all of them of 1 nat


def test_open_unlearning_turns_the_auc_around_and_compares_with_a_half():
    """Numbers worked out with its functions: AUC 0.7917, against 0.5."""
    found = values(with_another_token(table()), compat="open_unlearning")
    assert set(found) == {"privleak", "privleak_auc"}
    assert found["privleak_auc"] == approx(0.79166667, abs=1e-8)
    assert found["privleak"] == approx(-58.333333, abs=1e-6)
    # 4 pairs of 12: MUSE's r is 1/3, that of open-unlearning 2/3, and privleak but for eps the same.
    both = values(with_another_token(table()), oracle=with_another_token(RETRAINED), compat="open_unlearning")
    assert both["privleak_auc_retrained"] == approx(2 / 3)
    assert both["privleak"] == approx(-37.5 / (1 + 3e-10), rel=1e-12)
    assert values(table(), oracle=RETRAINED)["privleak"] == approx(-37.5, rel=1e-12)


def test_where_r_comes_from():
    scores, retrained = table(), RETRAINED
    a, r = 2.5 / 12, 4 / 12
    of = lambda constant: approx(100 * (a - constant) / constant, rel=1e-12)  # noqa: E731
    assert "privleak" not in values(scores)
    assert "privleak" not in values(scores, compat="muse_released"), "a corpus without constants"
    assert values(scores, oracle=retrained)["privleak"] == of(r)
    for compat in ("none", "muse_released"):
        assert values(scores, oracle=retrained, corpus="news", compat=compat)["privleak"] == of(r)
    assert "privleak" not in values(scores, corpus="books")
    assert values(scores, corpus="books", compat="muse_released")["privleak"] == of(0.5393)
    published = {"corpus": "news", "retrained_auc": "published"}
    assert values(scores, **published)["privleak"] == of(0.4772)
    assert values(scores, oracle=retrained, **published)["privleak"] == of(0.4772)
    definitions = [
        measured(scores, oracle=retrained)["privleak"].definition,
        measured(scores, **published)["privleak"].definition,
    ]
    assert "r = 0.3333 of the retrained model on the same texts" in definitions[0]
    assert "r = 0.4772 as published for the authors' retrained model (news)" in definitions[1]


def test_the_other_attacks():
    """Loss: 2 and 1 nats against 1.5. Bytes: the longer text compresses to more of them."""
    scores = pd.DataFrame(rows(FORGET, [-1.0, -3.0], [-1.0, -1.0]) + rows(HOLDOUT, [-1.5, -1.5], [-1.5, -1.5]))
    scores["wanted"] = ["a", "b", "one two three four five six seven", "c"]
    found = values(scores, corpus="news", retrained_auc="published")
    assert found["privleak_auc_ppl"] == 0.5
    bytes_of = [len(zlib.compress(text.encode())) for text in scores["wanted"]]
    assert bytes_of[2] > bytes_of[0] == bytes_of[1] == bytes_of[3] == 9
    assert found["privleak_auc_zlib"] == 0.75  # 1.5 / 39 is below 2 / 9 and 1 / 9, 1.5 / 9 only below 2 / 9
    assert found["privleak_zlib"] == approx(100 * (0.75 - 0.4328) / 0.4328)
    others = [f"min{share}" for share in SHARES if share != 40] + ["ppl", "zlib"]
    assert {f"privleak_auc_{name}" for name in others} == {name for name in found if name.startswith("privleak_auc_")}
    known = {"min20", "min60", "ppl", "zlib"}
    assert {name for name in found if name.startswith("privleak_m") or name in ("privleak_ppl", "privleak_zlib")} == {
        f"privleak_{name}" for name in known
    }


def test_another_k_is_the_main_attack():
    scores = pd.DataFrame(rows(FORGET, [-3.0, -1.0]) + rows(HOLDOUT, [-2.5, -2.5]))
    assert values(scores)["privleak_auc"] == 1.0  # 3 nats against 2.5
    found = values(scores, k=1.0)
    assert found["privleak_auc"] == 0.0 and found["privleak_auc_min40"] == 1.0  # 2 nats against 2.5


def test_texts_are_drawn_with_both_of_their_scores():
    """The model is the retrained one: privleak is 0 on every resample, though both AUCs vary."""
    scores = table()
    metrics = measured(scores, oracle=scores, resamples=300)
    assert metrics["privleak"].value == 0.0 and metrics["privleak"].ci95 == (0.0, 0.0)
    low, high = metrics["privleak_auc"].ci95
    assert low < metrics["privleak_auc"].value < high and metrics["privleak_auc"].n == 7


def test_a_retrained_model_that_leaves_nothing_to_divide_by():
    """r = 0 of 2 x 2 texts: it is taken for an eighth, half a pair."""
    separated, even = table([1.0, 2.0], [3.0, 4.0]), table([1.0, 4.0], [2.0, 3.0])
    metric = measured(even, oracle=separated, resamples=50)["privleak"]
    assert metric.value == approx(100 * (0.5 - 0.125) / 0.125)
    assert np.isfinite(metric.ci95).all()
    assert measured(separated, oracle=separated, resamples=50)["privleak"].ci95 == (0.0, 0.0)


def test_verbmem_compares_with_as_much_as_the_model_may_say():
    """Against the 5 words of the cut truth 3 of 5 are hit; of the 7 words of the whole one, F1 = 6 / 12."""
    said, whole, cut = PASSAGE
    row = generation("verbmem", said, whole, truth_cut=cut)
    for compat in ("none", "muse_released"):
        assert values(generations=[row], compat=compat)["verbmem"] == approx(60.0)
    assert values(generations=[row], compat="none", stemmer=True)["verbmem"] == approx(80.0)  # lamps is lamp
    assert values(generations=[row], compat="open_unlearning", stemmer=False)["verbmem"] == approx(0.5)
    assert values(generations=[row], compat="open_unlearning")["verbmem"] == approx(2 * 4 / 12)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" a red boat\n\nQuestion: who", " a red boat"),
        ("a red boat\nQuestion: who", "a red boat"),
        ("a red boat Question: who", "a red boat "),
        ("a boat\nand a net", "a boat\nand a net"),
        ("\n\na boat", ""),
        ("one Question: two\n\nthree", "one "),
    ],
)
def test_an_answer_ends_where_the_next_example_begins(text, answer):
    assert cut_answer(text) == answer


def test_knowmem_is_a_mean_of_f1_in_percent():
    # 1 of 1 word, of 2 that the answer has: F1 2/3. Then nothing. A passage's own blank lines are kept: only answers are cut.
    texts = [
        generation("knowmem_forget", "red\n\nboat", "red boat"),
        generation("knowmem_forget", "", "a net", index=1),
        generation("knowmem_retain", "boats", "boat"),
        generation("verbmem", "one\n\ntwo", "one two", truth_cut="one two"),
    ]
    found = values(generations=texts)
    assert found == {"knowmem_forget": approx(100 / 3), "knowmem_retain": 0.0, "verbmem": 100.0}
    assert values(generations=texts, compat="open_unlearning")["knowmem_retain"] == 1.0
    metric = measured(generations=texts, resamples=50)["knowmem_forget"]
    assert metric.n == 2 and metric.ci95 == (0.0, approx(200 / 3))
    assert "percent" in metric.definition and "stemmer=False, compat=none" in metric.definition


def test_what_was_not_scored_is_left_out():
    assert values() == {}
    assert values(table()[lambda t: t["task"] == FORGET]) == {}
    assert "privleak_auc_retrained" not in values(table(), oracle=table()[:0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: measured(compat="tofu_original"), "compat=tofu_original: write one of none, muse_released, open_unlearning"),
        (lambda: measured(table(), oracle=table([0.2, 0.5])), "task privleak_forget: oracle.parquet has other rows"),
        (lambda: MuseMetrics(k=0.0), r"benchmark.metrics.k=0.0: write a number above 0 and up to 1"),
        (lambda: MuseMetrics(k=40), "benchmark.metrics.k=40: write a number above 0 and up to 1"),
        (lambda: MuseMetrics(stemmer="porter"), "benchmark.metrics.stemmer=porter: write one of true, false, null"),
        (lambda: MuseMetrics(retrained_auc="paper"), "benchmark.metrics.retrained_auc=paper: write one of measured, published"),
        (lambda: MuseMetrics(retrained_auc="published"), "not for corpus=None at k=0.4"),
        (lambda: MuseMetrics(0.3, corpus="news", retrained_auc="published"), "not for corpus=news at k=0.3"),
        (lambda: measured(generations=[generation("verbmem", "a", "b")]), "row 1: generations.jsonl lacks truth_cut"),
        (
            lambda: measured(pd.DataFrame(rows(FORGET, [np.nan]) + rows(HOLDOUT, [-1.0]))),
            "task privleak_forget, row 1: a log-prob",
        ),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
