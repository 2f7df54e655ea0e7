"""The engine: same numbers as plain forward passes with full logits, without ever holding them."""

from __future__ import annotations

import logging
import types

import pytest
import torch
from torch import Tensor, nn

from tests.architectures import tiny
from tests.models import SUPPORTED, moved, random_examples, tiny_model, with_lora
from tests.naive import naive_tables
from utils.engine.engine import Engine, ReferenceValues
from utils.engine.head import output_head
from utils.tokens.example import Example

V = 101
STREAMS = {"forget": random_examples(4, V, 1), "template": random_examples(4, V, 1, prompts=4)}
STREAMS["scores"] = random_examples(9, V, 5, prompts=2)
NEEDS = {"forget": ("logp", "hit"), "template": ("entropy",), "scores": ("logp", "entropy", "hit")}
PAD = 0


def small(family: str = "llama", attention: str = "sdpa", **settings) -> nn.Module:
    return tiny_model(family, attention, vocabulary=V, pad_token_id=PAD, bos_token_id=1, eos_token_id=2, **settings)


def engine_values(engine: Engine, **options) -> dict[str, Tensor]:
    """`stream.statistic` -> values at all answer tokens."""
    tables = engine.tables(engine.pack(STREAMS), NEEDS, **options)
    return {f"{s}.{n}": table[n][table.mask] for s, table in tables.items() for n in NEEDS[s]}


def slow_values(model: nn.Module) -> dict[str, Tensor]:
    tables = naive_tables(model, model, NEEDS, STREAMS, PAD)
    return {f"{s}.{n}": table[n][table.mask] for s, table in tables.items() for n in NEEDS[s]}


