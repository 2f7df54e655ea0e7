"""A KL over all positions of the padded batch, as released code has it, against plain forward passes of Hugging Face models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from pytest import approx
from torch import Tensor, nn
from torch.nn import functional as F

from losses.ga import GradientAscent
from losses.meow import MEOW
from losses.npo import NPO
from losses.retain import SPANS, KLSpan, mean_kl
from tests import naive
from tests.losses.cases import method_loss
from tests.models import ITEMS, RETAIN, SUPPORTED, TEMPLATES, moved_copy, tiny_model, tokenizer
from utils.engine.engine import Engine
from utils.engine.loss import Loss, LossOutput, Span, engine_needs, loss_tables
from utils.engine.reference import make_reference
from utils.engine.table import TokenTable
from utils.items.streams import Drawn, Streams
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder, Template
from utils.training.spans import check_rows, fit_engine, micro_batch

EOS, PAD = tokenizer().eos_token_id, tokenizer().pad_token_id
# Padded to the longest row with the padding token, or to a fixed length with EOS: the first of these is the answer's own.
RELEASED = {"open_unlearning": (None, PAD), "tofu": (500, EOS), "flat": (500, EOS), "meow": (200, EOS)}


@dataclass(frozen=True)
class Anchored(KLSpan):
    """A method that nobody has written yet, with a KL on another stream."""

    needs = {"normal": ("kl",)}

    def __call__(self, normal: TokenTable) -> LossOutput:
        return LossOutput(mean_kl(normal), {"normal_kl": mean_kl(normal)})


def released_kl(model: nn.Module, reference: nn.Module, examples: Sequence[Example], length: int | None, pad: int) -> Tensor:
    """kl_div of reduction batchmean over (B * T, V): no mask, no shift; attention mask 0 on padding."""
    texts = [example.prompt + example.answer for example in examples]
    width = length or max(map(len, texts))
    ids, mask = torch.full((len(texts), width), pad), torch.zeros(len(texts), width, dtype=torch.long)
    for line, text in enumerate(texts):
        text = text[:-1] if text[-1] == pad else text
        ids[line, : len(text)], mask[line, : len(text)] = torch.tensor(text), 1
    ours = F.log_softmax(model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1), dim=-1)
    with torch.no_grad():
        theirs = F.log_softmax(reference(input_ids=ids, attention_mask=mask).logits.flatten(0, 1), dim=-1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def released(name: str, model: nn.Module, reference: nn.Module, streams, length: int | None, pad: int) -> Tensor:
    """The formulas of released code; beta = 0.1 and weights as printed there."""
    if name == "meow":
        return naive.cross_entropy(model, streams["inverted"], PAD) + released_kl(
            model, reference, streams["inverted"], length, pad
        )
    kl = released_kl(model, reference, streams["forget" if name == "ga_forget_kl" else "retain"], length, pad)
    if name in ("kl", "ga_forget_kl"):
        return -naive.cross_entropy(model, streams["forget"], PAD) + kl
    if name == "npo_kl":
        return naive.npo(model, reference, streams, PAD) + kl
    if name == "llmu":
        refusals = naive.cross_entropy(model, streams["template"], PAD)
        return -0.5 * naive.cross_entropy(model, streams["forget"], PAD) + refusals + kl
    # FLAT's code overwrites the reference's difference with 0.
    gap = naive.nll(model, streams["forget"], PAD)[0] - naive.nll(model, streams["template"], PAD)[0]
    return -(2 / 0.1) * F.logsigmoid(0.1 * gap).mean() + kl


def of_method(name: str, span: str) -> Loss:
    more = {"meow": ["method.loss.kl_weight=1"], "dpo_kl": ["method.loss.reference_free=true"]}.get(name, [])
    length = RELEASED[span][0]
    more += [f"++method.loss.padded_length={length}"] if length else []
    return method_loss(name, f"method.loss.kl_span={span}", *more)


@cache
def prompts(max_length: int = 512, pad: str | None = None) -> Encoder:
    own = type(tokenizer()).from_pretrained(tokenizer().name_or_path)
    own.pad_token = pad or own.pad_token
    return Encoder(own, Template("plain", "Question: ", "\n", "Answer: "), max_length)


def items(loss: Loss, count: int = 4, encoder: Encoder | None = None) -> list[Drawn]:
    """The first items of the toy data; inverted: two false answers to each question."""
    encoder = encoder or prompts()
    streams = Streams(("forget", "template", "retain"), ITEMS, encoder, seed=3, retain=RETAIN, templates=TEMPLATES)
    drawn = [streams.draw(0, index) for index in range(count)]
    for item, pair in zip(drawn, ITEMS, strict=False):
        false = (f"Not so: {pair.answer}", "Nobody did.")
        item["inverted"] = tuple(encoder.example(pair.question, answer) for answer in false)
    return [{name: item[name] for name in loss.needs} for item in drawn]


def asked(loss: Loss, drawn: Sequence[Drawn], model: nn.Module, original: nn.Module, tmp_path, shared=None, kind="resident"):
    """The loss of one micro-batch through the engine."""
    encoder = prompts()
    engine, engine_before = (Engine(one, encoder.pad_id, shared=shared) for one in (model, original))
    for one in (engine, engine_before):
        fit_engine(one, loss)
    streams = micro_batch(drawn, loss, encoder)
    needs = engine_needs(loss)
    reference = make_reference(kind, engine_before, needs, streams, tmp_path)
    packed = engine.pack(streams)
    return loss(**loss_tables(loss, engine.tables(packed, needs, reference.values(packed))))


def assert_same(found: Tensor, wanted: Tensor, model: nn.Module) -> None:
    """Value to 1e-5; gradient of every parameter to 1e-5 of the whole gradient's norm."""
    assert found.item() == approx(wanted.item(), rel=1e-5, abs=1e-6)
    ours, theirs = (torch.autograd.grad(value, list(model.parameters()), materialize_grads=True) for value in (found, wanted))
    norm = torch.stack([gradient.norm() for gradient in theirs]).norm()
    assert norm > 0
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-5 * norm


