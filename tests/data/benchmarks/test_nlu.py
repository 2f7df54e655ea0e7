"""MEOW's few-shot questions: layout, examples, and what is read out of the answers."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

import data.benchmarks.nlu
from data.benchmarks.nlu import Nlu, decoded_together
from data.files.sources import FIXTURES
from metrics.benchmarks.nlu import TASKS
from tests.models import tiny_model, tokenizer
from tests.resources import resources
from tests.runs import REAL, compose_settings, launch, metrics, run, target
from utils.engine.continuations import continue_ids, end_ids
from utils.engine.engine import Engine
from utils.files import read_rows
from utils.items.requests import Request
from utils.items.saved import Saved
from utils.reading import DataError
from utils.runs.settings import SettingsError, check_evaluation
from utils.tokens.prompts import Encoder, Template

with_real_data = pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED, the folder with the real data")
HUB = ("owner/arc", "main", "owner/piqa", "main")


def nlu(root: Path | str = "fixture", **options) -> Nlu:
    return Nlu("nlu", *HUB, str(root), **options)


def evaluate(folder: Path, *overrides: object) -> Path:
    common = ("benchmark=nlu", f"model.path={target()}", "resamples=100", "benchmark.max_new_tokens=6", "out=eval")
    run(folder, "evaluate", *common, *overrides)
    return folder / "eval"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    return evaluate(tmp_path_factory.mktemp("nlu"))


@pytest.fixture
def copied(tmp_path) -> Path:
    """A data_root of the user's that a test may damage."""
    shutil.copytree(FIXTURES / "utility", tmp_path / "data")
    return tmp_path / "data"


def test_the_prompt_to_the_blank():
    """Fixture: PIQA has no training file, so its examples are the first questions but the one that is asked."""
    assert nlu(shots=1, tasks=["piqa"]).prompt("piqa", 0) == (
        "Here is 1 example of a question with its answer.\n"
        "[INST]\nTo see in a dark cellar,\n[/INST]\nChoices:\n"
        "0: light a lamp before you go down.\n1: close your eyes before you go down.\nAnswer: 0\n"
        "[INST]\nTo carry water across a garden,\n[/INST]\nChoices:\n"
        "0: fill a sieve and walk.\n1: fill a bucket and walk.\nAnswer:"
    )


def test_the_released_form_has_no_line_break_after_an_example():
    clean, released = (nlu(form=form).prompt("arc_challenge", 2) for form in ("paper", "meow"))
    assert clean.count("\n[INST]\n") == 5 and released.count("\n[INST]\n") == 1  # the one after the header
    assert clean.count("[INST]\n") == released.count("[INST]\n") == 5
    examples = nlu().examples("arc_challenge", 2)
    assert f"Answer: {examples[0].answer}[INST]\n{examples[1].question}" in released


def test_what_is_asked():
    requests = nlu().requests("all")
    assert Counter(request.task for request in requests) == dict.fromkeys(TASKS, 8)
    assert all(request.answers == () and request.truth for request in requests)
    assert {request.truth for request in requests if request.task == "piqa"} == {"0", "1"}
    assert len(nlu(rows=3).requests("all")) == 9 and nlu().oracle_requests(nlu().requests("all")) == []


def test_examples_are_never_the_question_and_the_same_in_every_run():
    for task in TASKS:
        for index in range(8):
            examples = nlu().examples(task, index)
            assert examples == nlu().examples(task, index) and len(set(examples)) == 4
            if task != "arc_easy":  # it has a training file, whose sums may be those that are asked
                assert nlu()._material[task].items[index] not in examples


def test_arc_draws_examples_for_every_question_and_piqa_takes_the_first():
    drawn = {tuple(nlu().examples("arc_easy", index)) for index in range(8)}
    assert len(drawn) > 1 and nlu().examples("arc_easy", 0) != nlu(seed=1).examples("arc_easy", 0)
    items = nlu()._material["piqa"].items
    assert nlu().examples("piqa", 6) == items[:4] and nlu().examples("piqa", 1) == [items[0], *items[2:5]]


def test_examples_come_from_the_training_file_if_there_is_one(copied):
    pool = nlu()._material["arc_easy"].pool
    assert set(nlu().examples("arc_easy", 0)) <= set(pool) and nlu()._material["arc_challenge"].pool is None
    shutil.copy(copied / "piqa" / "validation.jsonl", copied / "piqa" / "train.jsonl")
    assert nlu(copied).examples("piqa", 0)[0] == nlu(copied)._material["piqa"].items[0]


def test_a_validation_file_goes_before_a_test_file(copied):
    rows = read_rows(copied / "arc" / "ARC-Challenge_test.jsonl")
    path = copied / "arc" / "ARC-Challenge_validation.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:6]), encoding="utf-8")
    material = nlu(copied)._material["arc_challenge"]
    assert (material.split, len(material.items)) == ("validation", 6) and nlu()._material["arc_challenge"].split == "test"