def gradients(model: nn.Module, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a sum in which every answer token has its own weight."""
    weighted = sum((v.double() * torch.linspace(-1, 2, len(v))).sum() for n, v in values.items() if "hit" not in n)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(weighted, list(trained.values())), strict=True))


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor], atol: float = 1e-5, rtol: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        explain = lambda text, n=name: f"{n}: {text}"  # noqa: E731
        torch.testing.assert_close(found[name].double(), values.double(), atol=atol, rtol=rtol, msg=explain)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", SUPPORTED)
def test_equals_plain_forward_passes(family, attention, shared):
    model = small(family, attention)
    engine = Engine(model, PAD)
    assert engine.shared
    engine.shared = shared
    found, wanted = engine_values(engine), slow_values(model)
    assert_equal(found, wanted)
    assert_equal(gradients(model, found), gradients(model, wanted), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "plain"])
def test_hidden_token_equals_a_mask_by_token_value(shared):
    """As released code has it: attention_mask = ids != eos, also where an EOS is the last token before a scored one."""
    eos = 2
    model = small()
    examples = [Example((5, eos, 6, 7), (8, eos, 9, eos)), Example((4, 5, eos), (6, 7)), Example((4, 5, eos), (8,))]
    engine = Engine(model, eos, shared=shared, hide=eos)
    packed = engine.pack({"x": examples})
    found = engine.statistics(packed, {"x": ("logp",)}, ("logp",))[:, 0]
    wanted = []
    for example in examples:
        ids = torch.tensor([example.prompt + example.answer])
        logits = model(input_ids=ids, attention_mask=(ids != eos).long(), use_cache=False).logits[0].log_softmax(-1)
        first = len(example.prompt)
        wanted += [logits[first + i - 1, label] for i, label in enumerate(example.answer)]
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_chunks_change_nothing(rows):
    model = small()
    whole, chunked = Engine(model, PAD), Engine(model, PAD, chunk_bytes=4 * V * rows)
    first, second = engine_values(whole), engine_values(chunked)
    assert_equal(first, second, atol=1e-6)
    assert_equal(gradients(model, first), gradients(model, second), atol=1e-5, rtol=1e-4)


def test_logits_of_one_chunk_live_at_a_time(monkeypatch):
    """Forward and backward: no tensor has a vocabulary for more rows than a chunk, and none of them is kept."""
    model = small()
    engine = Engine(model, PAD, chunk_bytes=4 * V * 3)
    seen: list[int] = []
    project = engine.head.forward

    def watched(hidden):
        logits = project(hidden)
        seen.append(logits.shape[0])
        return logits

    monkeypatch.setattr(engine.head, "forward", watched)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        values = engine_values(engine)
    tokens = sum(len(e.answer) for rows in STREAMS.values() for e in rows)
    assert max(seen) == 3 and sum(seen) == tokens
    assert not [shape for shape in kept if V in shape and shape not in ((V, 64), (64, V))]
    sum(v.sum() for v in values.values()).backward()
    assert max(seen) == 3 and tokens < sum(seen) <= 2 * tokens


def test_a_single_chunk_is_not_computed_twice(monkeypatch):
    model = small()
    engine = Engine(model, PAD)
    calls = []
    project = engine.head.forward
    monkeypatch.setattr(engine.head, "forward", lambda hidden: calls.append(1) or project(hidden))
    sum(v.sum() for v in engine_values(engine).values()).backward()
    assert len(calls) == len(NEEDS)


def answers_masks_of_four_dimensions(model: nn.Module, how) -> nn.Module:
    """The model with `how(mask)` in the place of every (L, 1, W, W) mask that it is given."""
    forward = model.forward

    def changed(self, attention_mask=None, **inputs):
        rows = attention_mask is not None and attention_mask.dim() == 4
        return forward(attention_mask=how(attention_mask) if rows else attention_mask, **inputs)

    model.forward = types.MethodType(changed, model)
    return model


def refuse(mask):
    raise ValueError("this attention takes no 4-D mask")


@pytest.mark.parametrize("how", [refuse, lambda mask: None], ids=["refuses", "ignores"])
def test_model_without_row_masks_falls_back_with_one_warning(how, caplog):
    """Prompts are repeated, the numbers are the same. Ignoring is worse than refusing: the numbers would be wrong."""
    model = small()
    wanted = engine_values(Engine(model, PAD))
    with caplog.at_level(logging.WARNING):
        engine = Engine(answers_masks_of_four_dimensions(model, how), PAD)
        found = engine_values(engine)
    assert not engine.shared and not engine.pack(STREAMS).shared
    assert [record.message for record in caplog.records if record.name == "utils.engine.engine"] == [
        "LlamaForCausalLM with sdpa attention takes no row mask: prompts are repeated for each answer (same numbers, more time)"
    ]
    assert_equal(found, wanted)


def test_kernels_without_masks_are_not_tried(monkeypatch):
    monkeypatch.setattr("utils.engine.engine.KERNELS_WITHOUT_MASK", ("sdpa",))
    assert not Engine(small(attention="sdpa"), PAD).shared
    assert Engine(small(attention="eager"), PAD).shared


@pytest.mark.parametrize("shared", [None, True], ids=["tried", "told to share"])
def test_model_that_changes_logits_after_its_head_is_refused(shared):
    model = tiny("recurrent_gemma")
    with pytest.raises(ValueError, match="RecurrentGemmaForCausalLM: its logits are not those of its output head"):
        Engine(model, PAD, shared=shared)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gemma2", {"final_logit_softcapping": 2.0}),
        ("gemma3n_text", {"final_logit_softcapping": 2.0}),
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 5.0}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_model_does_to_its_logits_is_done(name, settings, dtype):
    """Values and gradients of the model's own forward, which is itself again afterwards; a reference does the same."""
    model = tiny(name, **settings).to(dtype)
    before = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    engine = Engine(model, PAD, chunk_bytes=4 * V * 3, shared=False)
    assert engine.change is not None and list(settings)[0] == engine.change.name
    found, wanted = engine_values(engine), slow_values(model)
    exact = dtype == torch.float32
    assert_equal(found, wanted, atol=1e-5 if exact else 0.1)
    if exact:
        assert_equal(gradients(model, found), gradients(model, wanted), atol=2e-4, rtol=1e-3)
    assert torch.equal(before, model(input_ids=torch.tensor([[5, 6, 7]])).logits)
    packed = engine.pack({"scores": STREAMS["scores"]})
    hidden, logp = engine.hidden_and_logp(packed)
    kl = engine.statistics(packed, {"scores": ("kl",)}, ("kl",), ReferenceValues(logp, hidden))
    assert kl.abs().max() < 1e-5
    own = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).logits
    one = engine.hidden(engine.pack({"one": [Example((5, 6), (7,))]}))
    torch.testing.assert_close(engine.logits(one)[0], own[0, 1].float(), atol=1e-5 if exact else 0.05, rtol=0)


def test_a_model_that_caps_its_logits_trains_in_mixed_precision():
    engine = Engine(tiny("gemma2"), PAD, autocast=True)
    assert engine.change is not None
    packed = engine.pack({"scores": STREAMS["scores"]})
    assert engine.logits(engine.hidden(packed)).dtype == torch.float32
    engine.statistics(packed, {"scores": ("logp",)}, ("logp",)).sum().backward()


def test_a_change_that_is_known_by_name_but_works_otherwise_is_refused():
    """A scale of the configuration that the model puts on its hidden states explains nothing about its logits."""
    model = tiny("granite", logits_scaling=5.0)
    forward = model.forward

    def scaled(*args, **inputs):
        output = forward(*args, **inputs)
        output.logits = output.logits * 1.1
        return output

    model.forward = scaled
    with pytest.raises(ValueError, match="not those of its output head"):
        Engine(model, PAD)


def test_bfloat16_model_that_scales_its_logits_is_refused():
    model = small().bfloat16()
    forward = model.forward

    def scaled(*args, **inputs):
        output = forward(*args, **inputs)
        output.logits = output.logits / 1.05
        return output

    model.forward = scaled
    with pytest.raises(ValueError, match="not those of its output head"):
        Engine(model, PAD)


def test_model_without_head_is_refused():
    with pytest.raises(ValueError, match="no linear output head"):
        output_head(small().model)