# All methods have the term by inheriting one class: some of them at FLAT's 500 tokens, all of them under -m slow.
@pytest.mark.parametrize(
    "name, span",
    [
        pytest.param(name, span, marks=[pytest.mark.slow] if span == "flat" and name != "kl" else [])
        for span in RELEASED
        for name in ("kl", "npo_kl", "dpo_kl", "llmu", "ga_forget_kl", "meow")
    ],
)
def test_equals_released_code(name, span, tmp_path):
    """open_unlearning kl: its GradDiff with KL. flat kl, dpo_kl and llmu: FLAT's KL, dpo_KL and LLMU at 500 tokens."""
    loss, original = of_method(name, span), tiny_model()
    model, drawn = moved_copy(original), items(loss)
    streams = {stream: [example for item in drawn for example in item[stream]] for stream in loss.needs}
    found = asked(loss, drawn, model, original, tmp_path, kind="cached").loss
    assert_same(found, released(name, model, copy.deepcopy(original), streams, *RELEASED[span]), model)


@pytest.mark.parametrize(
    ("family", "attention", "shared"),
    [*((family, "sdpa", None) for family in SUPPORTED), ("llama", "eager", None), ("llama", "sdpa", False)],
)
def test_whatever_the_architecture_and_the_layout(family, attention, shared, tmp_path):
    """OPT counts positions by the mask, so that its padding stands at another place than shared lines would put it."""
    loss, original = MEOW(kl_weight=1.0, kl_span="meow", padded_length=90), tiny_model(family, attention)
    model, drawn = moved_copy(original), items(loss, 2)
    streams = {"inverted": [example for item in drawn for example in item["inverted"]]}
    found = asked(loss, drawn, model, original, tmp_path, shared).loss
    assert_same(found, released("meow", model, copy.deepcopy(original), streams, 90, EOS), model)


def test_only_the_kl_looks_beyond_the_answers(tmp_path):
    original = tiny_model()
    model = moved_copy(original)
    plain = GradientAscent(forget_kl_weight=1.0, retain="nll")
    other = GradientAscent(forget_kl_weight=1.0, retain="nll", kl_span="open_unlearning")
    found = [asked(loss, items(loss), model, original, tmp_path).parts for loss in (plain, other)]
    for part in ("forget_nll", "retain_nll"):
        assert found[0][part].item() == approx(found[1][part].item(), rel=1e-6)
    assert found[0]["forget_kl"].item() != approx(found[1]["forget_kl"].item(), rel=1e-2)
    assert engine_needs(plain) == plain.needs
    assert engine_needs(other) == {"forget": ("logp",), "forget rows": ("kl",), "retain": ("logp",)}


