"""The harness with our engine gives what the harness gives with its own forward pass; what it drops silently is an error here."""

from __future__ import annotations

import copy
import shutil
from functools import cache

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from pytest import approx

from data.benchmarks.harness import PACKAGED, EngineLM, HarnessError, evaluate_task, load_task, log_likelihoods
from data.files.utility import TASK_FILES, task_rows
from metrics.benchmarks.utility import UtilityMetrics
from tests.models import moved, random_examples, tiny_model, tokenizer, with_lora
from utils.engine.engine import Engine
from utils.items.saved import Saved
from utils.tokens.example import Example
from utils.weights.models import save_model

WINDOW = 96  # shorter than an article of the fixture and than TruthfulQA's own examples


@cache
def model():
    return tiny_model(max_position_embeddings=WINDOW)


@cache
def fixture(task: str):
    return load_task(task, task_rows("fixture", task), TASK_FILES[task].split)


@cache
def ours(task: str) -> list[dict]:
    return evaluate_task(EngineLM(Engine(model(), tokenizer().pad_token_id), tokenizer(), 2048), fixture(task))


@cache
def theirs(task: str) -> dict:
    """What the harness says by itself, samples included; its loader finds no None metric in these tasks."""
    stock = HFLM(pretrained=model(), tokenizer=tokenizer(), batch_size=4, device="cpu")
    return evaluate(stock, {"tasks": {task: fixture(task)}}, bootstrap_iters=0)


@pytest.mark.parametrize("task", [task for task in PACKAGED if task != "wikitext"])
def test_accuracies_are_the_harness_own(task):
    found = UtilityMetrics().numbers(Saved(None, ours(task), resamples=100))
    results = theirs(task)["results"][task]
    wanted = {name.split(",")[0]: value for name, value in results.items() if name.startswith("acc") and "stderr" not in name}
    got = {name.removeprefix(f"{task}_"): metric.value for name, metric in found.items()}
    # MC2 is a share of probability; the others count questions and must agree exactly.
    assert got == (approx(wanted, abs=1e-6) if task == "truthfulqa_mc2" else wanted)
    for row, sample in zip(ours(task), theirs(task)["samples"][task], strict=True):
        assert row["index"] == sample["doc_id"]
        assert row["loglikelihoods"] == approx([value for value, _ in sample["filtered_resps"]], abs=1e-3)


def test_the_harness_loads_a_folder_that_was_saved(tmp_path):
    """`lm_eval --model hf --model_args pretrained=FOLDER`, and with `,peft=FOLDER` an adapter on it, wherever they went."""
    base = copy.deepcopy(model())
    save_model(base, tokenizer(), tmp_path / "saved" / "model", torch.float32)
    save_model(moved(with_lora(base)), tokenizer(), tmp_path / "saved" / "adapter", torch.float32)
    there = shutil.move(tmp_path / "saved", tmp_path / "elsewhere")
    asked = [Instance("loglikelihood", {}, ("Who painted the lighthouse?", " Mira Tallow."), 0)]
    told = []
    for adapter in (None, f"{there}/adapter"):
        stock = HFLM(pretrained=f"{there}/model", peft=adapter, batch_size=1, device="cpu")
        told += [value for value, _ in stock.loglikelihood(asked, disable_tqdm=True)]
    direct = HFLM(pretrained=model(), tokenizer=tokenizer(), batch_size=1, device="cpu").loglikelihood(asked, disable_tqdm=True)
    assert told[0] == approx(direct[0][0], abs=1e-4) and told[1] != approx(told[0], abs=1e-3)


def test_perplexities_are_the_harness_own():
    found = UtilityMetrics().numbers(Saved(None, ours("wikitext"), resamples=100))
    results = theirs("wikitext")["results"]["wikitext"]
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert found[f"wikitext_{name}"].value == approx(results[f"{name},none"], rel=1e-5), name
    longest = max(row["tokens"] for row in ours("wikitext"))
    assert longest > WINDOW and {row["window"] for row in ours("wikitext")} == {WINDOW}


def test_token_perplexity_counts_every_token_of_the_text_once():
    """A model that knows nothing: every token has probability 1 / vocabulary, in whatever window."""
    blank = tiny_model(max_position_embeddings=WINDOW)
    with torch.no_grad():
        blank.get_output_embeddings().weight.zero_()
    rows = evaluate_task(EngineLM(Engine(blank, tokenizer().pad_token_id), tokenizer(), 2048), fixture("wikitext"))
    found = UtilityMetrics().numbers(Saved(None, rows, resamples=100))
    assert found["wikitext_token_perplexity"].value == approx(len(tokenizer()), rel=1e-5)


