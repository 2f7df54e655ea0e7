"""Membership attacks by hand and against released numbers, and what the measure makes of saved tables."""

from __future__ import annotations

import json
import logging
import math
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pytest import approx
from scipy.stats import rankdata

from metrics.measures.membership import Membership
from metrics.membership_attacks import (
    auc,
    change_of_groups,
    loss_attack,
    min_k,
    min_k_plus_plus,
    privleak,
    reference_attack,
    rel_diff,
    zlib_attack,
)
from tests.runs import compose_settings
from utils.engine.token_statistics import Logits, compute
from utils.items.benchmark import Benchmark
from utils.items.metric import bootstrap_joint
from utils.items.requests import Request
from utils.items.saved import Saved
from utils.runs.settings import SettingsError, check_evaluation

GOLDEN = Path(os.environ.get("LETHE_SHARED", "")) / "golden" / "muse_privleak.json"
needs_golden = pytest.mark.skipif("LETHE_SHARED" not in os.environ, reason="LETHE_SHARED is not set: no golden numbers")

# An answer of five tokens, the last of them EOS, and the logits that predict them; values computed with open-unlearning's code.
LABELS = [0, 3, 4, 2, 1]
LOGITS = [[2, 0, 1, 0, 0], [1, 0, 0, 2, 0], [0, 3, 0, 0, 1], [0, 0, 2, 0, 1], [0, 1, 0, 0, 0]]
SHARES = (0.2, 0.4, 0.6, 1.0)
MIN_K = (2.25052238, 2.25052238, 1.41184735, 0.99250984)
MIN_K_PLUS_PLUS = (1.34054768, 1.34054768, 0.26711446, -0.26960218)

FORGET, HOLDOUT = [0.2, 0.5, 0.9], [0.4, 0.9, 1.5, 2.0]


def statistics() -> dict[str, np.ndarray]:
    """logp, entropy and logp_variance of the five tokens, as an evaluation computes them."""
    names = ("logp", "entropy", "logp_variance")
    values = compute(names, Logits(torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)))
    return dict(zip(names, values.numpy().T, strict=True))


class Toy(Benchmark):
    """Two tasks, and which of them was trained on."""

    name = "toy"
    members = ("forget", "holdout")
    tasks = ("forget", "holdout")

    def requests(self, split: str) -> list[Request]:
        return [Request(task, 0, "?", (("answer", 0, "!"),), None) for task in self.tasks]


def table(**tasks: list[list[float]]) -> pd.DataFrame:
    """Answers of each task from the probabilities of their tokens, EOS being the last; and answers that are not the true one."""
    rows = [
        {
            "task": task,
            "index": index,
            "role": role,
            "number": 0,
            "tokens": len(p),
            "eos": True,
            "wanted": f"text {index}",
            "logp": np.log(p).astype(np.float32) - (role != "answer"),
            "entropy": np.full(len(p), 0.5, np.float32),
            "logp_variance": np.full(len(p), 0.25, np.float32),
        }
        for task, answers in tasks.items()
        for index, p in enumerate(answers)
        for role in ("answer", "paraphrased")
    ]
    return pd.DataFrame(rows[::-1])  # tables need not be in order


# Without EOS the forget answers have losses ln 2 and ln 4, the holdout answers ln 4 and ln 8.
OWN = {"forget": [[0.5, 0.5, 0.9], [0.25, 0.25, 0.1]], "holdout": [[0.25, 0.25, 0.9], [0.125, 0.9 / 7.2, 0.9]]}
# The oracle: ln 4, ln 8 and ln 2, ln 8, so that 1 - AUC is 5/8 where the model's is 1/8.
THEIRS = {"forget": [[0.25, 0.25, 0.5], [0.125, 0.125, 0.5]], "holdout": [[0.5, 0.5, 0.5], [0.125, 0.125, 0.5]]}


def evaluated(**changes) -> Saved:
    return replace(Saved(table(**OWN), resamples=100, members=Toy.members), **changes)


def values(measure: Membership, **changes) -> dict[str, float]:
    return {name: metric.value for name, metric in measure.numbers(evaluated(**changes)).items()}


def test_token_statistics_of_the_worked_answer():
    logp = statistics()["logp"]
    assert -logp.mean() == approx(0.97497433, abs=1e-7) and math.exp(logp.mean()) == approx(0.37720203, abs=1e-7)
    assert logp[:-1] == approx([-0.57317233, -0.57317227, -2.25052238, -0.57317221], abs=1e-6)


@pytest.mark.parametrize("place", range(4))
def test_min_k_of_the_worked_answer(place):
    found = {name: column[:-1] for name, column in statistics().items()}
    assert min_k(found["logp"], SHARES[place]) == approx(MIN_K[place], abs=1e-6)
    scored = min_k_plus_plus(found["logp"], -found["entropy"], found["logp_variance"], SHARES[place])
    assert scored == approx(MIN_K_PLUS_PLUS[place], abs=1e-6)