def test_an_eos_inside_of_a_text_is_seen():
    """Padding goes by length: where it is EOS, only the EOS at the end is padding, none before it."""
    loss, encoder = NPO(retain="kl", kl_span="tofu", padded_length=12), prompts()
    item = {"forget": (Example((5,), (6,)),), "retain": (Example((5, EOS), (6, EOS)),)}
    (row,) = micro_batch([item], loss, encoder)["retain rows"]
    assert row == Example((5,), (EOS, 6, *[EOS] * 10), padding=10)
    packed = Engine(tiny_model(), PAD).pack({"retain rows": [row]})
    assert (packed.reach > 0).sum() == 3 and packed.input_ids.shape[1] == 12


def test_open_unlearning_hides_every_eos_where_it_pads(tmp_path):
    """Its attention mask is told by value: with padding = EOS the end of a turn inside the prompt is hidden as well."""
    loss, original = Anchored(kl_span="open_unlearning"), tiny_model()
    model, encoder = moved_copy(original), prompts(pad="</s>")
    rows = [Example((5, 6, EOS, 7), (8, 9, EOS)), Example((5,), (6, EOS))]
    engine, before = (Engine(one, EOS, hide=EOS) for one in (model, original))
    streams = micro_batch([{"normal": (row,)} for row in rows], loss, encoder)
    packed, needs = engine.pack(streams), engine_needs(loss)
    values = make_reference("resident", before, needs, streams, tmp_path).values(packed)
    found = loss(**loss_tables(loss, engine.tables(packed, needs, values))).loss
    ids = torch.tensor([[5, 6, EOS, 7, 8, 9, EOS], [5, 6, *[EOS] * 5]])
    ours, theirs = (F.log_softmax(m(ids, attention_mask=(ids != EOS).long()).logits.flatten(0, 1), -1) for m in (model, original))
    assert_same(found, F.kl_div(ours, theirs.detach(), reduction="batchmean", log_target=True), model)


def test_rows_are_padded_to_the_longest_of_their_micro_batch():
    loss = GradientAscent(retain="kl", kl_span="open_unlearning")
    whole = micro_batch(items(loss), loss, prompts())["retain rows"]
    assert len({len(row) for row in whole}) == 1 and loss.micro_batch_dependent
    each = [micro_batch([item], loss, prompts())["retain rows"][0] for item in items(loss)]
    assert max(map(len, each)) == len(whole[0]) and len(set(map(len, each))) > 1
    assert all(row.padding == 1 for row in each)  # the token that is never fed
    assert not GradientAscent(retain="kl", kl_span="flat").micro_batch_dependent
    assert not GradientAscent(retain="nll", kl_span="open_unlearning").micro_batch_dependent


def test_rows_that_are_too_long_are_refused_before_a_model_is_loaded():
    loss = GradientAscent(retain="kl", kl_span="flat", padded_length=8)
    examples = [prompts().example(pair.question, pair.answer) for pair in RETAIN]
    longest = max(len(example.prompt) + len(example.answer) for example in examples)
    with pytest.raises(ValueError, match=f"method.loss.padded_length=8: a row has {longest} tokens; write at least as many, or"):
        check_rows(loss, examples, prompts())
    check_rows(GradientAscent(retain="kl", kl_span="flat"), examples, prompts())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl_span": "padded"}, "kl_span=padded: write one of paper, text, open_unlearning, tofu, flat, meow, knowundo, muse"),
        ({"kl_span": "flatt"}, "did you mean flat"),
        ({"padded_length": 1}, "padded_length=1: write a whole number from 2"),
        ({"padded_length": 2.5}, "padded_length=2.5: write a whole number from 2"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NPO(**options)


def test_kernels_that_compute_nothing_at_padding_are_refused():
    engine = Engine(tiny_model(), PAD)
    engine.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="model.attn=flash_attention_2: computes nothing at padding"):
        fit_engine(engine, GradientAscent(retain="kl", kl_span="flat"))
    fit_engine(engine, GradientAscent(retain="kl"))


def test_spans_name_every_code():
    assert [name for name, span in SPANS.items() if span is None] == ["paper", "muse"]
    assert GradientAscent(retain="kl", kl_span="tofu").spans == {"retain": Span(500, "eos")}


@pytest.mark.parametrize("span", RELEASED)
def test_a_new_method_has_all_of_them_by_inheriting(span, tmp_path):
    loss, original = Anchored(kl_span=span, padded_length=RELEASED[span][0] or 500), tiny_model()
    model = moved_copy(original)
    drawn = [{"normal": (prompts().example(pair.question, pair.answer),)} for pair in RETAIN]
    found = asked(loss, drawn, model, original, tmp_path).loss
    wanted = released_kl(model, original, [item["normal"][0] for item in drawn], *RELEASED[span])
    assert_same(found, wanted, model)
