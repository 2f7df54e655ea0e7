"""FLAT against Vectors A to D of the reference document, and its properties."""

from __future__ import annotations

import math

import pytest
import torch
from pytest import approx

from losses.divergences import SUPPORTED
from losses.flat import Flat
from tests.losses.cases import FORGET, TEMPLATE, rows_of
from tests.tables import table
from utils.engine.table import TokenTable

PAIR = {"template": table(TEMPLATE, [0.2, 0.4]), "forget": table(FORGET, [0.1, 0.3, 0.2])}  # P = (.5, .3) and (.75, .2)
supported = pytest.mark.parametrize("divergence", SUPPORTED)


def flat(divergence, *, template=None, forget=None, **options):
    return Flat(divergence, **options)(template=template or table(TEMPLATE), forget=forget or table(FORGET))


@pytest.mark.parametrize(
    ("divergence", "signs", "expected"),
    [
        ("kl", "paper", 0.278801),
        ("tv", "paper", 0.086516),
        ("js", "paper", 0.224654),
        ("pearson", "paper", 0.390625),
        ("pearson", "flat", 0.390625),
        ("jeffrey", "paper", 0.416992),
        ("reverse_kl", "flat", -0.101279),
        ("reverse_kl", "paper", 0.356531),
        ("hellinger", "flat", 0.121088),
        ("hellinger", "paper", 0.723531),
        ("neyman", "flat", 1.648721),
        ("neyman", "paper", 0.231952),
    ],
)
def test_vector_a(divergence, signs, expected):
    output = flat(divergence, signs=signs)
    assert output.loss.item() == approx(expected, abs=1e-6)
    assert output.parts["template_probability"].item() == approx(0.5)
    assert output.parts["forget_probability"].item() == approx(0.75)


def test_probability_is_the_mean_of_probabilities_not_of_their_logs():
    value = flat("kl").loss.item()
    geometric = [math.exp(sum(map(math.log, p)) / len(p)) for p in (TEMPLATE, FORGET)]
    assert -geometric[0] + math.exp(geometric[1] - 1) == approx(0.317974, abs=1e-6)
    assert value != approx(0.317974, abs=1e-3)


@pytest.mark.parametrize(
    ("divergence", "expected"), [("kl", 0.347761), ("tv", 0.086512), ("js", 0.115614), ("pearson", 0.222656)]
)
def test_vector_b_padded_length_as_denominator(divergence, expected):
    output = flat(divergence, p_norm="flat", padded_length=9)
    assert output.loss.item() == approx(expected, abs=1e-6)
    assert output.parts["template_probability"].item() == approx(0.1875)
    assert output.parts["forget_probability"].item() == approx(0.375)


@pytest.mark.parametrize(
    ("divergence", "per_example", "default", "pooled", "released"),
    [
        ("kl", (0.278801, 0.149329), 0.214065, 0.191555, 0.329454),
        ("tv", (0.086516, -0.046969), 0.019774, 0.031141, 0.045388),
        ("js", (0.224654, -0.033800), 0.095427, 0.085310, 0.055342),
        ("pearson", (0.390625, -0.090000), 0.150313, 0.131406, 0.106406),
    ],
)
def test_vector_c_batch_of_two(divergence, per_example, default, pooled, released):
    alone = [
        flat(divergence, **{stream: TokenTable.of(half.mask, half.statistics) for stream, half in row(i).items()}) for i in (0, 1)
    ]
    assert [output.loss.item() for output in alone] == approx(per_example, abs=1e-6)
    assert flat(divergence, **PAIR).loss.item() == approx(default, abs=1e-6)
    assert flat(divergence, p_batch="flat", **PAIR).loss.item() == approx(pooled, abs=1e-6)
    as_released = flat(divergence, p_norm="flat", p_batch="flat", padded_length=9, **PAIR)
    assert as_released.loss.item() == approx(released, abs=1e-6)
    assert as_released.parts["template_probability"].item() == approx(0.13125)
    assert as_released.parts["forget_probability"].item() == approx(0.225)


