"""Training: the curve belongs to the global batch, equals a plain loop, and stops before anything is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from losses.ga import GradientAscent
from losses.nll import NLL
from losses.npo import NPO
from tests import naive
from tests.losses.test_kl_span import released_kl
from tests.models import ITEMS, RETAIN, encoder, tiny_model, tokenizer, with_lora
from tests.runs import assert_same_curve, assert_same_weights, losses, run, script, target, weights
from utils.engine.engine import Engine
from utils.engine.loss import Loss, LossOutput, engine_needs
from utils.engine.reference import ResidentReference
from utils.files import read_json
from utils.items.streams import StepDataset, Streams, merged
from utils.training.callbacks import SealCheckpoints
from utils.training.resumable import last_checkpoint
from utils.training.trainer import NonFinite, UnlearnTrainer

# 10 items in batches of 4: 5 steps. Plain SGD, because Adam's first steps blow rounding up to the size of the learning rate.
STEPS = ("split=forget05", "batch_size=4", "epochs=2", "warmup=1", "optimizer=sgd", "lr=0.05")


def unlearn(out: Path, *overrides: object) -> Path:
    run(out.parent, "unlearn", f"model.path={target()}", *STEPS, f"out={out}", *overrides)
    return out


@pytest.mark.parametrize(
    "method", ["npo_kl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("flat", "graddiff", "po"))]
)
def test_curve_and_weights_belong_to_the_global_batch(method, tmp_path):
    for size in (4, 2, 1):
        out = unlearn(tmp_path / str(size), f"method={method}", f"per_device_batch_size={size}")
        plan = f"batch 4 = 1 process(es) x {size} per device x {4 // size} accumulation step(s)"
        assert read_json(out / "run.json")["batch"] == plan
    assert len(losses(tmp_path / "4")) == 5
    for size in ("2", "1"):
        assert_same_curve(tmp_path / "4", tmp_path / size)
        assert_same_weights(weights(tmp_path / "4"), weights(tmp_path / size), 1e-6)


def test_npo_starts_at_its_known_value_and_descends(tmp_path):
    adam = ("method=npo", "optimizer=adamw_torch", "lr=1e-3")
    for size in (4, 1):
        unlearn(tmp_path / str(size), *adam, f"per_device_batch_size={size}")
    assert_same_curve(tmp_path / "4", tmp_path / "1", 1e-3)
    first, *_, last = losses(tmp_path / "4")
    assert first["loss"] == pytest.approx(2 / 0.1 * 0.693147, abs=1e-4)  # model = reference: 2 / beta * log 2
    assert last["loss"] < first["loss"] - 1
    assert [record["epoch"] for record in losses(tmp_path / "4")] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    noted = read_json(tmp_path / "1" / "run.json")
    assert (noted["steps"], noted["items"], noted["dropped"], noted["lost"]) == (5, 10, 0, {})


def dataset(names=("forget", "retain"), epochs: float = 2.4, batch: int = 4) -> StepDataset:
    """5 items: 3 steps of 4 examples."""
    return StepDataset(Streams(names, ITEMS, encoder(), seed=3, retain=RETAIN), epochs, batch)


def train(folder: Path, model: nn.Module, loss, data: StepDataset, callbacks=None, **options: Any) -> list[Mapping]:
    """Trains with constant SGD, without a run folder; returns the records of the steps."""
    records: list[Mapping[str, float]] = []
    arguments = {
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
        "per_device_train_batch_size": data.batch,
        **options,
    }
    trainer = UnlearnTrainer(
        Engine(model, pad=0),
        loss,
        data,
        ResidentReference(Engine(model, pad=0), engine_needs(loss)),
        TrainingArguments(output_dir=str(folder), max_steps=data.steps, **arguments),
        tokenizer(),
        records.append,
    )
    for callback in callbacks or [SealCheckpoints(1)]:
        trainer.add_callback(callback)
    trainer.train()
    return [record for record in records if "loss" in record]


@pytest.mark.parametrize("per_device, accumulation", [(4, 1), (1, 4)])
def test_steps_equal_a_plain_loop_over_padded_rows(tmp_path, per_device, accumulation):
    data, model, plain, original = dataset(), tiny_model(), tiny_model(), tiny_model()
    split = {"per_device_train_batch_size": per_device, "gradient_accumulation_steps": accumulation}
    records = train(tmp_path, model, NPO(retain="nll"), data, **split)
    assert len(records) == 3
    for step, record in enumerate(records):
        streams = merged([data[step * 4 + k] for k in range(4)], ("forget", "retain"))
        value = naive.npo(plain, original, streams, 0, retain="nll")
        plain.zero_grad()
        value.backward()
        value = value.item()
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in plain.parameters()]).norm()
            for parameter in plain.parameters():
                parameter -= 0.01 * parameter.grad
        assert record["loss"] == pytest.approx(value, rel=1e-5)
        assert record["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert_same_weights(model.state_dict(), plain.state_dict(), 1e-5)


@dataclass
class Breaks(Loss):
    """Cross-entropy that goes wrong in its third call: in value, or in its gradient alone."""

    where: str
    calls: int = 0

    needs = {"train": ("logp",)}

    def __call__(self, train) -> LossOutput:
        self.calls += 1
        nll = -train.token_mean("logp")
        other = nll.detach()
        if self.calls == 3 and self.where == "part":
            other = other * float("inf")
        if self.calls == 3 and self.where == "loss":
            nll = nll * float("nan")
        if self.calls == 3 and self.where == "gradient":
            nll = nll + (nll - nll.detach()).abs().sqrt()  # adds 0; the slope of sqrt at 0 is infinite
        return LossOutput(nll, {"nll": nll, "part": other})


@pytest.mark.parametrize("where, named", [("loss", "loss, nll, gradient"), ("part", "part"), ("gradient", "gradient")])
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("saves", [True, False])
def test_nothing_is_learnt_from_a_step_that_is_not_finite(tmp_path, where, named, clip, saves):
    model, seen = tiny_model(), []

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

    options = {"save_strategy": "steps", "save_steps": 1} if saves else {}
    with pytest.raises(NonFinite) as stop:
        callbacks = [Keep(), SealCheckpoints(1)]
        train(tmp_path, model, Breaks(where), dataset(("train",)), callbacks, max_grad_norm=clip, **options)
    assert str(stop.value).startswith(f"step 3: {named} is not finite; training stopped before the weights changed")
    kept = f"the last good checkpoint is {tmp_path / 'checkpoint-2'}" if saves else "no checkpoint was written yet"
    assert kept in str(stop.value) and "Lower lr" in str(stop.value)
    assert len(seen) == 2 and not torch.equal(*[state["lm_head.weight"] for state in seen])
    assert_same_weights(model.state_dict(), seen[-1], 0.0)


def test_a_script_that_meets_nan_says_so_in_one_sentence(tmp_path):
    # Steps of 1e30 without warmup: the first is finite, what follows cannot be.
    broken = ("method=ga", "lr=1e30", "warmup=0", "checkpoint=1")
    finished = script(tmp_path, "unlearn", "model=tiny", f"model.path={target()}", *STEPS, *broken, f"out={tmp_path}/run")
    assert finished.code == 1 and "Traceback" not in finished.err
    assert finished.last_words.startswith("step 2: ") and "is not finite" in finished.last_words
    assert f"the last good checkpoint is {tmp_path}/run/checkpoints/checkpoint-1" in finished.last_words
    assert read_json(tmp_path / "run" / "run.json")["status"] == "running" and not (tmp_path / "run" / "model").exists()


def test_at_every_moment_a_whole_checkpoint_is_on_disk(tmp_path):
    seen = []

    class Look(TrainerCallback):
        """Called when a checkpoint is written but not yet marked as whole."""

        def on_save(self, args, state, control, **_):
            found = last_checkpoint(tmp_path)
            seen.append(found and (found.name, (found / "model.safetensors").exists()))

    train(tmp_path, tiny_model(), NLL(), dataset(("train",)), [Look(), SealCheckpoints(1)], save_strategy="steps", save_steps=1)
    assert seen == [None, ("checkpoint-1", True), ("checkpoint-2", True)]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]  # the newest is kept


@pytest.mark.parametrize("recompute", [False, True])
def test_an_adapter_trains_whole_and_alone(tmp_path, recompute):
    model = with_lora(tiny_model())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients: dict[str, list[Tensor]] = {}

    class Collect(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **_):
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    gradients.setdefault(name, []).append(parameter.grad.norm())

    options = {"gradient_checkpointing_kwargs": {"use_reentrant": False}, "gradient_checkpointing": True}
    records = train(tmp_path, model, NLL(), dataset(("train",)), [Collect()], learning_rate=0.5, **(options if recompute else {}))
    adapter = {name for name in before if "lora_" in name}
    assert set(gradients) == adapter and len(adapter) == 2 * 2 * 7  # A and B of 7 projections in 2 layers
    for name in adapter:  # A has no slope while B is zero: it follows one step later
        assert gradients[name][1] > 0 and not torch.equal(model.state_dict()[name], before[name]), name
    for name in set(before) - adapter:
        assert torch.equal(model.state_dict()[name], before[name]), name
    assert records[2]["loss"] < records[0]["loss"]


@pytest.mark.parametrize("per_device, accumulation", [(4, 1), (2, 2)])
def test_a_kl_over_padding_is_the_mean_of_its_micro_batches(tmp_path, per_device, accumulation):
    """As open-unlearning accumulates: each micro-batch padded to its own longest row, plain SGD beside it on padded rows."""
    data, model, plain, original = dataset(), tiny_model(), tiny_model(), tiny_model()
    split = {"per_device_train_batch_size": per_device, "gradient_accumulation_steps": accumulation}
    loss = GradientAscent(retain="kl", kl_span="open_unlearning")
    records = train(tmp_path, model, loss, data, **split)
    for step, record in enumerate(records):
        drawn = [data[step * 4 + k] for k in range(4)]
        ascent = -naive.cross_entropy(plain, merged(drawn, ("forget",))["forget"], 0)
        parts = [merged(drawn[k : k + per_device], ("retain",))["retain"] for k in range(0, 4, per_device)]
        kl = sum(released_kl(plain, original, part, None, tokenizer().pad_token_id) for part in parts) / len(parts)
        plain.zero_grad()
        (ascent + kl).backward()
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter -= 0.01 * parameter.grad
        assert record["loss"] == pytest.approx((ascent + kl).item(), rel=1e-5)
        assert record["retain_kl"] == pytest.approx(kl.item(), rel=1e-5, abs=1e-6)
    assert_same_weights(model.state_dict(), plain.state_dict(), 1e-5)


@pytest.mark.parametrize("span", ["open_unlearning", pytest.param("flat", marks=pytest.mark.slow)])
@pytest.mark.parametrize("reference", ["cached", pytest.param("resident", marks=pytest.mark.slow)])
def test_runs_with_a_kl_over_padding(span, reference, tmp_path):
    """A fixed length belongs to the global batch as everything else does; the longest row belongs to the micro-batch."""
    dials = ("method=kl", f"method.loss.kl_span={span}", f"reference={reference}", "lr=0.05", "method.loss.padded_length=128")
    for size in (4, 2):
        unlearn(tmp_path / str(size), *dials, f"per_device_batch_size={size}")
    if span == "flat":
        assert_same_curve(tmp_path / "4", tmp_path / "2")
    else:
        kls = [[record["retain_kl"] for record in losses(tmp_path / size)] for size in ("4", "2")]
        assert kls[0][-1] != pytest.approx(kls[1][-1], rel=1e-4) and kls[0][-1] > 0


def test_rows_longer_than_their_padding_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="method.loss.padded_length=8: a row has [0-9]+ tokens; write at least as many"):
        unlearn(tmp_path / "run", "method=kl", "compat=flat_released", "method.loss.padded_length=8")
    assert not list(tmp_path.iterdir())


def test_one_process_keeps_to_one_device(tmp_path, monkeypatch):
    """As on a machine with four GPUs, where the library would spread the model over all of them."""
    seen, original = [], TrainingArguments.__post_init__

    def four(self):
        original(self)
        self._n_gpu = 4

    monkeypatch.setattr(TrainingArguments, "__post_init__", four)
    monkeypatch.setattr(Trainer, "train", lambda self, **_: seen.append((self.args.n_gpu, self.args.train_batch_size)))
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, "per_device_batch_size=2", "out=run")
    assert seen == [(1, 2)]
