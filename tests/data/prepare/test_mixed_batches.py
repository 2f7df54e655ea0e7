"""Mixed batches: who is paired with whom, in which order, and what the retain term looks at."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
import torch
from hydra.utils import instantiate

from data.prepare.mixed_batches import MixedBatches, MixedStreams
from tests.losses.cases import method_config, method_loss
from tests.models import ITEMS, RETAIN, encoder, moved_copy, tiny_model, tokenizer
from tests.runs import REAL, assert_same_curve, compose_settings, losses, run, target
from utils.engine.engine import Engine
from utils.engine.loss import engine_needs, loss_tables
from utils.engine.reference import ResidentReference
from utils.files import read_json
from utils.items.rows import QA
from utils.items.streams import StepDataset, TrainingData, merged
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder, Template
from utils.training.spans import micro_batch

STEPS = ("split=forget05", "batch_size=4", "epochs=2", "warmup=1", "optimizer=sgd", "lr=0.05", "model.max_length=96")
with_real_data = pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED, the folder with the real data")


@dataclass(frozen=True)
class Benchmark:
    """What the streams ask of a benchmark: general texts."""

    name: str = "toy"
    texts: tuple[str, ...] = ()

    def general(self, n: int) -> list[str]:
        return list(self.texts[:n])


def training_data(items=ITEMS[:3], retain=RETAIN, texts=(), names=("forget", "retain"), prompts=None) -> TrainingData:
    return TrainingData(names, Benchmark(texts=tuple(texts)), "toy", prompts or encoder(), 3, items, retain)


def streams(how: MixedBatches | None = None, **of) -> MixedStreams:
    return (how or MixedBatches())(training_data(**of))


def drawn(found: MixedStreams, epoch: int = 0) -> list[tuple[str, Example]]:
    """(stream, its one example) in the order of the epoch."""
    items = [found.draw(epoch, index) for index in found.order(epoch)]
    assert all(sorted(map(len, item.values())) == [0, 1] for item in items)
    return [(name, example) for item in items for name, (example,) in ((n, e) for n, e in item.items() if e)]


def examples(pairs) -> list[Example]:
    return [encoder().example(pair.question, pair.answer) for pair in pairs]


def short(length: int, pad: str | None = None) -> Encoder:
    """The toy encoder with another max_length; pad: another padding token."""
    if pad is None:
        return Encoder(tokenizer(), encoder().template, length)
    other = type(tokenizer()).from_pretrained(tokenizer().name_or_path)
    other.pad_token = pad
    return Encoder(other, encoder().template, length)


def test_every_item_is_a_forget_or_a_retain_example():
    """Three forget items and the first three of all retain items, each once per epoch."""
    more = (*RETAIN, QA("What is never used?", "This."))
    found = drawn(streams(retain=more))
    assert len(found) == 6
    assert {example for name, example in found if name == "forget"} == set(examples(ITEMS[:3]))
    assert {example for name, example in found if name == "retain"} == set(examples(RETAIN[:3]))


def test_the_order_is_shuffled_once():
    found = streams(items=ITEMS, retain=[QA(f"Question {k}?", f"Answer {k}.") for k in range(9)])
    assert found.order(0) == found.order(1) == found.order(7) != sorted(found.order(0))
    again = streams(MixedBatches(reshuffle=True), items=ITEMS, retain=found.retain)
    assert again.order(0) == found.order(0) and again.order(1) != again.order(0)


def test_number_of_updates():
    """KnowUnDo's counts: 400 and 403 forget items make 100 updates of 16 in 2 epochs; nothing is lost between epochs."""
    pairs = [QA(f"Question {k}?", f"Answer {k}.") for k in range(403)]
    for count in (400, 403):
        data = StepDataset(streams(items=pairs[:count], retain=pairs), 2, 16)
        assert data.steps == 100
    assert merged([data[806]], ("forget", "retain")) == merged([data[0]], ("forget", "retain"))


