"""Logs of open-unlearning: its own numbers come out, under our names; what is no such log, or set up otherwise, is refused."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from metrics.benchmarks import open_unlearning_logs
from metrics.benchmarks.muse import MuseMetrics
from metrics.benchmarks.tofu_logs import TOP_LEVEL
from metrics.benchmarks.tofu_tables import TofuMetrics
from metrics.measures.membership import Membership
from metrics.measures.memorization import Memorization
from utils import ROOT
from utils.items.metric import Metric
from utils.items.saved import Saved

GOLDEN = Path(os.environ.get("LETHE_SHARED", "")) / "golden" / "open_unlearning_logs"
NAMES = {  # of the summary -> ours
    "extraction_strength": "extraction_strength_forget",
    "forget_Q_A_Prob": "forget_prob",
    "forget_Q_A_ROUGE": "forget_rougeL_recall",
    "forget_quality": "forget_quality",
    "forget_truth_ratio": "forget_truth_ratio",
    "model_utility": "model_utility",
    "privleak": "mia_min_k_privleak",
}
TOFU = Saved(pd.DataFrame(), resamples=100, forgotten=("forget",), members=("forget", "holdout"))
MUSE = Saved(pd.DataFrame(), resamples=100, forgotten=("verbmem",), members=("privleak_forget", "privleak_holdout"))


def by_index(field: str, values: list) -> dict:
    """A metric, its mean that of the values that are there."""
    there = [value for value in values if value is not None]
    return {"agg_value": sum(there) / len(there), "value_by_index": {str(i): {field: v} for i, v in enumerate(values)}}


def ratios(values: list[float], forget: bool) -> dict:
    parts = [min(value, 1 / (value + 1e-10)) if forget else max(0, 1 - value) for value in values]
    return by_index("score", values) | {"agg_value": sum(parts) / len(parts)}


def attack(forget: list[float], holdout: list[float], value: float) -> dict:
    sides = {"forget": by_index("score", forget), "holdout": by_index("score", holdout)}
    return {**sides, "auc": value, "agg_value": value}


def tofu_log(quality: float | None = None, privleak: float | None = None, low: float = 0.2) -> dict:
    """Two questions of each task, three of the forget set."""
    log = {
        "forget_Q_A_Prob": by_index("prob", [0.1, 0.2, 0.6]),
        "forget_Q_A_ROUGE": by_index("rougeL_recall", [0.0, 0.5, 1.0]),
        "forget_truth_ratio": ratios([low, 0.5, 4.0], forget=True),
        "retain_Q_A_Prob": by_index("prob", [0.5, 0.7]),
        "retain_Q_A_ROUGE": by_index("rougeL_recall", [0.5, 0.5]),
        "retain_Truth_Ratio": ratios([0.4, 2.0], forget=False),
        "exact_memorization": by_index("score", [0.5, None, 1.0]),
        "extraction_strength": by_index("score", [0.25, 0.0, 0.5]),
        # pairs with the lower forget score: 2 and 2 of 4, a tie half: (2 + 1.5) / 4
        "mia_min_k": attack([1.0, 2.0], [2.0, 3.0], 0.875),
        "forget_quality": {"agg_value": quality},
        "privleak": {"agg_value": (0.125 - 0.5) / (0.5 + 1e-10) * 100 if privleak is None else privleak},
        "model_utility": {"agg_value": 0.3},
        "forget_Q_A_PARA_Prob": by_index("prob", [0.1, 0.2, 0.6]),
    }
    for name in ("ra", "wf"):
        log[f"{name}_Q_A_Prob_normalised"] = by_index("prob", [0.8, 0.4])
        log[f"{name}_Q_A_ROUGE"] = by_index("rougeL_recall", [1.0, 0.0])
        log[f"{name}_Truth_Ratio"] = ratios([0.5, 0.5], forget=False)
    return log


def muse_log() -> dict:
    return {
        "forget_verbmem_ROUGE": by_index("rougeL_f1", [0.2, 0.6]),
        "forget_knowmem_ROUGE": by_index("rougeL_f1", [0.0, 0.5]),
        "retain_knowmem_ROUGE": by_index("rougeL_f1", [1.0, 0.5]),
        "extraction_strength": by_index("score", [0.1, 0.3]),
        "mia_min_k": attack([1.0, 2.0], [2.0, 3.0], 0.875),
        "privleak": {"agg_value": (0.125 - 0.5) / (0.5 + 1e-10) * 100},
    }


def write(folder: Path, log: object, name: str = "EVAL.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(log))
    return path


def tofu(path: Path, oracle: Path | None = None, asked: Saved = TOFU) -> dict[str, Metric]:
    return TofuMetrics().from_logs(path, oracle, asked)


@pytest.mark.skipif("LETHE_SHARED" not in os.environ, reason="LETHE_SHARED is not set: no golden logs")
@pytest.mark.parametrize("name, oracle", [("full", "retain90"), ("npo", "retain90"), ("retain90", None)])
def test_its_summaries_come_out(name, oracle):
    summary = json.loads((GOLDEN / name / "TOFU_SUMMARY.json").read_text())
    found = tofu(GOLDEN / name / "TOFU_EVAL.json", oracle and GOLDEN / oracle / "TOFU_EVAL.json")
    assert len(summary) >= 6
    for key, value in summary.items():
        assert found[NAMES[key]].value == approx(value, rel=1e-6, abs=1e-12), key
    assert found["forget_prob"].n == 20 and found["retain_prob"].n == 40 and found["mia_min_k"].n == 40
    for key in ("forget_prob", "forget_truth_ratio", "extraction_strength_forget", "mia_min_k_privleak"):
        low, high = found[key].ci95
        assert low <= found[key].value <= high


def test_a_log_by_hand(tmp_path):
    found = tofu(write(tmp_path, tofu_log()))
    values = {name: metric.value for name, metric in found.items()}
    assert values["forget_prob"] == approx(0.3) and found["forget_prob"].n == 3
    assert values["forget_truth_ratio"] == approx((0.2 + 0.5 + 0.25) / 3) and values["retain_truth_ratio"] == approx(0.3)
    means = [0.6, 0.5, 0.3, *2 * [0.6, 0.5, 0.5]]
    assert values["model_utility"] == approx(9 / sum(1 / mean for mean in means))
    assert values["exact_memorization_forget"] == approx(0.75) and found["exact_memorization_forget"].n == 2
    assert values["extraction_strength_forget"] == approx(0.25) and values["mia_min_k"] == approx(0.875)
    assert values["mia_min_k_privleak"] == approx(-75) and values["mia_min_k_rel_diff"] == approx(75)
    assert "forget_quality" not in values


def test_an_oracle_beside_it(tmp_path):
    oracle = tofu_log(low=0.3) | {"mia_min_k": attack([1.0, 5.0], [2.0, 3.0], 0.5)}
    found = tofu(write(tmp_path, tofu_log(quality=0.5)), write(tmp_path, oracle, "retain.json"))
    assert found["ks_statistic"].value == approx(1 / 3) and found["forget_quality"].value == approx(1.0)
    assert found["mia_min_k_privleak"].value == approx(-75)
    assert "0.5000, that of the retain oracle" in found["mia_min_k_privleak"].definition


def test_definitions_are_those_of_our_own_evaluations_in_that_form(tmp_path):
    """So that a run and a log can be compared."""
    found = tofu(write(tmp_path, tofu_log()))
    scores = [
        {"task": task, "index": i, "role": "answer", "number": 0, "tokens": 2, "eos": True, "asked_by": ""}
        | {"hit": np.array([True, True]), "logp": np.array([-1.0, -2.0]), "wanted": "a"}
        for task in ("forget", "holdout") for i in (0, 1)
    ]  # fmt: skip
    saved = Saved(pd.DataFrame(scores), compat="open_unlearning", forgotten=("forget",), members=TOFU.members, resamples=100)
    ours = Memorization("memorization").numbers(saved) | Membership("membership").numbers(saved)
    names = ("extraction_strength_forget", "exact_memorization_forget", "mia_min_k", "mia_min_k_privleak")
    assert {name: ours[name].definition for name in names} == {name: found[name].definition for name in names}
    assert "compat=open_unlearning" in found["forget_truth_ratio"].definition


@pytest.mark.parametrize("changes", [{"quality": 0.5}, {"privleak": -60.0}])
def test_what_compares_with_a_log_that_is_not_given_is_left_out_and_said(tmp_path, caplog, changes):
    with caplog.at_level(logging.INFO):
        found = tofu(write(tmp_path, tofu_log(**changes)))
    assert "mia_min_k" in found and not {"mia_min_k_privleak", "forget_quality"} & set(found)
    assert "compared with a retain model; to have it here, add its log: oracle=FILE" in caplog.text
    assert "not read: forget_Q_A_PARA_Prob" in caplog.text


def test_what_a_log_lacks_is_left_out(tmp_path):
    log = tofu_log()
    for name in ("retain_Q_A_ROUGE", "mia_min_k", "exact_memorization"):
        del log[name]
    found = tofu(write(tmp_path, log), write(tmp_path, {"forget_Q_A_Prob": log["forget_Q_A_Prob"]}, "retain.json"))
    assert "retain_prob" in found and not {"retain_rougeL_recall", "model_utility", "forget_quality", "mia_min_k"} & set(found)


def test_muse(tmp_path):
    path = write(tmp_path, muse_log(), "MUSE_EVAL.json")
    found = MuseMetrics(corpus="news").from_logs(path, None, MUSE)
    values = {name: metric.value for name, metric in found.items()}
    assert values["verbmem"] == approx(0.4) and values["knowmem_forget"] == approx(0.25)
    assert values["knowmem_retain"] == approx(0.75) and values["extraction_strength_verbmem"] == approx(0.2)
    assert values["privleak"] == approx(-75) and values["privleak_auc"] == approx(0.875)
    assert values["mia_min_k_privleak"] == approx(-75)
    beside = MuseMetrics().from_logs(path, write(tmp_path, muse_log(), "retain.json"), MUSE)
    assert beside["privleak"].value == approx(0) and beside["privleak_auc_retrained"].value == approx(0.875)


def test_the_page_names_what_is_read():
    """docs/coming_from.md: the names of both sides, as a log gives them."""
    page = dict(re.findall(r"^\| `([\w]+)` \| `([\w]+)` \|", (ROOT / "docs" / "coming_from.md").read_text(), re.MULTILINE))
    assert page.items() >= NAMES.items()
    for (task, part), (metric, _) in open_unlearning_logs.TOFU.items():
        assert page[metric] == f"{task}_{part}"
    assert page.items() >= {metric: task for task, metric in open_unlearning_logs.MUSE.items()}.items()


REFUSED = [
    (lambda log: log.update(forget_Q_A_Prob={"agg_value": 1.0}),
     "forget_Q_A_Prob: has no value_by_index, the values of each question; pass TOFU_EVAL.json or MUSE_EVAL.json"),
    (lambda log: log["forget_Q_A_Prob"]["value_by_index"].pop("1"), "forget_Q_A_Prob: question '1' of 2: is missing"),
    (lambda log: log["forget_Q_A_ROUGE"]["value_by_index"]["2"].pop("rougeL_recall"), "question '2' of 3: has no rougeL_recall"),
    (lambda log: log["forget_Q_A_Prob"]["value_by_index"]["0"].update(prob=math.nan), "'0' of 3: prob=nan is not a finite"),
    (lambda log: log["extraction_strength"]["value_by_index"]["0"].update(score=None), "score=None is not a finite number"),
    (lambda log: log["forget_truth_ratio"].update(agg_value=0.9),
     "forget_truth_ratio: its agg_value is 0.9, the mean of its questions 0.316667; only what was set up as in open-unlearning"),
    (lambda log: log["mia_min_k"].update(agg_value=0.5), "mia_min_k: its agg_value is 0.5, the AUC of its scores 0.875"),
    (lambda log: log["mia_min_k"].pop("holdout"), "mia_min_k: holdout: has no value_by_index"),
    (lambda log: log.update(forget_verbmem_ROUGE={}), "forget_verbmem_ROUGE, which benchmark=tofu has not; use benchmark=muse"),
]  # fmt: skip


@pytest.mark.parametrize("spoil, message", REFUSED)
def test_what_is_not_as_that_code_writes_it_is_refused(tmp_path, spoil, message):
    log = copy.deepcopy(tofu_log())
    spoil(log)
    path = write(tmp_path, log)
    with pytest.raises(ValueError) as refusal:
        tofu(path)
    assert message in str(refusal.value) and str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    path = write(tmp_path, tofu_log())
    summary = write(tmp_path, {"forget_Q_A_Prob": 0.3}, "TOFU_SUMMARY.json")
    authors = write(tmp_path, {name: {} for name in TOP_LEVEL.values()}, "eval_log_aggregated.json")
    longer = tofu_log() | {"forget_truth_ratio": ratios([1.0] * 4, forget=True)}
    empty = write(tmp_path, {"lm_eval": {"agg_value": 1.0}}, "LMEVAL.json")
    for files, message in (
        ((summary, None), "TOFU_SUMMARY.json: holds means without the questions behind them"),
        ((path, authors), "eval_log_aggregated.json: is no log of open-unlearning, as the other one is"),
        ((authors, path), "eval_log_aggregated.json: is no log of open-unlearning, as the other one is"),
        ((path, write(tmp_path, longer, "retain95.json")), "forget_truth_ratio has 4 questions, that of from_logs 3"),
        ((empty, None), "LMEVAL.json: holds none of forget_Q_A_Prob"),
    ):
        with pytest.raises(ValueError, match=message):
            tofu(*files)
    for asked, made in ((TOFU, MuseMetrics), (MUSE, TofuMetrics)):
        log = tofu_log() if made is MuseMetrics else muse_log()
        with pytest.raises(ValueError, match="which benchmark=(muse|tofu) has not; use benchmark=(tofu|muse)"):
            made().from_logs(write(tmp_path, log), None, asked)
    with pytest.raises(ValueError, match=r"is no log of open-unlearning, of whose logs benchmark=muse reads MUSE_EVAL.json"):
        MuseMetrics().from_logs(authors, None, MUSE)


def test_dials_that_ask_for_another_form_are_refused(tmp_path):
    path = write(tmp_path, tofu_log())
    with pytest.raises(ValueError, match=r"compat=tofu_original: .* holds what open-unlearning computed; leave compat out"):
        tofu(path, asked=Saved(pd.DataFrame(), compat="tofu_original", forgotten=("forget",), members=TOFU.members))
    with pytest.raises(ValueError, match=r"benchmark.truth_ratio=arithmetic: .* holds geometric averages"):
        TofuMetrics("arithmetic").from_logs(path, None, TOFU)
