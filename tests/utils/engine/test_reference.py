"""Three ways to the frozen reference model give the same numbers, before and after the model has trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.models import moved, tiny_model, toy_streams, with_lora
from tests.naive import naive_tables
from utils.engine import reference as reference_module
from utils.engine import token_cache
from utils.engine.engine import Engine, rounded
from utils.engine.reference import (
    AdapterReference,
    CachedReference,
    ResidentReference,
    cache_gib,
    fill,
    hidden_streams,
    make_reference,
    needs_reference,
)
from utils.engine.table import TokenTable
from utils.engine.token_cache import TokenCache

NEEDS = {"forget": ("logp", "reference_logp"), "retain": ("logp", "kl")}
STREAMS = toy_streams(NEEDS)
PAD = 0
close = {"rtol": 0.0, "atol": 1e-5}


def build(kind: str, engine: Engine, cache: Path, adapter: str = "none", needs=NEEDS, dropout: bool = False):
    return make_reference(kind, engine, needs, STREAMS, cache, adapter, dropout=dropout)


def statistics(engine: Engine, reference, needs=NEEDS) -> dict[str, Tensor]:
    """`stream.statistic` -> its values at all answer tokens, under the model as it is now."""
    packed = engine.pack({name: STREAMS[name] for name in needs})
    return flat(engine.tables(packed, needs, reference.values(packed)))


def expected(model: nn.Module, original: nn.Module) -> dict[str, Tensor]:
    return flat(naive_tables(model, original, NEEDS, STREAMS, PAD))


def flat(tables: Mapping[str, TokenTable]) -> dict[str, Tensor]:
    return {
        f"{stream}.{name}": values[table.mask].detach().double()
        for stream, table in tables.items()
        for name, values in table.statistics.items()
    }


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, **close, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Counts the tokens of every forward pass that the engine makes."""
    seen: list[int] = []
    forward = Engine._forward

    def counted(self, packed, at_answers, model):
        seen.append(packed.input_ids.numel())
        return forward(self, packed, at_answers, model)

    monkeypatch.setattr(Engine, "_forward", counted)
    return seen


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.parametrize("kind", ["cached", "resident"])
def test_full_weights(kind, tied, tmp_path):
    """Training changes the head too: the reference keeps the old one."""
    model = tiny_model(tie_word_embeddings=tied)
    original = copy.deepcopy(model)
    engine = Engine(model, PAD)
    reference = build(kind, engine, tmp_path)
    moved(model)
    assert_equal(statistics(engine, reference), expected(model, original))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]], ids=["body", "with head"])
@pytest.mark.parametrize("kind", ["adapter", "cached", "resident"])
def test_lora(kind, targets, tmp_path):
    """The adapter's B starts at zero and moves after the reference was taken."""
    model = tiny_model()
    original = copy.deepcopy(model)
    adapted = with_lora(model, targets)
    engine = Engine(adapted, PAD)
    reference = build(kind, engine, tmp_path, adapter="fresh")
    moved(adapted, by=0.1)
    found = statistics(engine, reference)
    assert_equal(found, expected(adapted, original))
    assert found["retain.kl"].max() > 1e-3


