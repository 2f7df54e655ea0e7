from __future__ import annotations

import copy
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pytest import approx

from metrics.benchmarks.tofu import tofu_metrics, truth_ratio
from metrics.benchmarks.tofu_logs import TOP_LEVEL, WRONG_ANSWERS, read_tofu_log

GOLDEN = Path(os.environ.get("LETHE_SHARED", "")) / "golden"
needs_golden = pytest.mark.skipif("LETHE_SHARED" not in os.environ, reason="LETHE_SHARED is not set: no golden logs")
FORGET, AUTHORS = TOP_LEVEL["forget"], TOP_LEVEL["real_authors"]


def small_task(wrong: int) -> dict:
    """Twelve questions, written in text order ("10" before "2"); question i has loss i / 10 on its true answer."""
    order = sorted(map(str, range(12)))
    return {
        "avg_gt_loss": {i: int(i) / 10 for i in order},
        "avg_paraphrased_loss": {i: int(i) / 10 + 0.5 for i in reversed(order)},
        "average_perturb_loss": {i: [int(i) / 10 + 1 + j for j in range(wrong)] for i in order},
        "rougeL_recall": {i: 1 if i == "10" else 0.25 for i in order},
        "truth_ratio": {i: 0.0 for i in order},
    }


@pytest.fixture
def log() -> dict:
    return {name: small_task(WRONG_ANSWERS[task]) for task, name in TOP_LEVEL.items()}


def write(log: object, path: Path) -> Path:
    data = json.dumps(log).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["log.json", "log.json.gz"])
def test_questions_come_in_numeric_order(log, tmp_path, name):
    forget = read_tofu_log(write(log, tmp_path / name))["forget"]
    assert forget.gt == approx(np.arange(12) / 10)
    assert forget.paraphrased == approx(np.arange(12) / 10 + 0.5)
    assert forget.perturbed[11] == approx([2.1, 3.1, 4.1, 5.1, 6.1])
    assert forget.rougeL_recall.tolist() == [0.25] * 10 + [1.0, 0.25]
    assert forget.rouge1_recall is None


def test_tasks_and_metrics_of_a_small_log(log, tmp_path):
    tasks = read_tofu_log(write(log, tmp_path / "log.json"))
    assert list(tasks) == ["retain", "real_authors", "world_facts", "forget"]
    assert tasks["world_facts"].perturbed.shape == (12, 3)
    metrics = tofu_metrics(tasks, tasks["forget"], resamples=2)
    # wrong answers average 3 nats above the true one and 2.5 above the paraphrase, in every question
    assert metrics["forget_truth_ratio"].value == approx(np.exp(-2.5))
    assert metrics["retain_truth_ratio"].value == approx(1 - np.exp(-2.5))
    assert metrics["real_authors_prob"].value == approx(1 / (1 + np.exp(-1) + np.exp(-2) + np.exp(-3)))
    assert metrics["forget_quality"].value == 1.0


def test_true_answer_stands_in_for_a_paraphrase_of_the_real_tasks_only(log, tmp_path):
    del log[AUTHORS]["avg_paraphrased_loss"]
    authors = read_tofu_log(write(log, tmp_path / "log.json"))["real_authors"]
    assert authors.paraphrased.tolist() == authors.gt.tolist()
    del log[FORGET]["avg_paraphrased_loss"]
    with pytest.raises(ValueError, match="eval_log_forget.json: metric 'avg_paraphrased_loss' is missing"):
        read_tofu_log(write(log, tmp_path / "log.json"))


def drop(*keys):
    def change(log):
        for key in keys[:-1]:
            log = log[key]
        del log[keys[-1]]

    return change


def put(value, *keys):
    def change(log):
        for key in keys[:-1]:
            log = log[key]
        log[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (drop(FORGET), r"'eval_log_forget.json' \(task forget\) is missing"),
        (drop(FORGET, "rougeL_recall"), "eval_log_forget.json: metric 'rougeL_recall' is missing"),
        (put({}, FORGET, "avg_gt_loss"), "metric 'avg_gt_loss' is missing or empty"),
        (drop(FORGET, "rougeL_recall", "7"), "rougeL_recall: lacks question '7'"),
        (put(1.0, FORGET, "rougeL_recall", "12"), "rougeL_recall: has question '12', unlike avg_gt_loss"),
        (put(1.0, FORGET, "avg_gt_loss", "x"), "question 'x' is not a row number"),
        (put(float("nan"), FORGET, "avg_gt_loss", "3"), "avg_gt_loss: question '3': nan is not a finite number"),
        (put(float("inf"), AUTHORS, "avg_gt_loss", "3"), "wo_options.json: avg_gt_loss: question '3': inf is not"),
        (put("0.1", FORGET, "avg_gt_loss", "3"), "question '3': '0.1' is not a finite number"),
        (put(None, FORGET, "rougeL_recall", "3"), "question '3': None is not a finite number"),
        (put([1.0] * 4, FORGET, "average_perturb_loss", "3"), "question '3': 4 values instead of 5"),
        (put([1.0] * 5, AUTHORS, "average_perturb_loss", "3"), "question '3': 5 values instead of 3"),
        (put(1.0, FORGET, "average_perturb_loss", "3"), "question '3': 1.0 instead of 5"),
        (put([1.0, 2.0, float("nan"), 1.0, 1.0], FORGET, "average_perturb_loss", "3"), "question '3': nan is not"),
    ],
)
def test_a_bad_log_is_refused_with_its_place(log, tmp_path, change, sentence):
    bad = copy.deepcopy(log)
    change(bad)
    path = write(bad, tmp_path / "bad.json")
    with pytest.raises(ValueError, match=sentence) as error:
        read_tofu_log(path)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.json.gz: no such file"):
        read_tofu_log(tmp_path / "absent.json.gz")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("plain.json.gz", b"{}", "broken gzip"),
        ("short.json.gz", gzip.compress(b"{}" * 1000, mtime=0)[:-12], "broken gzip"),
        ("zipped.json", gzip.compress(b"{}", mtime=0), "not JSON"),
        ("text.json", b"{'a': 1}", "not JSON"),
        ("text.json.gz", gzip.compress(b"hello", mtime=0), "not JSON"),
        ("list.json", b"[1, 2]", "holds a list"),
    ],
)
def test_a_file_that_is_no_log(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_tofu_log(tmp_path / name)


@needs_golden
@pytest.mark.parametrize("model", ["full", "retain90", "retain95", "retain99"])
def test_published_logs(model):
    spots = json.loads((GOLDEN / "tofu_aggregate.json").read_text())["spot_values"][f"llama2-7b_{model}_wd0.01"]
    path = GOLDEN / "tofu_logs" / f"llama2-7b_{model}_wd0.01.json.gz"
    tasks = read_tofu_log(path)
    assert {task: len(table) for task, table in tasks.items()} == spots["n"]
    forget = tasks["forget"]
    # the golden file stores the ratio the other way round, right over wrong
    assert 1 / truth_ratio(forget.paraphrased, forget.perturbed)[:5] == approx(spots["forget_R_first5"], rel=1e-9)
    raw = json.loads(gzip.decompress(path.read_bytes()))
    for task, table in tasks.items():
        logged = raw[TOP_LEVEL[task]]["truth_ratio"]  # computed in float32 by the authors
        ratio = truth_ratio(table.paraphrased, table.perturbed)
        assert ratio == approx([logged[str(i)] for i in range(len(table))], rel=2e-6)
        if task in ("real_authors", "world_facts"):
            # the true answer both times, but scored in batches of other sizes and bfloat16: up to 3 % apart
            assert table.paraphrased == approx(table.gt, rel=0.03)