def test_budget_and_layout_do_not_matter():
    alone = EngineLM(Engine(model(), tokenizer().pad_token_id, shared=False), tokenizer(), 1)
    for row, other in zip(evaluate_task(alone, fixture("hellaswag")), ours("hellaswag"), strict=True):
        assert row["loglikelihoods"] == approx(other["loglikelihoods"], abs=1e-3)


def test_no_token_is_hidden_from_the_model():
    hiding = Engine(model(), tokenizer().pad_token_id, hide=tokenizer().pad_token_id)
    assert EngineLM(hiding, tokenizer(), 2048).engine.hide is None


def test_what_is_too_long_is_cut_on_the_left_and_a_choice_never():
    lm = EngineLM(Engine(model(), tokenizer().pad_token_id), tokenizer(), 2048, max_length=8)
    stock = HFLM(pretrained=model(), tokenizer=tokenizer(), batch_size=1, device="cpu", max_length=8)
    asked = [(("", ""), list(range(10, 30)), [31, 32, 33]), (("", ""), [40], list(range(50, 58)))]
    for got, wanted in zip(lm._loglikelihood_tokens(asked), stock._loglikelihood_tokens(asked), strict=True):
        assert got[0] == approx(wanted[0], abs=1e-4) and got[1] == wanted[1]
    with pytest.raises(HarnessError, match="a choice of 9 tokens is longer than benchmark.max_length=8"):
        lm._loglikelihood_tokens([(("", ""), [40], list(range(50, 59)))])


def test_whether_greedy_decoding_gives_the_answer():
    engine = Engine(model(), tokenizer().pad_token_id)
    with torch.no_grad():
        best = int(model()(torch.tensor([[5, 6, 7]])).logits[0, -1].argmax())
    found = log_likelihoods(engine, [Example((5, 6, 7), (best,)), Example((5, 6, 7), (best + 1,))], 100)
    assert [greedy for _, greedy in found.values()] == [True, False]


def test_what_does_not_fit_in_memory_is_halved(monkeypatch):
    engine = Engine(model(), tokenizer().pad_token_id)
    examples = random_examples(6, 300)
    wanted = log_likelihoods(engine, examples, 10**6)
    original = Engine.statistics

    def small(self, packed, *rest):
        if len(packed.examples["answers"]) > 2:
            raise torch.OutOfMemoryError
        return original(self, packed, *rest)

    monkeypatch.setattr(Engine, "statistics", small)
    found = log_likelihoods(engine, examples, 10**6)
    assert {example: value for example, (value, _) in found.items()} == approx({e: v for e, (v, _) in wanted.items()}, abs=1e-4)
    with pytest.raises(torch.OutOfMemoryError):
        monkeypatch.setattr(Engine, "statistics", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
        log_likelihoods(engine, examples, 10**6)


@pytest.mark.parametrize("verdict", [{}, {"acc_norm": float("nan")}, {"acc_norm": float("inf")}])
def test_a_verdict_that_is_missing_or_no_number_is_an_error(verdict):
    task = load_task("piqa", task_rows("fixture", "piqa"), "validation")
    task.set_config("process_results", lambda doc, results: {"acc": 1.0, **verdict})
    lm = EngineLM(Engine(model(), tokenizer().pad_token_id), tokenizer(), 2048)
    with pytest.raises(HarnessError, match="task piqa, row 1: acc_norm is .*, not a number"):
        evaluate_task(lm, task)


def test_rows_say_who_asked_what():
    row = ours("boolq")[0]
    assert row["task"] == "boolq" and row["index"] == 0 and row["of"] == 8
    assert row["by"] == "lm-evaluation-harness 0.4.13, task boolq version 2.0, zero-shot"
    assert row["question"].endswith("?\nAnswer:") and row["picked"] in (0, 1)


def test_a_limit_takes_the_first_documents():
    lm = EngineLM(Engine(model(), tokenizer().pad_token_id), tokenizer(), 2048)
    rows = evaluate_task(lm, fixture("rte"), limit=3)
    assert [row["index"] for row in rows] == [0, 1, 2] and {row["of"] for row in rows} == {8}
    assert [row["acc"] for row in rows] == [row["acc"] for row in ours("rte")[:3]]


def test_examples_before_the_question_are_drawn_as_by_the_harness():
    """With one split, examples come from it; TruthfulQA brings its own and forbids others."""
    task = load_task("piqa", task_rows("fixture", "piqa"), "validation", num_fewshot=2)
    task.build_all_requests()
    assert all(instance.args[0].count("Question: ") == 3 for instance in task.instances)
    assert load_task("truthfulqa_mc1", task_rows("fixture", "truthfulqa_mc1"), "validation", 2).get_config("num_fewshot") == 0