@pytest.mark.parametrize("kind", ["adapter", "cached", "resident"])
def test_gradient_of_full_kl(kind, tmp_path):
    """Chunks are computed again in backward, after the forward pass: the reference must still be there."""
    model = tiny_model()
    original = copy.deepcopy(model)
    adapted = with_lora(model)
    engine = Engine(adapted, PAD, chunk_bytes=3 * 4 * model.config.vocab_size)
    reference = build(kind, engine, tmp_path, adapter="fresh")
    moved(adapted, by=0.1)
    packed = engine.pack(STREAMS)
    engine.tables(packed, NEEDS, reference.values(packed))["retain"]["kl"].sum().backward()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    tables = naive_tables(adapted, original, NEEDS, STREAMS, PAD)
    kl = tables["retain"]["kl"][tables["retain"].mask].sum()
    for (name, parameter), gradient in zip(trained.items(), torch.autograd.grad(kl, list(trained.values())), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("kind", ["adapter", "cached", "resident"])
def test_a_continued_adapter_is_part_of_the_reference(kind, tmp_path):
    """The reference is base plus adapter as it was when the run began, not the base alone."""
    model = moved(with_lora(tiny_model()), 0.2)
    before = copy.deepcopy(model)
    engine = Engine(model, PAD)
    reference = build(kind, engine, tmp_path, adapter="continued")
    moved(model, 0.2, seed=11)
    now = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert_equal(statistics(engine, reference), expected(model, before))
    assert all(torch.equal(parameter, now[name]) for name, parameter in model.named_parameters())
    with model.disable_adapter():
        base = expected(model, model)
    assert (statistics(engine, reference)["retain.kl"] - base["retain.kl"]).abs().max() > 0.01


def test_dropout_of_the_reference_is_off_unless_asked_for(tmp_path):
    engine = Engine(moved(with_lora(tiny_model(), dropout=0.5), 0.2).train(), PAD)
    still = build("adapter", engine, tmp_path, adapter="continued")
    packed = engine.pack(STREAMS)
    assert torch.equal(still.values(packed).logp, still.values(packed).logp)
    for kind in ("adapter", "auto"):
        restless = build(kind, engine, tmp_path, adapter="continued", dropout=True)
        assert not torch.equal(restless.values(packed).logp, restless.values(packed).logp)


def test_values_are_of_the_moment_the_reference_was_made(tmp_path):
    """Dropout is off and no gradient is recorded, whatever mode the model is in."""
    model = tiny_model("opt", dropout=0.5).train()
    engine = Engine(model, PAD)
    reference = build("cached", engine, tmp_path)
    assert model.training
    packed = engine.pack(STREAMS)
    values = reference.values(packed)
    logp = naive_tables(model.eval(), model, {"forget": ("logp",)}, STREAMS, PAD)["forget"]
    torch.testing.assert_close(packed.tabulate("forget", values.logp)[0].sum(1).double(), logp.sum("logp"), rtol=0, atol=1e-4)
    assert not values.logp.requires_grad


def test_second_run_reads_the_cache(tmp_path, calls):
    first = build("cached", Engine(tiny_model(), PAD), tmp_path)
    engine = Engine(tiny_model(), PAD)
    calls.clear()
    second = build("cached", engine, tmp_path)
    assert not calls
    packed = engine.pack(STREAMS)
    assert torch.equal(first.values(packed).logp, second.values(packed).logp)
    assert torch.equal(first.values(packed).hidden, second.values(packed).hidden)


def test_what_does_not_fit_in_memory_is_halved(tmp_path, monkeypatch):
    engine = Engine(tiny_model(), PAD)
    whole, real, sizes = build("cached", engine, tmp_path / "whole"), Engine.hidden_and_logp, []

    def cramped(self, packed):
        sizes.append(len(packed.examples["batch"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("too much")
        return real(self, packed)

    monkeypatch.setattr(Engine, "hidden_and_logp", cramped)
    halves, packed = build("cached", engine, tmp_path / "halves"), engine.pack(STREAMS)
    assert max(sizes) > 2 >= min(sizes)
    torch.testing.assert_close(halves.values(packed).logp, whole.values(packed).logp, atol=1e-5, rtol=0)
    torch.testing.assert_close(halves.values(packed).hidden, whole.values(packed).hidden, atol=1e-4, rtol=0)


def test_only_new_examples_are_computed(tmp_path, calls):
    engine = Engine(tiny_model(), PAD, shared=False)
    some = {name: rows[:2] for name, rows in STREAMS.items()}
    cache = TokenCache(tmp_path, engine)
    fill(cache, engine, some, {"retain"})
    calls.clear()
    fill(cache, engine, STREAMS, {"retain"})
    new = {e for rows in STREAMS.values() for e in rows} - {e for rows in some.values() for e in rows}
    assert sum(calls) == sum(len(e.prompt) + len(e.answer) - 1 for e in new) + sum(padding(new, some))


def padding(new, some):
    """Padding of the two batches (with and without hidden states) in which the new examples are computed."""
    for rows in (STREAMS["retain"], STREAMS["forget"]):
        lengths = [len(e.prompt) + len(e.answer) - 1 for e in set(rows) & new]
        yield max(lengths, default=0) * len(lengths) - sum(lengths)


def test_hidden_states_serve_where_only_log_probabilities_are_asked(tmp_path, calls):
    engine = Engine(tiny_model(), PAD)
    fill(TokenCache(tmp_path, engine), engine, STREAMS, {"forget", "retain"})
    calls.clear()
    fill(TokenCache(tmp_path, engine), engine, STREAMS, set())
    assert not calls


@pytest.mark.parametrize("change", ["weight", "dtype", "hide"])
def test_another_model_does_not_find_the_values(change, tmp_path, calls):
    build("cached", Engine(tiny_model(), PAD), tmp_path)
    model, hide = tiny_model(), None
    if change == "weight":
        with torch.no_grad():
            model.model.norm.weight[3] += 1e-6
    elif change == "dtype":
        model = model.bfloat16()
    else:
        hide = 5
    engine = Engine(model, PAD, hide=hide)
    calls.clear()
    build("cached", engine, tmp_path)
    assert calls and len(list(tmp_path.glob("*-cpu-*"))) == 2


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-40],
        lambda content: b"\xff" * 64 + content[64:],
        lambda content: flipped(content, -1),
        lambda content: flipped(content, len(content) // 2),
    ],
    ids=["cut", "head", "last byte", "a byte inside"],
)
def test_damaged_file_is_made_anew(damage, tmp_path, calls, caplog):
    """Whichever file it is, of log-probabilities or of hidden states: training never reads a wrong value."""
    first = build("cached", Engine(tiny_model(), PAD), tmp_path)
    victims = sorted(tmp_path.glob("*/values-*.safetensors"))
    assert len(victims) == 2
    for victim in victims:
        whole = victim.read_bytes()
        victim.unlink()  # `first` still maps the file as it was
        victim.write_bytes(damage(whole))
        engine = Engine(tiny_model(), PAD)
        calls.clear()
        again = build("cached", engine, tmp_path)
        assert len(calls) == 1 and victim.read_bytes() == whole
        assert f"{victim} is damaged" in caplog.text
        packed = engine.pack(STREAMS)
        assert torch.equal(first.values(packed).logp, again.values(packed).logp)
        assert torch.equal(first.values(packed).hidden, again.values(packed).hidden)


def test_two_runs_may_fill_one_cache_at_once(tmp_path, monkeypatch):
    """A sweep starts its runs together: the slower one finds the file of the faster one and replaces it."""
    save, busy = token_cache.save_file, []

    def overtaken(tensors, path):
        save(tensors, path)
        if not busy:
            busy.append(path)
            build("cached", Engine(tiny_model(), PAD), tmp_path)

    monkeypatch.setattr(token_cache, "save_file", overtaken)
    engine = Engine(tiny_model(), PAD)
    reference = build("cached", engine, tmp_path)
    assert_equal(statistics(engine, reference), expected(engine.model, engine.model))
    assert not list(tmp_path.glob("*/*partial*"))


def test_large_jobs_are_written_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(reference_module, "TOKENS_PER_BATCH", 60)
    monkeypatch.setattr(token_cache, "FILE_BYTES", 20 * 4)
    engine = Engine(tiny_model(), PAD)
    reference = build("cached", engine, tmp_path)
    assert len(list(tmp_path.glob("*/values-*.safetensors"))) > 2
    assert_equal(statistics(engine, reference), expected(engine.model, engine.model))


def test_auto_takes_the_cheapest_that_is_exact(tmp_path):
    engine = Engine(tiny_model(), PAD)
    choose = lambda limit, adapter, of: make_reference("auto", of, NEEDS, STREAMS, tmp_path, adapter, limit)  # noqa: E731
    assert isinstance(choose(1.0, "none", engine), CachedReference)
    assert isinstance(choose(0.0, "none", engine), ResidentReference)
    adapted = Engine(with_lora(tiny_model()), PAD)
    assert isinstance(choose(1.0, "fresh", adapted), CachedReference)
    assert isinstance(choose(0.0, "continued", adapted), AdapterReference)


def test_no_second_model_lies_beside_one_that_will_be_sharded(tmp_path, caplog):
    """Its values are cached instead, computed with weights that are rounded as while it trains; the model itself stays exact."""
    engine = Engine(tiny_model(), PAD, autocast=True)
    before = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    exact = build("cached", engine, tmp_path)
    found = make_reference("auto", engine, NEEDS, STREAMS, tmp_path, "none", 0.0, sharded=True)
    assert isinstance(found, CachedReference) and "reference_cache_gib=0): a second model is not sharded" in caplog.text
    with rounded(engine.model, torch.bfloat16):
        alike = build("cached", engine, tmp_path / "rounded")
    packed = engine.pack(STREAMS)
    assert torch.equal(found.values(packed).logp, alike.values(packed).logp)
    assert not torch.equal(found.values(packed).logp, exact.values(packed).logp)
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.model.state_dict().items())


def test_size_of_the_cache_is_known_beforehand():
    """4 bytes per forget token, 4 + 64 * 4 per retain token."""
    engine = Engine(tiny_model(), PAD)
    tokens = {name: sum(len(e.answer) for e in set(rows)) for name, rows in STREAMS.items()}
    assert cache_gib(engine, NEEDS, STREAMS) * 2**30 == tokens["forget"] * 4 + tokens["retain"] * 260


def test_adapter_reference_needs_an_adapter(tmp_path):
    with pytest.raises(ValueError, match="use reference=cached, or adapter=lora"):
        build("adapter", Engine(tiny_model(), PAD), tmp_path)


def test_what_a_loss_asks_of_the_reference():
    assert needs_reference(NEEDS) and needs_reference({"forget": ("kl",)}) and needs_reference({"f": ("reference_logp",)})
    assert not needs_reference({"forget": ("logp", "hit")})
    assert hidden_streams(NEEDS) == {"retain"}


def test_the_reference_computes_in_the_precision_of_training(tmp_path):
    """Under autocast the reference runs in bfloat16 too: at the start, model and reference are the same however it is kept."""
    engine = Engine(tiny_model(), PAD, autocast=True)
    exact = statistics(Engine(tiny_model(), PAD), build("resident", Engine(tiny_model(), PAD), tmp_path))
    for kind in ("cached", "resident"):
        found = statistics(engine, build(kind, engine, tmp_path))
        assert (found["forget.logp"] - exact["forget.logp"]).abs().max() > 1e-5  # it is bfloat16
        torch.testing.assert_close(found["forget.reference_logp"], found["forget.logp"], rtol=0.0, atol=0.05)
        assert found["retain.kl"].abs().max() < 1e-3
    assert len(list(tmp_path.glob("*-float32-autocast-*"))) == 1  # never mixed with exact values


@pytest.mark.parametrize("kind", ["adapter", "resident"])
def test_streams_that_ask_nothing_are_not_forwarded(tmp_path, kind):
    needs = {"retain": ("logp",), "forget": ("logp", "reference_logp")}
    engine = Engine(with_lora(tiny_model()), PAD)
    reference = build(kind, engine, tmp_path, adapter="fresh", needs=needs)
    moved(engine.model)
    packed = engine.pack({name: STREAMS[name] for name in needs})
    seen = []
    reference.engine.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    values = reference.values(packed)
    assert [shape[:2].numel() < packed.input_ids.numel() for shape in seen if len(shape) == 3] == [True]
    found = flat(engine.tables(packed, needs, values))
    wanted = flat(naive_tables(engine.model, tiny_model(), needs, STREAMS, PAD))
    assert_equal(found, {name: wanted[name] for name in found})
