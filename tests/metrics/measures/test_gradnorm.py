"""Gradient norms against plain autograd, what is kept of them, and an evaluation that asks for all measures."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from pytest import approx
from torch import nn
from transformers import AutoModelForCausalLM

from metrics.measures import gradnorm
from metrics.measures.gradnorm import GradNorm, gradient_norm
from tests.models import ITEMS, RETAIN, encoder, moved, tiny_model, tokenizer, with_lora
from tests.naive import cross_entropy
from tests.resources import resources
from tests.runs import QUICK_EVALUATION, compose_settings, metrics, run, target
from utils import shared_work
from utils.engine.engine import Engine
from utils.files import read_json
from utils.items.benchmark import Benchmark
from utils.items.requests import Request
from utils.items.saved import Saved
from utils.runs.load import load_adapter_engine
from utils.runs.settings import SettingsError, check_evaluation
from utils.tokens.example import Example
from utils.weights.models import save_model
from utils.weights.reinforced import CombinedModel

PAD, EOS = tokenizer().pad_token_id, tokenizer().eos_token_id
EXAMPLES = [encoder().example(qa.question, qa.answer) for qa in ITEMS]


class Toy(Benchmark):
    """Questions that were learnt and questions that were not; one of them has two answers."""

    name = "toy"
    members = ("forget", "holdout")

    def requests(self, split: str) -> list[Request]:
        def request(task: str, index: int, qa, *more: tuple) -> Request:
            return Request(task, index, qa.question, (("answer", 0, qa.answer), ("perturbed", 0, "No."), *more), None)

        forget = [request("forget", index, qa) for index, qa in enumerate(ITEMS[:3])]
        return [*forget, request("retain", 0, RETAIN[0]), request("holdout", 0, RETAIN[1], ("answer", 1, "Nobody knows."))]


def plain(model: nn.Module, example: Example, p: float = 2.0) -> float:
    """The same, one padded row and one backward pass, every gradient kept."""
    model = copy.deepcopy(model).eval()
    cross_entropy(model, [example], PAD).backward()
    norms = [q.grad.double().abs().pow(p).sum() ** (1 / p) for q in model.parameters() if q.grad is not None]
    return float(sum(norms) / len(norms))


def wise(name: str) -> nn.Module:
    """A whole model, one whose head is its embedding, one with an adapter that has been trained."""
    return moved(with_lora(tiny_model())) if name == "adapter" else tiny_model(tie_word_embeddings=name == "tied")


@pytest.mark.parametrize("p", [2.0, 1.0])
@pytest.mark.parametrize("chunk_bytes", [2**27, 4 * len(tokenizer())])  # one chunk of logits, or one for each token
@pytest.mark.parametrize("kind", ["full", "tied", "adapter"])
def test_the_norm_is_that_of_plain_autograd(kind, chunk_bytes, p):
    model = wise(kind)
    engine = Engine(model, PAD, chunk_bytes)
    for example in EXAMPLES[:2]:
        assert gradient_norm(engine, example, p) == approx(plain(model, example, p), rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_mean_is_over_tensors_and_not_the_norm_of_all():
    model = tiny_model()
    norms = [q.grad.norm().item() for q in _with_gradients(model, EXAMPLES[0]).parameters()]
    together = sum(norm**2 for norm in norms) ** 0.5
    found = gradient_norm(Engine(model, PAD), EXAMPLES[0])
    assert len(norms) == 21 and found == approx(sum(norms) / 21, rel=1e-4) and together > 2 * found


def _with_gradients(model: nn.Module, example: Example) -> nn.Module:
    model = copy.deepcopy(model)
    cross_entropy(model, [example], PAD).backward()
    return model


def test_no_two_gradients_are_held_at_once():
    model, held = tiny_model(), []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _: held.append(sum(other.grad is not None for other in model.parameters()))
        )
    gradient_norm(Engine(model, PAD), EXAMPLES[0])
    assert len(held) == 21 and max(held) == 1


def test_norms_of_bfloat16_gradients_are_not_rounded_to_it():
    model, seen = tiny_model().bfloat16().requires_grad_(False), []
    weight = model.lm_head.weight.requires_grad_(True)
    weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad.double().norm().item()))
    found = gradient_norm(Engine(model, PAD), EXAMPLES[0])
    assert [found] == approx(seen, rel=1e-5) and torch.tensor(found).bfloat16().item() != approx(found, rel=1e-5)


def test_a_model_that_does_not_train_is_refused():
    with pytest.raises(ValueError, match="no parameter of the model trains"):
        gradient_norm(Engine(tiny_model().requires_grad_(False), PAD), EXAMPLES[0])


def rows_of(measure: GradNorm, engine: Engine, folder: Path, **changes) -> list[dict]:
    given = {"engine": engine, "encoder": encoder(), "benchmark": Toy(), "requests": Toy().requests("forget01"), **changes}
    return measure.add_norms([{"task": "forget", "index": 0}], resources(folder, **given))


def test_every_true_answer_of_both_groups_gets_a_row(tmp_path):
    engine = Engine(tiny_model(), PAD)
    first, *rows = rows_of(GradNorm("gradnorm"), engine, tmp_path)
    assert first == {"task": "forget", "index": 0}
    places = [(row["task"], row["index"], row["number"]) for row in rows]
    assert places == [*(("forget", k, 0) for k in range(3)), *(("holdout", 0, k) for k in range(2))]
    answers = [*ITEMS[:3], RETAIN[1], replace(RETAIN[1], answer="Nobody knows.")]
    for row, qa in zip(rows, answers, strict=True):
        example = encoder().example(qa.question, qa.answer)
        assert example.answer[-1] == EOS
        assert row["norm"] == approx(plain(engine.model, Example(example.prompt, example.answer[:-1])), rel=1e-4)
        taken = {key: row[key] for key in ("p", "parameters", "train_mode", "drop_eos")}
        assert taken == {"p": 2.0, "parameters": "all", "train_mode": False, "drop_eos": "eos"}


def test_the_end_of_an_answer_is_a_dial(tmp_path):
    engine = Engine(tiny_model(), PAD)
    found = {}
    for drop in ("eos", "last", "never"):
        (tmp_path / drop).mkdir()
        found[drop] = rows_of(GradNorm("gradnorm", drop_eos=drop), engine, tmp_path / drop)[1]["norm"]
    assert found["eos"] == found["last"] != found["never"] and found["never"] == approx(
        plain(engine.model, EXAMPLES[0]), rel=1e-4
    )
    (tmp_path / "released").mkdir()
    released = rows_of(GradNorm("gradnorm"), engine, tmp_path / "released", encoder=encoder(compat="open_unlearning"))
    assert {row["drop_eos"] for row in released[1:]} == {"last"}
    assert GradNorm("gradnorm")._norm(engine, Example((3,), ()), Toy().requests("forget01")[0], 0) == 0.0


def test_what_is_finished_is_not_computed_again(tmp_path, monkeypatch):
    engine = Engine(tiny_model(), PAD)
    whole = rows_of(GradNorm("gradnorm"), engine, tmp_path)
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"gradnorm_forget.jsonl", "gradnorm_holdout.jsonl"}
    (tmp_path / "parts" / "gradnorm_holdout.jsonl").unlink()
    asked = []
    monkeypatch.setattr(gradnorm, "gradient_norm", lambda _, example, p: asked.append(example) or 1.0)
    again = rows_of(GradNorm("gradnorm"), engine, tmp_path)
    assert again[:4] == whole[:4] and [row["norm"] for row in again[4:]] == [1.0, 1.0] and len(asked) == 2


def test_processes_share_the_texts(tmp_path, monkeypatch):
    engine, shares = Engine(tiny_model(), PAD), []
    whole = rows_of(GradNorm("gradnorm"), engine, tmp_path)

    def gathered(mine: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """What the other process would bring counts as 0."""
        shares.append(len(mine))
        return [*((place, 0.0) for place in range(3)), *mine]

    monkeypatch.setattr(shared_work, "world_size", lambda: 2)
    monkeypatch.setattr(shared_work, "gathered", gathered)
    found = []
    for number in (0, 1):
        monkeypatch.setattr(shared_work, "rank", lambda number=number: number)
        found.append(rows_of(GradNorm("gradnorm"), engine, tmp_path / str(number)))
    assert shares == [2, 1, 1, 1]  # of process 0 forget and holdout, then of process 1
    for row, *parts in zip(whole[1:], *(rows[1:] for rows in found), strict=True):
        assert sorted(part["norm"] for part in parts) == [0.0, row["norm"]]


def test_dropout_is_off_unless_asked_for(tmp_path):
    model = tiny_model(attention_dropout=0.5).train()
    engine = Engine(model, PAD)
    found = []
    for number, measure in enumerate([GradNorm("gradnorm"), *[GradNorm("gradnorm", train_mode=True)] * 2]):
        torch.manual_seed(number)
        before = torch.random.get_rng_state()
        found.append([row["norm"] for row in rows_of(measure, engine, tmp_path / str(number))[1:]])
        assert model.training and (not measure.train_mode or torch.equal(torch.random.get_rng_state(), before))
    calm, wild, again = found
    assert wild == again and all(abs(a - b) > 1e-3 * a for a, b in zip(calm, wild, strict=True))
    eos = Example(EXAMPLES[0].prompt, EXAMPLES[0].answer[:-1])
    assert calm[0] == approx(plain(model, eos), rel=1e-4)
    other = rows_of(GradNorm("gradnorm", train_mode=True), engine, tmp_path / "other", seed=7)
    assert other[1]["norm"] != wild[0]


def test_two_combined_models_give_the_gradients_of_both(tmp_path):
    """Nothing of them trains; for the length of the measurement everything does."""
    model = CombinedModel(tiny_model(), tiny_model(seed=1), 1.0)
    rows = rows_of(GradNorm("gradnorm"), Engine(model, PAD), tmp_path)
    assert all(row["norm"] > 0 for row in rows[1:]) and not any(q.requires_grad for q in model.parameters())


def model_node(path: Path | None) -> DictConfig:
    """What says which model is evaluated."""
    shown = None if path is None else str(path)
    return OmegaConf.create(
        {"name": "tiny", "expects": {}, "path": shown, "dtype": "float32", "attn": "sdpa", "trust_remote_code": False}
    )


def adapter_folder(folder: Path) -> nn.Module:
    """Writes a base model and an adapter that points to it; returns both together."""
    save_model(tiny_model(), tokenizer(), folder / "base", torch.float32)
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = moved(with_lora(base))
    save_model(model, tokenizer(), folder / "adapter", torch.float32)
    return model


def test_the_adapter_alone(tmp_path):
    """Its tensors are merged in the model that is evaluated; they are loaded once more, apart."""
    whole = adapter_folder(tmp_path)
    merged = Engine(copy.deepcopy(whole).merge_and_unload().requires_grad_(True), PAD)
    apart = partial(load_adapter_engine, model_node(tmp_path / "adapter"), encoder(), "float32")
    rows = rows_of(GradNorm("gradnorm", parameters="adapter"), merged, tmp_path, adapter=apart)
    ends = [Example(example.prompt, example.answer[:-1]) for example in EXAMPLES[:3]]
    assert [row["norm"] for row in rows[1:4]] == approx([plain(whole, example) for example in ends], rel=1e-4)
    assert {row["parameters"] for row in rows[1:]} == {"adapter"}


def test_an_adapter_that_is_not_there_is_refused(tmp_path):
    engine = Engine(tiny_model(), PAD)
    reinforced = OmegaConf.create({"path": str(target())})
    for model, beside, sentence in (
        (model_node(target()), None, "parameters=adapter: model.path=.* holds no adapter; use .*parameters=all"),
        (model_node(None), None, "parameters=adapter: model.path=None holds no adapter"),
        (model_node(None), reinforced, "parameters=adapter: not with reinforced.path"),
    ):
        with pytest.raises(ValueError, match=sentence):
            load = partial(load_adapter_engine, model, encoder(), "float32", beside)
            rows_of(GradNorm("gradnorm", parameters="adapter"), engine, tmp_path, adapter=load)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_gradient_that_is_not_finite_is_refused(tmp_path):
    engine = Engine(tiny_model(), PAD)
    with torch.no_grad():
        engine.model.lm_head.weight[7, 0] = float("inf")
    with pytest.raises(ValueError, match="the gradient of task forget, row . is not finite; use precision=float32"):
        rows_of(GradNorm("gradnorm"), engine, tmp_path)


def found(*norms: tuple[str, float], **taken) -> Saved:
    how = {"asked_by": "gradnorm", "p": 2.0, "parameters": "all", "train_mode": False, "drop_eos": "eos", **taken}
    rows = [{"task": task, "index": k, "number": 0, "norm": norm, **how} for k, (task, norm) in enumerate(norms)]
    return Saved(pd.DataFrame(), [{"task": "forget", "asked_by": "", "index": 0}, *rows], resamples=100, members=Toy.members)


NORMS = (("forget", 1.0), ("forget", 3.0), ("holdout", 2.0), ("holdout", 6.0))


def test_metrics_by_hand():
    """1 and 3 against 2 and 6: three of four pairs in order; means 2 and 4."""
    metrics = GradNorm("gradnorm").numbers(found(*NORMS))
    assert {name: metric.value for name, metric in metrics.items()} == {
        "mia_gradnorm": 0.75, "gradnorm_forget": 2.0, "gradnorm_holdout": 4.0
    }  # fmt: skip
    assert metrics["mia_gradnorm"].n == 4 and metrics["gradnorm_forget"].n == 2
    assert metrics["gradnorm_holdout"].ci95 == (2.0, 6.0)
    assert "2-norm" in metrics["mia_gradnorm"].definition and "eval mode" in metrics["gradnorm_forget"].definition


def test_norms_that_were_taken_otherwise_are_not_passed_off():
    with pytest.raises(ValueError, match="measure.gradnorm.p: gradients in generations.jsonl were taken with 1.0, not 2.0"):
        GradNorm("gradnorm").numbers(found(*NORMS, p=1.0))
    with pytest.raises(ValueError, match="measure.gradnorm.train_mode: .* were taken with False, not True"):
        GradNorm("gradnorm", train_mode=True).numbers(found(*NORMS))
    with pytest.raises(ValueError, match=r"no gradients of task holdout: evaluate the model again with measure=\[gradnorm\]"):
        GradNorm("gradnorm").numbers(found(*NORMS[:2]))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"p": 0}, "measure.gradnorm.p=0: write a number above 0"),
        ({"p": float("inf")}, "measure.gradnorm.p=inf"),
        ({"parameters": "lora"}, "measure.gradnorm.parameters=lora: write one of all, adapter"),
        ({"train_mode": "yes"}, "measure.gradnorm.train_mode=yes: write true or false"),
        ({"drop_eos": "no"}, "measure.gradnorm.drop_eos=no: write one of"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        GradNorm("gradnorm", **options)


def test_wrong_settings_are_refused_before_a_model_is_loaded():
    with pytest.raises(ValueError, match="measure=gradnorm: benchmark=knowundo has no texts that were never trained on"):
        check_evaluation(compose_settings("evaluate", "measure=[gradnorm]", "benchmark=knowundo"))
    with pytest.raises(SettingsError, match="measure=gradnorm: .*parameters=some"):
        check_evaluation(compose_settings("evaluate", "measure=[gradnorm]", "measure.gradnorm.parameters=some"))


def test_an_evaluation_with_all_three_measures(tmp_path):
    """Everything from one command, and again from its files alone."""
    small = ("split=forget01", f"model.path={target()}", *QUICK_EVALUATION, "oracle=none", "out=run")
    measures = "measure=[membership,memorization,gradnorm]"
    run(tmp_path, "evaluate", measures, *small)
    first = metrics(tmp_path / "run")
    names = {"mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm", "gradnorm_forget", "gradnorm_holdout"}
    tasks = ("forget", "retain", "real_authors", "world_facts", "holdout")
    names |= {f"{what}_{task}" for what in ("exact_memorization", "extraction_strength") for task in tasks}
    assert names <= set(first) and "forget_prob" in first and "mia_reference" not in first
    assert first["mia_min_k"]["n"] == 4 and 0 <= first["mia_gradnorm"]["value"] <= 1
    assert all(json.dumps(metric) and metric["definition"] for metric in first.values())
    assert read_json(tmp_path / "run" / "run.json")["status"] == "finished"
    (tmp_path / "run" / "metrics.json").unlink()
    run(tmp_path, "evaluate", measures, *small, "rescore=true")
    assert metrics(tmp_path / "run") == first
