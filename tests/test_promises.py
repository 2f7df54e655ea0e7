"""What every method promises when it trains a real (tiny) model. A new file in config/method is tested by being there.

The fast path is the engine with shared prompts, chunks and the cached reference. It is held against two slow ways: for
every method, token tables in float64 from full padded forward passes, given to the method's own loss; and for the
methods of `tests/naive.py` a formula of its own, which knows nothing of `losses/`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from pytest import approx
from torch import Tensor, nn

from tests.losses.cases import METHODS, method_loss
from tests.models import moved, tiny_model, tokenizer, toy_streams
from tests.naive import NAIVE, naive_tables
from utils.engine.engine import Engine
from utils.engine.loss import Loss
from utils.engine.reference import Reference, make_reference, needs_reference
from utils.engine.table import TokenTable
from utils.tokens.example import Example

PAD = tokenizer().pad_token_id
every_method = pytest.mark.parametrize("name", METHODS)
Gradients = dict[str, Tensor]


@cache
def original() -> nn.Module:
    """The model before unlearning: what the reference is a frozen copy of."""
    return tiny_model()


@cache
def original_engine() -> Engine:
    return Engine(original(), PAD)


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def trained() -> nn.Module:
    """The model in the middle of unlearning."""
    return moved(copy.deepcopy(original()))


def cached_reference(loss: Loss, streams: Mapping[str, Sequence[Example]], folder: Path) -> Reference | None:
    if not needs_reference(loss.needs):
        return None
    return make_reference("cached", original_engine(), loss.needs, streams, folder)


def step(engine: Engine, loss: Loss, streams, reference: Reference | None, counts=None) -> tuple[float, Gradients]:
    """Value and gradient of every parameter, the fast way. A reference must come from `cached_reference`."""
    packed = engine.pack(streams)
    tables = engine.tables(packed, loss.needs, reference.values(packed) if reference else None, counts)
    return differentiate(loss(**tables).loss, engine.model)


def differentiate(value: Tensor, model: nn.Module) -> tuple[float, Gradients]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
    return value.item(), dict(zip(names, gradients, strict=True))


def assert_same(found: tuple[float, Gradients], wanted: tuple[float, Gradients]) -> None:
    """Values to 1e-5, gradients of every parameter to 1e-4 of their norm."""
    assert found[0] == approx(wanted[0], rel=1e-5, abs=1e-5)
    whole = torch.stack([gradient.norm() for gradient in wanted[1].values()]).norm().item()
    for name, gradient in wanted[1].items():
        error = (found[1][name].double() - gradient.double()).norm().item()
        assert error <= 1e-4 * max(gradient.norm().item(), 1e-3 * whole), f"gradient of {name} is off by {error}"


@every_method
def test_equals_the_slow_way(name, trained, cache_folder):
    """Reads no formula: token tables from separate, padded, full forward passes, and the loss itself in float64."""
    loss = method_loss(name)
    streams = toy_streams(loss.needs)
    reference = cached_reference(loss, streams, cache_folder)
    found = step(Engine(trained, PAD, chunk_bytes=7 * 4 * len(tokenizer())), loss, streams, reference)
    tables = naive_tables(trained, original(), loss.needs, streams, PAD)
    assert_same(found, differentiate(loss(**tables).loss, trained))


@pytest.mark.parametrize("name", [name for name in METHODS if name in NAIVE])
def test_equals_its_own_formula(name, trained, cache_folder):
    """Against a formula that does not call `losses/`, on a copy of the model for the reference."""
    loss = method_loss(name)
    streams = toy_streams(loss.needs)
    found = step(Engine(trained, PAD), loss, streams, cached_reference(loss, streams, cache_folder))
    frozen = copy.deepcopy(original())
    assert_same(found, differentiate(NAIVE[name](trained, frozen, streams, PAD), trained))


def test_every_formula_belongs_to_a_method():
    """A method that is renamed or removed takes its formula along."""
    assert set(NAIVE) <= set(METHODS), f"no config/method for {sorted(set(NAIVE) - set(METHODS))}"


@every_method
def test_sharing_prompts_changes_nothing(name, trained, cache_folder):
    loss = method_loss(name)
    streams = toy_streams(loss.needs)
    reference = cached_reference(loss, streams, cache_folder)
    shared, plain = (step(Engine(trained, PAD, shared=how), loss, streams, reference) for how in (True, False))
    assert_same(shared, plain)


@every_method
@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["shared", "plain"])
def test_padding_has_no_part_in_it(name, shared, trained, cache_folder, monkeypatch):
    """Another pad id gives the same, and the embedding of an id that is only padding gets no gradient."""
    monkeypatch.setattr("utils.engine.packing.WIDTH_COST", 1.0)  # rather padding than wide lines
    loss = method_loss(name)
    streams = toy_streams(loss.needs)
    reference = cached_reference(loss, streams, cache_folder)
    used = {token for rows in streams.values() for e in rows for token in e.prompt + e.answer}
    pads = [PAD, next(token for token in range(len(tokenizer())) if token not in used)]
    assert PAD not in used
    assert (Engine(trained, PAD, shared=shared).pack(streams).reach == 0).any(), "no padding to look at"
    found = [step(Engine(trained, pad, shared=shared), loss, streams, reference) for pad in pads]
    assert found[0][0] == found[1][0]
    for (_, gradients), pad in zip(found, pads, strict=True):
        assert not gradients["model.embed_tokens.weight"][pad].any()
    assert all(torch.equal(found[0][1][key], found[1][1][key]) for key in found[0][1])


@every_method
def test_supervision_ends_where_answers_do(name, trained, cache_folder):
    """No gradient on the last hidden state of a prompt's inside, of an answer's end or of padding."""
    loss = method_loss(name)
    streams = toy_streams(loss.needs)
    engine, states = Engine(trained, PAD), []
    hook = trained.model.norm.register_forward_hook(lambda module, _, out: out.retain_grad() or states.append(out))
    packed = engine.pack(streams)
    reference = cached_reference(loss, streams, cache_folder)
    loss(**engine.tables(packed, loss.needs, reference.values(packed) if reference else None)).loss.backward()
    hook.remove()
    touched = (states[0].grad != 0).any(dim=-1).flatten().nonzero()[:, 0]
    assert touched.tolist() == packed.source.unique().tolist()


@every_method
def test_row_order_changes_nothing(name, trained, cache_folder):
    loss = method_loss(name)
    streams = toy_streams(loss.needs)
    reference = cached_reference(loss, streams, cache_folder)
    order = [3, 0, 4, 1, 2]
    turned = {stream: [rows[index] for index in order] for stream, rows in streams.items()}
    engine = Engine(trained, PAD)
    assert_same(step(engine, loss, turned, reference), step(engine, loss, streams, reference))


@every_method
@pytest.mark.parametrize("sizes", [pytest.param((1, 1, 1, 1, 1), marks=pytest.mark.slow), (2, 3)], ids=str)
def test_micro_batches_add_up(name, sizes, trained, cache_folder):
    """Losses and gradients of the parts sum to those of the whole batch."""
    loss = method_loss(name)
    if loss.micro_batch_dependent:
        pytest.skip("declares that it depends on the micro-batch")
    streams = toy_streams(loss.needs)
    reference = cached_reference(loss, streams, cache_folder)
    counts = {stream: (float(len(rows)), float(sum(len(e.answer) for e in rows))) for stream, rows in streams.items()}
    engine = Engine(trained, PAD)
    value, total, start = 0.0, {}, 0
    for size in sizes:
        part = {stream: rows[start : start + size] for stream, rows in streams.items()}
        found, gradients = step(engine, loss, part, reference, counts)
        value, start = value + found, start + size
        total = {key: total.get(key, 0.0) + gradient for key, gradient in gradients.items()}
    assert_same((value, total), step(engine, loss, streams, reference))


@every_method
def test_finite_in_bfloat16(name, trained, cache_folder):
    loss = method_loss(name)
    streams = toy_streams(loss.needs)
    reference = cached_reference(loss, streams, cache_folder)
    in_float32 = step(Engine(trained, PAD), loss, streams, reference)
    value, gradients = step(Engine(trained.bfloat16(), PAD), loss, streams, reference)
    assert value == approx(in_float32[0], rel=0.1, abs=0.1)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@every_method
def test_descends(name, cache_folder):
    """Ten steps of AdamW from the original model lower the loss, and no reading of it is NaN."""
    loss = method_loss(name)
    streams = toy_streams(loss.needs, rows=2)
    model = copy.deepcopy(original())
    reference = cached_reference(loss, streams, cache_folder)
    engine = Engine(model, PAD)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for _ in range(10):
        value, gradients = step(engine, loss, streams, reference)
        for key, parameter in model.named_parameters():
            parameter.grad = gradients[key]
        optimizer.step()
        seen.append(value)
    assert all(value == value for value in seen)
    assert seen[-1] < seen[0] - 0.01 * abs(seen[0])


def test_a_wrong_loss_is_caught(trained):
    """The suite itself: a loss that is wrong by one part in a thousand does not pass."""
    loss = method_loss("memorise")
    streams = toy_streams(loss.needs)

    def wrong(train: TokenTable) -> Tensor:
        return 1.001 * loss(train=train).loss

    value, gradients = step(Engine(trained, PAD), loss, streams, None)
    tables = naive_tables(trained, original(), loss.needs, streams, PAD)
    with pytest.raises(AssertionError):
        assert_same((value, gradients), differentiate(wrong(**tables), trained))