def test_fewer_retain_items_than_forget_items(caplog):
    with caplog.at_level(logging.WARNING):
        found = drawn(streams(items=ITEMS, retain=RETAIN[:2]))
    assert "5 forget items, but 2 retain items: the other forget items get no partner" in caplog.text
    assert [name for name, _ in found].count("forget") == 5 and len(found) == 7
    for name, example in found:
        assert example in examples(ITEMS if name == "forget" else RETAIN)


def test_general_texts_are_supervised_throughout():
    texts = ["A text about nothing in particular.", "Another text, which is longer than it may be.", "The third.", "Unused."]
    found = streams(MixedBatches(general=True), texts=texts, prompts=short(24))
    retain = [example for name, example in drawn(found) if name == "retain"]
    assert len(retain) == 3
    ids = [tuple(tokenizer()(text).input_ids[:24]) for text in texts[:3]]
    assert {example.prompt + example.answer for example in retain} == set(ids)
    assert {len(example.prompt) for example in retain} == {1}
    assert found.encoder.tokenizer.bos_token_id == retain[0].prompt[0]


def test_general_texts_reach_the_streams():
    for name in ("ascent_plus_descent", "ascent_plus_kl_divergence", "memflex"):
        assert instantiate(method_config(name).prepare).general is False
        assert instantiate(method_config(name, "method.prepare.general=true").prepare).general is True
    assert method_config("ascent_plus_kl_divergence").reference_dropout is True


def test_what_cannot_be_mixed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mixes forget and retain; the loss reads forget, template"):
        streams(names=("forget", "template"))
    with pytest.raises(ValueError, match="general=1: write true or false"):
        MixedBatches(general=1)
    with pytest.raises(ValueError, match="method.prepare.general=true: benchmark=tofu has no general texts"):
        run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, "method=memflex", "method.prepare.general=true",
            "method.region.forget=null", "method.region.retain=null", "out=run")  # fmt: skip
    assert not (tmp_path / "run").exists()


@torch.no_grad()
def next_tokens(model, ids: list[int], length: int, pad: int) -> torch.Tensor:
    """(length, V) float64 log-probabilities at every position of a right-padded row, padding hidden as a key."""
    row = torch.tensor([ids + [pad] * (length - len(ids))])
    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids))])
    return torch.log_softmax(model(input_ids=row, attention_mask=mask).logits[0].double(), dim=-1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("span, pad", [("knowundo", None), ("knowundo", "</s>"), ("text", None)], ids=str)
def test_kl_term_is_the_mean_over_all_positions(span, pad, shared, attention):
    """Against plain forward passes with an attention mask: positions 0 to 95 of each row, or those of its text.

    Where padding is EOS, an EOS at the end of a text counts as padding, and any other is seen.
    """
    prompts = short(96, pad)
    length, pad_id = prompts.max_length, prompts.pad_id
    original = tiny_model(attention=attention)
    model = moved_copy(original, 0.05)
    engine, found = Engine(model, pad_id, shared=shared), streams(prompts=prompts)
    loss = method_loss("ascent_plus_kl_divergence", f"method.loss.kl_span={span}")
    needs = engine_needs(loss)
    reference = ResidentReference(Engine(original, pad_id, shared=shared), needs)
    packed = engine.pack(micro_batch([found.draw(0, index) for index in range(6)], loss, prompts))
    tables = loss_tables(loss, engine.tables(packed, needs, reference.values(packed)))
    wanted = []
    for qa in RETAIN:
        example = prompts.example(qa.question, qa.answer)
        ids = list(example.prompt + example.answer)
        real = ids[:-1] if ids[-1] == pad_id else ids
        positions = length if span == "knowundo" else len(ids)
        ours, theirs = (next_tokens(m, real, length, pad_id)[:positions] for m in (model, original))
        wanted.append(-(theirs.exp() * ours).sum(dim=-1).mean().item())
    assert tables["retain"].rows.mean("cross_entropy").tolist() == pytest.approx(wanted, rel=1e-5)
    term = loss(**tables).parts["retain_cross_entropy"].item()
    assert term == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    answers = examples(ITEMS[:3])
    assert [table_row.sum().item() for table_row in tables["forget"].mask] == [len(example) for example in answers]


def test_a_step_is_the_mean_over_its_samples(tmp_path):
    """Steps of one, which hold one kind of sample each: minus CE or plus CE of the model that has not moved."""
    few = ("method=ascent_plus_descent", "batch_size=1", "lr=1e-30", "epochs=1", "log_every=1")
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, *few, "out=run")
    records = losses(tmp_path / "run")
    assert len(records) == 20
    kinds = [(record["forget_nll"] > 0, record["retain_nll"] > 0) for record in records]
    assert kinds.count((True, False)) == kinds.count((False, True)) == 10
    for record in records:
        assert record["loss"] == pytest.approx(record["retain_nll"] - record["forget_nll"], abs=1e-6)