def test_at_least_one_token_counts_and_the_share_is_rounded_down():
    logp = [-1.0, -2.0, -4.0, -8.0, -16.0]
    assert [min_k(logp, k) for k in (0.01, 0.2, 0.39, 0.4, 1.0)] == approx([16.0, 16.0, 16.0, 12.0, 6.2])


def test_a_certain_distribution_is_not_divided_by_zero():
    # sigma^2 counts as 1e-6: (-3 - -1) / 1e-3
    assert min_k_plus_plus([-3.0], [-1.0], [0.0], 1.0) == approx(2000.0)


def test_loss_zlib_and_reference():
    logp = np.log([0.5, 0.25, 0.125])  # 2 ln 2 per token
    text = "a lighthouse, a lighthouse, a lighthouse at Öst"
    assert loss_attack(logp) == approx(2 * math.log(2))
    assert zlib_attack(logp, text) == approx(2 * math.log(2) / len(zlib.compress(text.encode())))
    assert zlib_attack(logp, text) > zlib_attack(logp, text + " and one more word that nobody expected")
    assert reference_attack(logp, np.log([0.5, 0.5, 0.5])) == approx(math.log(2))


def test_auc_by_counting_pairs():
    # 12 pairs: 9 have the lower forget score, 0.9 and 0.9 tie: 9.5 / 12
    assert auc(FORGET, HOLDOUT) == approx(0.79166667, abs=5e-9)
    assert 1 - auc(FORGET, HOLDOUT) == approx(0.20833333, abs=5e-9)  # as MUSE writes it


def test_auc_is_1_where_members_are_likelier_and_half_where_nothing_differs():
    assert auc([0.1, 0.2], [0.3, 0.4]) == 1.0 and auc([0.3, 0.4], [0.1, 0.2]) == 0.0
    assert auc([1.0, 1.0], [1.0, 1.0, 1.0]) == 0.5
    assert auc([0.0, np.inf], [np.inf, 1.0]) == 0.625  # infinity is larger than all, and ties with itself


def test_auc_equals_mann_whitney_on_many_ties():
    rng = np.random.default_rng(0)
    for n, m in ((1, 1), (7, 30), (100, 100)):
        members, others = rng.integers(5, size=n).astype(float), rng.integers(5, size=m).astype(float)
        ranks = rankdata(np.concatenate([members, others]))[n:]
        assert auc(members, others) == approx((ranks.sum() - m * (m + 1) / 2) / (n * m), abs=1e-12)


def test_privleak_and_rel_diff():
    a = auc(FORGET, HOLDOUT)
    assert privleak(a, 0.5) == approx(-58.333333, abs=5e-7)
    assert privleak(a, 0.4, eps=1e-10) == approx(-65.277778, abs=5e-7)
    assert rel_diff(a, 0.5) == approx(58.333333, abs=5e-7) and rel_diff(a, 0.4) == approx(97.916667, abs=5e-7)
    assert privleak(1.0, 0.4772) == approx(-100.0) and privleak(0.4, 0.4) == 0.0
    assert privleak(0.7, 1.0, eps=1e-10) == approx(0.3e12)


@needs_golden
def test_auc_and_privleak_of_the_authors_scores():
    """The ten News models of MUSE, from their logged Min-40 % scores of 100 + 100 texts."""
    cases = {case["model"]: case for case in json.loads(GOLDEN.read_text())["cases"]}
    found = {model: auc(case["min40_forget"], case["min40_holdout"]) for model, case in cases.items()}
    assert len(cases) == 10
    for model, case in cases.items():
        assert 1 - found[model] == approx(case["auc_forget_holdout"], abs=1e-12)
        assert privleak(found[model], found["retrain"]) == approx(case["privleak"], abs=1e-9)


def test_intervals_of_changes_draw_both_models_on_the_same_texts():
    rng = np.random.default_rng(1)
    samples = {"members": rng.random((30, 1)).repeat(2, axis=1), "others": rng.random((20, 1)).repeat(2, axis=1)}
    for kind in ("privleak", "rel_diff"):
        assert change_of_groups(kind)(samples) == 0.0
        assert bootstrap_joint(samples, change_of_groups(kind), 100) == (0.0, 0.0)  # two equal models differ on no resample