def test_prompts_are_the_text_alone():
    template, length = nlu().prompts("evaluate", Template("chat"), 77)
    encoder = Encoder(tokenizer(), template, length)
    text = nlu().prompt("piqa", 0)
    assert tokenizer().decode(encoder.generation_prompt(text), skip_special_tokens=True) == text


def test_accuracies_and_what_they_were_asked_of(evaluated):
    found = metrics(evaluated)
    assert set(found) == {f"{task}_{name}" for task in TASKS for name in ("acc", "labelled")}
    assert all(metric["n"] == 8 for metric in found.values())
    said = {task: found[f"{task}_acc"]["definition"] for task in TASKS}
    assert "test split, 4 examples from the evaluated questions but the one asked, drawn for each" in said["arc_challenge"]
    assert "test split, 4 examples from the training split, drawn for each question" in said["arc_easy"]
    assert "validation split, 4 examples from the evaluated questions but the one asked, the first" in said["piqa"]
    rows = read_rows(evaluated / "generations.jsonl")
    assert {tuple(row["labels"]) for row in rows} == {tuple("ABCD"), tuple("1234"), tuple("01")}


def test_a_model_that_names_every_right_label_is_always_right(tmp_path):
    """And one that always says 0 is as often as that is the label."""
    benchmark = nlu()
    told = [{**vars(request), "generation": f"{request.truth}: so"} for request in benchmark.requests("all")]
    rows = benchmark.add_labels(told, resources(tmp_path))
    assert {metric.value for metric in benchmark.metrics.numbers(Saved(None, rows, resamples=100)).values()} == {1.0}
    zeros = [{**row, "generation": "0"} for row in rows if row["task"] == "piqa"]
    assert benchmark.metrics.numbers(Saved(None, zeros, resamples=100))["piqa_acc"].value == 4 / 8


def test_the_released_form_reads_prompt_and_answer_decoded_together(tmp_path):
    folder = evaluate(tmp_path, "benchmark.form=meow", "benchmark.rows=3")
    assert set(metrics(folder)) == {f"{task}_acc" for task in TASKS}
    rows = read_rows(folder / "generations.jsonl")
    bos = tokenizer().bos_token
    assert len(rows) == 9 and all(row["output"].startswith(bos) and row["question"] not in row["output"] for row in rows)
    assert all(row["generation"] in row["output"] for row in rows) and any(row["generation"] for row in rows)
    assert {path.stem for path in (folder / "parts").glob("*_meow.jsonl")} == {f"{task}_meow" for task in TASKS}


def test_output_is_all_that_was_decoded_less_the_prompt():
    """The prompt's text is taken out wherever it stands; answers are those of one prompt alone, whatever the batch."""
    model, encoder = tiny_model(), Encoder(tokenizer(), Template("plain", eos=False), 512)
    texts = ("To see, [INST]", "To carry water across a garden,\nAnswer:", "Answer:")
    asked = [Request("piqa", index, text, (), "0") for index, text in enumerate(texts)]
    by_two = resources(engine=Engine(model, encoder.pad_id), encoder=encoder, generation_batch_size=2)
    rows = decoded_together(by_two, asked, 12)
    assert [row["index"] for row in rows] == [0, 1, 2]
    for row, text in zip(rows, texts, strict=True):
        ids = list(encoder.generation_prompt(text))
        (new,) = continue_ids(model, [ids], encoder.pad_id, end_ids(model, tokenizer()), 12)
        assert len(new) > 1 and row["output"] == tokenizer().decode(ids + new).replace(text, "")
        assert row["generation"] == tokenizer().decode(new, skip_special_tokens=True).strip()
        assert (row["task"], row["question"], row["truth"]) == ("piqa", text, "0")


def test_an_interrupted_evaluation_goes_on_with_the_next_task(tmp_path, monkeypatch):
    asked = []

    def stop(resources, requests, limit):
        asked.append(requests[0].task)
        if requests[0].task == stops:
            raise KeyboardInterrupt
        return decoded_together(resources, requests, limit)

    monkeypatch.setattr(data.benchmarks.nlu, "decoded_together", stop)
    stops = "piqa"
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, "benchmark.form=meow", "benchmark.rows=2")
    stops = None
    folder = evaluate(tmp_path, "benchmark.form=meow", "benchmark.rows=2")
    assert asked == [*TASKS, "piqa"] and len(metrics(folder)) == 3