@pytest.mark.parametrize("method", ["ascent_plus_descent", "ascent_plus_kl_divergence", "gradient_ascent"])
def test_curve_belongs_to_the_global_batch(method, tmp_path):
    fixed = () if method != "ascent_plus_kl_divergence" else ("method.reference_dropout=false",)
    for size in (4, 1):
        run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, f"method={method}", *fixed,
            f"per_device_batch_size={size}", f"out=of{size}")  # fmt: skip
    assert len(losses(tmp_path / "of4")) == (5 if method == "gradient_ascent" else 10)
    assert_same_curve(tmp_path / "of4", tmp_path / "of1")


def test_learning_rates_of_the_published_schedule(tmp_path):
    """100 updates, a warm-up of ceil(0.03 * 100) = 3, then a cosine: reported by the Trainer, update by update."""
    dials = ("batch_size=1", "steps=100", "lr=3e-4", "scheduler=cosine", "warmup=0.03", "weight_decay=0")
    run(tmp_path, "unlearn", f"model.path={target()}", "split=forget01", *dials, "method=gradient_ascent", "max_grad_norm=1e-9",
        "out=run")  # fmt: skip
    rates = [record["learning_rate"] for record in losses(tmp_path / "run")]
    assert len(rates) == 100
    published = {0: 0.0, 1: 1e-4, 2: 2e-4, 3: 3e-4, 4: 2.9992133535682725e-4, 50: 1.572843333171672e-4,
                 98: 3.1457606434325266e-7, 99: 7.866464317276e-8}  # fmt: skip
    for update, rate in published.items():
        assert rates[update] == pytest.approx(rate, rel=1e-9, abs=1e-18), update


@pytest.mark.parametrize("method", ["ascent_plus_descent", "ascent_plus_kl_divergence"])
def test_general_texts_of_the_benchmark(method, tmp_path):
    """The out-of-distribution variants as a user starts them, with the reference's dropout on where the method has it so."""
    dials = ("benchmark=knowundo", "batch_size=4", "steps=2", "warmup=0", "method.prepare.general=true", "model.max_length=96")
    run(tmp_path, "unlearn", f"model.path={target()}", *dials, f"method={method}", "out=run")
    assert all(record["loss"] == record["loss"] for record in losses(tmp_path / "run"))
    assert "general/retain.jsonl" in read_json(tmp_path / "run" / "run.json")["data"]


@with_real_data
def test_real_privacy_lists():
    """400 of the 441 retention pairs are used, the first in file order, and 2 epochs make 100 updates."""
    cfg = compose_settings("unlearn", "benchmark=knowundo", f"data_root={REAL / 'data'}")
    benchmark = instantiate(cfg.benchmark)
    forget, retain = benchmark.training("unlearn"), benchmark.training("retention")
    template, length = benchmark.prompts("unlearn", Template("plain"), 512)
    own = Encoder(tokenizer(), template, length)
    found = MixedBatches()(TrainingData(("forget", "retain"), benchmark, "unlearn", own, 42, forget, retain))
    assert (len(forget), len(retain), len(found)) == (400, 441, 800)
    used = {example for name, example in drawn(found) if name == "retain"}
    assert used == {own.example(pair.question, pair.answer) for pair in retain[:400]}
    assert StepDataset(found, 2, 16).steps == 100
    per_step = [
        sum(len(item["forget"]) for item in (StepDataset(found, 2, 16)[k] for k in range(s, s + 16))) for s in (0, 16, 32)
    ]
    assert all(0 < count < 16 for count in per_step)