@supported
def test_pooled_micro_batches_are_weighted_by_their_share(divergence):
    """Micro-batches of one: pooling is per example then, so the pooled halves add up to the per-example loss."""
    halves = [flat(divergence, p_batch="flat", **row(i)).loss.item() for i in (0, 1)]
    assert sum(halves) == approx(flat(divergence, **PAIR).loss.item(), abs=1e-12)


def test_only_pooling_depends_on_the_micro_batch():
    assert Flat(p_batch="flat").micro_batch_dependent
    assert not Flat(p_norm="flat").micro_batch_dependent


@pytest.mark.parametrize(
    ("divergence", "loss", "d_template", "d_forget"),
    [
        ("kl", 0.563416, (0.162803, -0.184836, 0.022033), (0.135477, -0.067738, -0.067738)),
        ("tv", 0.208371, (0.076715, -0.087097, 0.010382), (0.047672, -0.023836, -0.023836)),
        ("js", 0.354096, (0.071490, -0.081166, 0.009675), (0.115199, -0.057599, -0.057599)),
        ("pearson", 0.697094, (0.162803, -0.184836, 0.022033), (0.233604, -0.116802, -0.116802)),
    ],
)
def test_vector_d_gradient_to_the_logits(divergence, loss, d_template, d_forget):
    template = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    forget = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    output = flat(divergence, template=one_token(template, 1), forget=one_token(forget, 0))
    output.loss.backward()
    assert output.loss.item() == approx(loss, abs=1e-6)
    assert template.grad.tolist() == approx(d_template, abs=1e-6)
    assert forget.grad.tolist() == approx(d_forget, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"p_norm": "flat"}, {"p_batch": "flat"}], ids=str)
@supported
def test_falls_with_every_template_token_and_rises_with_every_forget_token(divergence, options):
    leaves = {stream: whole["logp"].clone().requires_grad_() for stream, whole in PAIR.items()}
    streams = {stream: TokenTable.of(PAIR[stream].mask, {"logp": leaf}) for stream, leaf in leaves.items()}
    flat(divergence, **options, **streams).loss.backward()
    assert (leaves["template"].grad[PAIR["template"].mask] < 0).all()
    assert (leaves["forget"].grad[PAIR["forget"].mask] > 0).all()


@pytest.mark.parametrize("options", [{}, {"p_norm": "flat"}, {"p_batch": "flat"}], ids=str)
def test_swapping_the_answers_flips_the_sign_under_tv(options):
    swapped = flat("tv", template=PAIR["forget"], forget=PAIR["template"], **options)
    assert swapped.loss.item() == -flat("tv", **options, **PAIR).loss.item()


def test_an_impossible_token_gets_no_push():
    """The weight of a token is its own probability: what is forgotten is left alone, unlike under gradient ascent."""
    logits = torch.tensor([-40.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    flat("kl", forget=one_token(logits, 0)).loss.backward()
    assert logits.grad.abs().max().item() < 1e-16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "pearsn"}, "divergence=pearsn: write one of .*did you mean pearson"),
        ({"p_norm": "papers"}, "p_norm=papers: .*did you mean paper"),
        ({"p_batch": "mean"}, "p_batch=mean: write one of paper, flat"),
        ({"signs": "released"}, "signs=released: write one of paper, flat"),
        ({"padded_length": 1}, "padded_length=1: write a whole number from 2"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Flat(**options)


def row(index):
    """Example `index` of the pair, as a micro-batch of that step."""
    return {stream: rows_of(whole, torch.tensor([index])) for stream, whole in PAIR.items()}


def one_token(logits, true):
    """Table of a single token with these logits."""
    return TokenTable.of(torch.ones(1, 1, dtype=torch.bool), {"logp": logits.log_softmax(-1)[true].reshape(1, 1)})
