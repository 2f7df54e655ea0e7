"""The utility benchmark: options and rows are refused in a sentence, an evaluation is resumed task by task, numbers are saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import data.benchmarks.utility
from data.benchmarks.harness import EngineLM, evaluate_task
from data.benchmarks.utility import TASKS, Utility
from data.files.sources import FIXTURES
from data.files.utility import TASK_FILES
from tests.models import tiny_model, tokenizer
from tests.runs import REAL, compose_settings, launch, metrics, run, target
from utils.engine.engine import Engine
from utils.files import read_json, read_rows
from utils.reading import DataError, files_read
from utils.runs.settings import SettingsError, check_evaluation, check_training
from utils.tokens.prompts import Template

with_real_data = pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED, the folder with the real data")
ACCURACIES = {f"{task}_acc" for task in TASKS if task != "wikitext"}
NORMS = {f"{task}_acc_norm" for task in ("hellaswag", "arc_challenge", "arc_easy", "openbookqa", "piqa")}
PERPLEXITIES = {f"wikitext_{name}" for name in ("word_perplexity", "byte_perplexity", "token_perplexity", "bits_per_byte")}


def utility(root: Path | str = "fixture", **options) -> Utility:
    return Utility("utility", str(root), **options)


def evaluate(folder: Path, *overrides: object) -> Path:
    common = ("benchmark=utility", f"model.path={target()}", "resamples=100", "out=eval")
    run(folder, "evaluate", *common, *overrides)
    return folder / "eval"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    return evaluate(tmp_path_factory.mktemp("utility"))


@pytest.fixture
def copied(tmp_path) -> Path:
    """A data_root of the user's that a test may damage."""
    shutil.copytree(FIXTURES / "utility", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Tasks that are evaluated during the test, in order."""
    names, original = [], data.benchmarks.utility.evaluate_task
    monkeypatch.setattr(
        data.benchmarks.utility,
        "evaluate_task",
        lambda lm, task, limit: names.append(task.config.task) or original(lm, task, limit),
    )
    return names


def test_every_task_and_both_averages_are_reported(evaluated):
    found = metrics(evaluated)
    assert set(found) == ACCURACIES | NORMS | PERPLEXITIES | {"avg_acc_9", "avg_acc_10"}
    assert all("lm-evaluation-harness 0.4.13" in found[name]["definition"] for name in ACCURACIES | NORMS | PERPLEXITIES)
    assert found["avg_acc_10"]["n"] == 8 * 8 + 4
    assert read_json(evaluated / "run.json")["status"] == "finished"


def test_documents_are_kept_with_what_the_model_said(evaluated):
    rows = read_rows(evaluated / "generations.jsonl")
    assert list(dict.fromkeys(row["task"] for row in rows)) == list(TASKS)
    assert {path.stem for path in (evaluated / "parts").iterdir()} == set(TASKS)
    choices = [row for row in rows if row["task"] == "hellaswag"]
    assert all(len(row["loglikelihoods"]) == 4 for row in choices) and [row["index"] for row in choices] == list(range(8))


def test_rescoring_reads_the_files_alone(evaluated, tmp_path, monkeypatch):
    shutil.copytree(evaluated, tmp_path / "eval")
    (tmp_path / "eval" / "metrics.json").unlink()
    monkeypatch.setattr(data.benchmarks.utility, "evaluate_task", None)
    run(tmp_path, "evaluate", "benchmark=utility", "resamples=100", "rescore=true", "out=eval")
    assert metrics(tmp_path / "eval") == metrics(evaluated)


def test_an_interrupted_evaluation_goes_on_with_the_next_task(evaluated, tmp_path, monkeypatch, asked):
    counting = data.benchmarks.utility.evaluate_task

    def stop(lm, task, limit):
        if task.config.task == "arc_easy":
            raise KeyboardInterrupt
        return counting(lm, task, limit)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data.benchmarks.utility, "evaluate_task", stop)
        evaluate(tmp_path)
    assert asked == list(TASKS[:5])
    del asked[:]
    evaluate(tmp_path)
    assert asked == list(TASKS[5:])
    assert metrics(tmp_path / "eval") == metrics(evaluated)


def test_some_tasks_and_some_documents(tmp_path):
    folder = evaluate(tmp_path, "benchmark.tasks=[piqa,wikitext]", "benchmark.limit=2", "benchmark.max_length=64")
    found = metrics(folder)
    assert set(found) == {"piqa_acc", "piqa_acc_norm"} | PERPLEXITIES
    assert found["piqa_acc"]["n"] == 2 and "the first 2 of 8 documents only" in found["piqa_acc"]["definition"]
    assert "window of at most 64 tokens" in found["wikitext_word_perplexity"]["definition"]


def test_files_that_were_read_are_noted():
    with files_read() as noted:
        utility(tasks=("piqa", "rte")).requests("all")
    assert set(noted) == {"piqa/validation.jsonl", "rte/validation.jsonl"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": ["piqa", "boolk"]}, "each at most once; did you mean boolq?"),
        ({"tasks": ["mmlu"]}, "benchmark.tasks=['mmlu']: write a list out of boolq, rte"),
        ({"tasks": "piqa"}, "benchmark.tasks=piqa: write a list"),
        ({"tasks": []}, "benchmark.tasks=[]: write a list out of boolq"),
        ({"tasks": ["piqa", "piqa"]}, "each at most once"),
        ({"limit": 0}, "benchmark.limit=0: write null, or a whole number from 1"),
        ({"limit": 2.5}, "benchmark.limit=2.5"),
        ({"max_length": 1}, "benchmark.max_length=1: write null, or a whole number from 2"),
        ({"num_fewshot": -1}, "benchmark.num_fewshot=-1: write a whole number from 0"),
        ({"num_fewshot": None}, "benchmark.num_fewshot=None: write a whole number from 0"),
        ({"num_fewshot": 5}, "benchmark.num_fewshot=5: examples come from training splits, which data_root=fixture does not"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError) as refusal:
        utility(**options)
    assert words in str(refusal.value)


def test_nothing_is_learned_or_forgotten():
    benchmark = utility()
    for ask in (benchmark.training, benchmark.retain_split, lambda _: benchmark.general_knowledge()):
        with pytest.raises(ValueError, match="benchmark=utility: is for evaluation only"):
            ask("all")
    with pytest.raises(ValueError, match="split=forget10: write all"):
        benchmark.requests("forget10")
    assert benchmark.oracle_requests([]) == [] and benchmark.prompts("evaluate", Template("chat"), 9) == (
        Template("chat"),
        9,
    )


def test_the_scripts_say_so_too(tmp_path):
    with pytest.raises(SettingsError, match="num_fewshot=2: examples come from training splits"):
        check_evaluation(compose_settings("evaluate", "benchmark=utility", "benchmark.num_fewshot=2"))
    settings = check_training(compose_settings("finetune", "benchmark=utility"), "finetune")
    with pytest.raises(ValueError, match="for evaluation only; choose another benchmark"):
        settings.benchmark.training(settings.cfg.split)


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("boolq", {"label": 2}, "label must be one of 0, 1, not 2"),
        ("boolq", {"passage": " "}, "passage must be a text that is not blank"),
        ("rte", {"sentence2": None}, "sentence2 must be a text that is not blank, not None"),
        ("hellaswag", {"endings": ["a", "b", "c"]}, "endings must be a list of 4, each a text that is not blank"),
        ("hellaswag", {"label": "4"}, "label must be one of 0, 1, 2, 3, not '4'"),
        ("winogrande", {"sentence": "no gap"}, "sentence must be a sentence with one _ as the gap, not 'no gap'"),
        ("winogrande", {"answer": ""}, "answer must be one of 1, 2, not ''"),
        ("arc_challenge", {"answerKey": "E"}, "answerKey must be one of 1, 2, 3, 4, not 'E'"),
        ("arc_easy", {"choices": ["a"]}, "choices must be lists of texts `text` and `label`"),
        (
            "openbookqa",
            {"choices": {"text": ["a"], "label": ["A", "B"]}},
            "choices must be lists of texts `text` and `label`, as many of one",
        ),
        ("piqa", {"sol2": 7}, "sol2 must be a text that is not blank, not 7"),
        (
            "truthfulqa_mc1",
            {"mc1_targets": {"choices": ["a", "b"], "labels": [0, 1]}},
            "mc1_targets must be lists of texts `choices` and `labels` of 0 and 1, 1 for what is true, the one true choice first",
        ),
        (
            "truthfulqa_mc2",
            {"mc2_targets": {"choices": ["a"], "labels": []}},
            "mc2_targets must be lists of texts `choices` and `labels`",
        ),
        (
            "truthfulqa_mc2",
            {"mc2_targets": None},
            "mc2_targets must be lists of texts `choices` and `labels` of 0 and 1, 1 for what is true, not None",
        ),
        ("wikitext", {"page": ""}, "page must be a text that is not blank"),
    ],
)
def test_bad_rows_are_refused_by_file_and_row_before_a_model_is_loaded(copied, task, change, words):
    path = copied / TASK_FILES[task].file
    rows = read_rows(path)
    rows[1] |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError) as refusal:
        utility(copied, tasks=[task]).requests("all")
    assert f"{path}, row 2: field {words}" in str(refusal.value)


def test_a_missing_file_is_named(copied):
    (copied / "piqa" / "validation.jsonl").unlink()
    with pytest.raises(
        DataError, match="data_root=.*data: .*data has no piqa/validation.jsonl; use data_root=hub, or put it there"
    ):
        utility(copied).requests("all")
    assert utility(copied, tasks=["rte"]).requests("all") == []


def test_without_a_network_the_hub_is_refused_in_a_sentence(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(data.benchmarks.utility, "load_task", offline)
    with pytest.raises(
        DataError, match=r"the data of task piqa cannot be fetched \(ConnectionError\); give data_root=DIR with DIR/piqa/"
    ):
        utility("hub", tasks=["piqa"], num_fewshot=3).requests("all")


@pytest.mark.slow
def test_two_processes_give_the_same_numbers(evaluated, tmp_path):
    overrides = ("model=tiny", "benchmark=utility", f"model.path={target()}", "resamples=100", "out=eval")
    finished = launch(tmp_path, "evaluate.py", *overrides, processes=2)
    assert finished.code == 0, finished.err
    for name, metric in metrics(evaluated).items():
        assert metrics(tmp_path / "eval")[name]["value"] == pytest.approx(metric["value"], rel=1e-4), name


SIZES = dict(zip(TASKS, (3270, 277, 10042, 1267, 1172, 2376, 500, 1838, 817, 817, 62), strict=True))

SLOW = {"hellaswag": pytest.mark.slow}


@with_real_data
@pytest.mark.parametrize("task", [pytest.param(task, marks=SLOW.get(task, ())) for task in TASKS])
def test_the_real_files_build_and_two_documents_are_evaluated(task):
    if not (REAL / "data" / TASK_FILES[task].file).is_file():
        pytest.skip(f"{TASK_FILES[task].file} is not in the folder")
    benchmark = utility(REAL / "data", tasks=[task])
    assert benchmark.requests("all") == []
    lm = EngineLM(Engine(tiny_model(), tokenizer().pad_token_id), tokenizer(), 8192)
    rows = evaluate_task(lm, benchmark._loaded[task], limit=2)
    assert [row["index"] for row in rows] == [0, 1] and {row["of"] for row in rows} == {SIZES[task]}