def test_adapter_model():
    model = small()
    adapted = moved(with_lora(model), by=0.1)
    found, wanted = engine_values(Engine(adapted, PAD)), slow_values(adapted)
    assert_equal(found, wanted)
    assert_equal(gradients(adapted, found), gradients(adapted, wanted), atol=2e-4, rtol=1e-3)


def test_activation_checkpointing_gives_the_same_gradient():
    model = small().train()
    plain = gradients(model, engine_values(Engine(model, PAD)))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal(gradients(model, engine_values(Engine(model, PAD))), plain, atol=1e-5)


def test_gradient_reaches_the_model_through_answer_positions_only():
    """The loss reads the last hidden states of positions that predict an answer token, and no others."""
    model = small()
    engine = Engine(model, PAD)
    packed = engine.pack({"forget": STREAMS["forget"]})
    states = []
    handle = model.model.norm.register_forward_hook(lambda m, i, out: out.retain_grad() or states.append(out))
    engine.tables(packed, {"forget": ("logp",)})["forget"]["logp"].sum().backward()
    handle.remove()
    touched = (states[0].grad != 0).any(dim=-1).flatten().nonzero()[:, 0]
    assert touched.tolist() == sorted(packed.source.unique().tolist())


@pytest.mark.parametrize("own", [False, True], ids=["class forward", "instance forward"])
def test_head_is_itself_again_after_an_error(own):
    """Also where a library has put a forward of its own on the head (quantisation, offloading)."""
    model = small()
    engine = Engine(model, PAD)
    if own:
        plain = engine.head.forward
        engine.head.forward = lambda hidden: plain(hidden)
    before = dict(vars(engine.head))
    packed = engine.pack(STREAMS)
    with pytest.raises(KeyError, match="nonsense"):
        engine.statistics(packed, {name: ("nonsense",) for name in STREAMS}, ("nonsense",))
    assert vars(engine.head) == before
    assert model(input_ids=torch.tensor([[5, 6]])).logits.shape == (1, 2, V)


def test_tables_hold_what_each_stream_asked_for():
    engine = Engine(small(), PAD)
    tables = engine.tables(engine.pack(STREAMS), NEEDS)
    assert {name: tuple(table.statistics) for name, table in tables.items()} == NEEDS
    forget = tables["forget"]
    assert forget.examples == 4 and forget.tokens == sum(len(e.answer) for e in STREAMS["forget"])
    assert all(not values[~forget.mask].any() and values.dtype == torch.float32 for values in forget.statistics.values())


def test_a_stream_that_this_micro_batch_holds_nothing_of():
    engine = Engine(small(), PAD)
    streams = {"forget": [], "retain": STREAMS["forget"]}
    needs = {"forget": ("logp", "hit"), "retain": ("logp",)}
    tables = engine.tables(engine.pack(streams), needs)
    assert tables["forget"]["logp"].shape == (0, 0)
    assert tables["forget"].token_mean("logp") == 0 and tables["forget"].batch_mean(tables["forget"].mean("hit")) == 0
    alone = engine.tables(engine.pack({"retain": STREAMS["forget"]}), {"retain": ("logp",)})["retain"]
    torch.testing.assert_close(tables["retain"]["logp"], alone["logp"])
    assert tables["retain"].before.tolist() == [len(e.prompt) for e in STREAMS["forget"]]


def test_counts_of_the_whole_step_and_reference_values():
    engine = Engine(small(), PAD)
    streams = {"forget": STREAMS["forget"]}
    packed = engine.pack(streams)
    values = ReferenceValues(torch.arange(float(len(packed.labels))))
    needs = {"forget": ("reference_logp", "logp")}
    table = engine.tables(packed, needs, values, {"forget": (12.0, 99.0)})["forget"]
    assert (table.examples, table.tokens) == (12.0, 99.0)
    assert torch.equal(table["reference_logp"][table.mask], values.logp)


def test_order_of_streams_in_needs_does_not_matter():
    engine = Engine(small(), PAD)
    packed = engine.pack(STREAMS)
    other = {name: NEEDS[name] for name in reversed(NEEDS)}
    first, second = engine.tables(packed, NEEDS), engine.tables(packed, other)
    for name in NEEDS:
        assert all(torch.equal(first[name][s], second[name][s]) for s in NEEDS[name])


def test_hidden_states_give_the_log_probabilities():
    model = small()
    engine = Engine(model, PAD, chunk_bytes=4 * V * 2)
    packed = engine.pack(STREAMS)
    hidden, logp = engine.hidden_and_logp(packed)
    assert torch.equal(hidden, engine.hidden(packed))
    wanted = naive_tables(model, model, {"scores": ("logp",)}, STREAMS, PAD)["scores"]
    first, lengths = packed.streams["scores"]
    torch.testing.assert_close(logp[first : first + sum(lengths)].double(), wanted["logp"][wanted.mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_construction_leaves_the_mode_as_it_was(training):
    model = small().train(training)
    Engine(model, PAD)
    assert model.training is training