def test_an_oracle_without_a_wrong_pair_counts_half_a_pair_on_resamples():
    # 2 x 2 pairs: the oracle's 1 - AUC is 0 and counts as 1/8; the model's is 1/4.
    samples = {"members": np.array([[1.0, 0.0], [3.0, 0.0]]), "others": np.array([[2.0, 1.0], [4.0, 1.0]])}
    assert change_of_groups("privleak")(samples) == approx(100.0)
    assert change_of_groups("privleak", eps=1e-10)(samples) == approx(25e10)
    assert change_of_groups("rel_diff")(samples) == approx(-25.0)


@pytest.mark.parametrize("kind", ["privleak", "rel_diff"])
def test_equal_models_do_not_differ_where_there_is_nothing_to_divide_by(kind):
    low, high = np.array([[0.1, 0.1], [0.2, 0.2]]), np.array([[0.8, 0.8], [0.9, 0.9]])
    members, others = (low, high) if kind == "privleak" else (high, low)
    assert change_of_groups(kind)({"members": members, "others": others}) == 0.0


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: min_k([], 0.4), r"logp: shape \(0,\); one number per token"),
        (lambda: min_k([-1.0], 0.0), "k=0.0: write a number above 0 and up to 1"),
        (lambda: min_k([-1.0], 40), "k=40: write a number above 0 and up to 1"),
        (lambda: min_k_plus_plus([-1.0], [-1.0, -1.0], [1.0]), "1 of logp, 2 of mean, 1 of variance"),
        (lambda: reference_attack([-1.0, -1.0], [-1.0]), "2 of logp, 1 of reference"),
        (lambda: auc([], [1.0]), "members: there are no items"),
        (lambda: auc([1.0], [np.nan]), "others: item 0 is NaN"),
        (lambda: privleak(0.5, 1.0), "PrivLeak: the oracle's AUC leaves nothing to divide by"),
        (lambda: rel_diff(0.5, 0.0), "rel_diff: the oracle's AUC leaves nothing to divide by"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_the_measure_reads_true_answers_without_their_eos():
    # Losses ln 2, ln 4 against ln 4, ln 8: of four pairs three are in order and one ties: 3.5 / 4.
    measure = Membership("membership")
    metrics = measure.numbers(evaluated())
    assert set(metrics) == {"mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus"}
    assert metrics["mia_loss"].value == metrics["mia_min_k"].value == 0.875
    # With EOS the means are 0.53, 1.69 against 0.96, 1.42: two of four.
    assert values(Membership("membership", drop_eos="never"))["mia_loss"] == 0.5
    loss = metrics["mia_loss"]
    assert loss.n == 4 and loss.ci95[0] <= 0.875 <= loss.ci95[1]
    assert "task forget against holdout" in loss.definition and "a supervised EOS is left out" in loss.definition
    assert "40 % lowest tokens" in metrics["mia_min_k"].definition
    clusters = loss.clustered(lambda task, index: f"{task} {index // 2}").evidence.clusters
    assert set(clusters["members"]) == {"forget 0"} and set(clusters["others"]) == {"holdout 0"}


def test_an_answer_that_was_cut_keeps_its_last_token():
    own = table(**OWN)
    own["eos"] = False
    assert values(Membership("membership"), scores=own)["mia_loss"] == 0.5
    assert values(Membership("membership", drop_eos="last"), scores=own)["mia_loss"] == 0.875


def test_compat_drops_the_last_token_where_open_unlearning_does():
    found = values(Membership("membership"), compat="open_unlearning")
    assert found["mia_loss"] == 0.5 and found["mia_min_k"] == 0.875


def test_compat_scores_an_answer_of_one_token_0():
    own = table(forget=[[0.5], [0.25, 0.9]], holdout=[[0.4, 0.9], [0.5, 0.9]])
    assert values(Membership("membership"), scores=own, compat="open_unlearning")["mia_min_k"] == 0.5  # 0, ln 4; ln 2.5, ln 2


def test_several_shares_have_names_of_their_own():
    found = Membership("membership", k=[0.2, 1.0]).numbers(evaluated())
    names = {f"mia_{attack}_{k}" for attack in ("min_k", "min_k_plus_plus") for k in (0.2, 1.0)}
    assert set(found) == {"mia_loss", "mia_zlib"} | names
    assert "100 % lowest" in found["mia_min_k_1.0"].definition and "20 % lowest" in found["mia_min_k_0.2"].definition


def test_the_oracle_gives_the_reference_attack_and_the_changes():
    metrics = Membership("membership").numbers(evaluated(oracle=table(**THEIRS)))
    found = {name: metric.value for name, metric in metrics.items()}
    # Loss above the oracle's: -ln 2, -ln 2 against ln 2, 0: all four pairs in order.
    assert found["mia_reference"] == 1.0 and "mia_reference_privleak" not in found
    # The oracle: ln 4, ln 8 against ln 2, ln 8: (1 + 1/2) / 4 = 3/8. So ((1/8) - (5/8)) / (5/8) and (7/8 - 3/8) / (3/8).
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus"):
        assert found[f"mia_{attack}_privleak"] == approx(-80.0), attack
        assert found[f"mia_{attack}_rel_diff"] == approx(400 / 3), attack
    told = metrics["mia_min_k_privleak"]
    assert told.n == 4 and told.ci95[0] <= told.value <= told.ci95[1]
    assert "1 - 0.3750, that of the retain oracle" in told.definition


def test_without_an_oracle_only_compat_compares_with_a_half():
    assert not [name for name in values(Membership("membership")) if "privleak" in name or "rel_diff" in name]
    found = values(Membership("membership"), compat="open_unlearning")
    assert found["mia_min_k_privleak"] == approx(-75.0, abs=1e-6) and found["mia_min_k_rel_diff"] == approx(75.0, abs=1e-6)


def test_an_oracle_that_gives_nothing_to_divide_by_is_left_out(caplog):
    always = {"forget": [[0.5, 0.5, 0.5]] * 2, "holdout": [[0.1, 0.1, 0.5]] * 2}
    found = values(Membership("membership"), oracle=table(**always))
    assert "mia_loss_privleak" not in found and found["mia_loss_rel_diff"] == approx(-12.5)
    assert "mia_loss_privleak is left out: the retain oracle's AUC of 1" in caplog.text


def test_an_old_table_gives_what_it_holds(caplog):
    old = table(**OWN).drop(columns=["entropy", "logp_variance", "wanted"])
    with caplog.at_level(logging.WARNING):
        assert set(values(Membership("membership"), scores=old)) == {"mia_loss", "mia_min_k"}
    (record,) = caplog.records
    assert "scores.parquet has no column wanted, entropy: left out: zlib, min_k_plus_plus" in record.message


def test_an_old_table_of_the_oracle_gives_what_it_holds(caplog):
    old = table(**THEIRS).drop(columns=["entropy", "logp_variance", "wanted", "eos"])
    found = values(Membership("membership"), oracle=old)
    assert found["mia_zlib_privleak"] == approx(-80.0)  # its tokens are those of the model's own table
    assert "mia_min_k_plus_plus" in found and "mia_min_k_plus_plus_privleak" not in found
    assert "oracle.parquet has no column entropy" in caplog.text


def test_an_oracle_without_holdout_is_not_compared_with(caplog):
    found = values(Membership("membership"), oracle=table(forget=THEIRS["forget"]))
    assert "mia_loss" in found and "mia_reference" not in found and "mia_loss_privleak" not in found
    assert "oracle.parquet lacks answers of task holdout" in caplog.text


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (
            {"scores": table(forget=OWN["forget"])},
            "no answers of task holdout: evaluate the model again",
        ),
        ({"oracle": table(**{**THEIRS, "forget": [[0.5], [0.5]]})}, "oracle.parquet: task forget, row 1 has other tokens"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Membership("membership").numbers(evaluated(**changes))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"k": 40}, "measure.membership.k=40: write a number above 0"),
        ({"k": []}, r"measure.membership.k=\[\]"),
        ({"k": [0.2, 0.2]}, r"measure.membership.k=\[0.2, 0.2\]"),
        ({"k": "all"}, "measure.membership.k=all"),
        ({"k": None}, "measure.membership.k=None"),
        ({"drop_eos": "first"}, "measure.membership.drop_eos=first: write one of auto, eos, last, never"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Membership("membership", **options)


def test_benchmarks_without_unseen_texts_are_refused():
    class Whole(Toy):
        members = None

    class Half(Toy):
        tasks = ("forget",)

    def check(benchmark: Benchmark) -> None:
        Membership("membership").check(benchmark, benchmark.requests("forget01"))

    check(Toy())
    with pytest.raises(ValueError, match="measure=membership: benchmark=toy has no texts that were never trained on"):
        check(Whole())
    with pytest.raises(ValueError, match="benchmark=toy has data without task holdout for this split; add its file"):
        check(Half())


def test_the_command_line_builds_it_and_it_asks_nothing_more():
    asked = check_evaluation(compose_settings("evaluate", "measure=[membership]", "measure.membership.k=[0.2,0.4]"))
    (measure,) = asked.measures
    assert isinstance(measure, Membership) and measure.ks == [0.2, 0.4]
    assert asked.requests == asked.plain and measure.statistics == ("entropy", "logp_variance")
    with pytest.raises(ValueError, match="benchmark=knowundo has no texts"):
        check_evaluation(compose_settings("evaluate", "measure=[membership]", "benchmark=knowundo"))
    with pytest.raises(SettingsError, match="measure=membership: .*k=2: write a number above 0"):
        check_evaluation(compose_settings("evaluate", "measure=[membership]", "measure.membership.k=2"))