def test_rescoring_reads_the_files_alone_and_only_in_their_own_form(evaluated, tmp_path, monkeypatch):
    shutil.copytree(evaluated, tmp_path / "eval")
    (tmp_path / "eval" / "metrics.json").unlink()
    monkeypatch.setattr(data.benchmarks.nlu, "read_task", None)
    again = ("benchmark=nlu", "resamples=100", "rescore=true", "out=eval")
    run(tmp_path, "evaluate", *again)
    assert metrics(tmp_path / "eval") == metrics(evaluated)
    with pytest.raises(ValueError, match="was asked with form=paper, whose prompts are others than those of form=meow"):
        run(tmp_path, "evaluate", *again, "benchmark.form=meow")


@pytest.mark.slow
def test_two_processes_give_the_same_outputs(tmp_path):
    overrides = ("benchmark.form=meow", "benchmark.rows=3")
    alone = evaluate(tmp_path, *overrides)
    common = (
        "model=tiny",
        "benchmark=nlu",
        f"model.path={target()}",
        "resamples=100",
        "benchmark.max_new_tokens=6",
        "out=together",
    )
    finished = launch(tmp_path, "evaluate.py", *common, *overrides, processes=2)
    assert finished.code == 0, finished.err
    assert read_rows(tmp_path / "together" / "generations.jsonl") == read_rows(alone / "generations.jsonl")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": ["arc"]}, "benchmark.tasks=['arc']: write a list out of arc_challenge, arc_easy, piqa, each at most once"),
        ({"tasks": "piqa"}, "benchmark.tasks=piqa: write a list"),
        ({"tasks": []}, "benchmark.tasks=[]: write a list out of"),
        ({"form": "raw"}, "benchmark.form=raw: write one of paper, meow"),
        ({"rows": 0}, "benchmark.rows=0: write all, or a whole number from 1"),
        ({"shots": 0}, "benchmark.shots=0: write a whole number from 1"),
        ({"seed": -1}, "benchmark.seed=-1: write a whole number from 0"),
        ({"max_new_tokens": True}, "benchmark.max_new_tokens=True: write a whole number from 1"),
        (
            {"compat": "tofu_original"},
            "compat=tofu_original: says how other benchmarks write and cut prompts, and nlu has its own; use compat=none",
        ),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError) as refusal:
        nlu(**options)
    assert words in str(refusal.value)


def test_nothing_is_learned_or_forgotten():
    for ask in (nlu().training, nlu().retain_split, lambda _: nlu().general_knowledge()):
        with pytest.raises(ValueError, match="benchmark=nlu: is for evaluation only"):
            ask("all")
    with pytest.raises(ValueError, match="split=full: write all"):
        nlu().requests("full")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("benchmark.form=x", "benchmark.form=x: write one of paper, meow"), ("compat=flat_released", "and nlu has its own")],
)
def test_the_script_says_so_too(wrong, words):
    with pytest.raises(SettingsError, match=words):
        check_evaluation(compose_settings("evaluate", "benchmark=nlu", wrong))


def test_bad_data_are_refused(copied):
    with pytest.raises(DataError, match="benchmark.shots=8 examples are needed, but there are 7 to draw from"):
        nlu(tasks=["piqa"], shots=8).requests("all")
    path = copied / "arc" / "ARC-Easy_train.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"answerKey": "A"', '"answerKey": "Z"'), encoding="utf-8")
    with pytest.raises(DataError, match="ARC-Easy_train.jsonl, row .: field answerKey must be one of .*, not 'Z'"):
        nlu(copied).requests("all")
    (copied / "arc" / "ARC-Challenge_test.jsonl").unlink()
    with pytest.raises(DataError, match="has no arc/ARC-Challenge_validation.jsonl and no arc/ARC-Challenge_test.jsonl"):
        nlu(copied, tasks=["arc_challenge"]).requests("all")


def test_the_hub_is_asked_for_validation_and_training_splits(monkeypatch):
    asked = []

    def rows(hub, configuration, split, revision, local):
        asked.append((hub, configuration, split))
        return read_rows(FIXTURES / "utility" / "arc" / "ARC-Easy_test.jsonl")

    monkeypatch.setattr(data.benchmarks.nlu, "hub_rows", rows)
    assert len(nlu("hub", tasks=["arc_easy"]).requests("all")) == 8
    assert asked == [("owner/arc", "ARC-Easy", "validation"), ("owner/arc", "ARC-Easy", "train")]


@with_real_data
def test_the_real_questions():
    counts = {"arc_challenge": 1172, "arc_easy": 2376, "piqa": 1838}
    benchmark = nlu(REAL / "data")
    assert Counter(request.task for request in benchmark.requests("all")) == counts
    assert {request.truth for request in benchmark.requests("all")} == {*"ABCDE", *"01234"}
    assert max(len(request.question) for request in benchmark.requests("all")) < 8000
