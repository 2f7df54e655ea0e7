"""The baselines against the check values of the reference document, computed through their YAML files."""

from __future__ import annotations

import math

import pytest
import torch
from pytest import approx

from losses.dpo import DPO
from losses.npo import NPO
from losses.po import PreferenceOptimisation
from losses.simnpo import SimNPO
from tests.losses.cases import FORGET, hand_streams, method_loss, pick
from tests.tables import table
from utils.engine.table import TokenTable

# Cross-entropies 0.299001 (forget), 0.789041 (template, train), 0.4 (retain); KL to the reference on retain 0.038335.
CHECK_VALUES = [
    ("memorise", (), 0.789041),
    ("ga", (), -0.299001),
    ("graddiff", (), 0.100999),
    ("kl", (), -0.260667),
    ("po", (), 0.566732),
    ("mismatch", (), 0.566732),
    ("po", ("method.loss.weighting=paper",), 1.189041),
    ("llmu", (), 0.677875),
    ("npo", (), 13.219936),
    ("npo_rt", (), 13.619936),
    ("npo_kl", (), 13.219936 + 0.038335),
    ("dpo", (), 12.316940),
    ("dpo_gd", (), 12.316940 + 0.4),
    ("dpo_kl", (), 12.316940 + 0.038335),
    ("dpo", ("method.loss.factor=one",), 0.615847),
    ("dpo", ("method.loss.reference_free=true",), 15.068331),
    ("dpo", ("method.loss.reference_free=true", "method.loss.length_normalised=true"), 14.358987),
]


@pytest.mark.parametrize(("name", "overrides", "expected"), CHECK_VALUES, ids=lambda value: str(value))
def test_check_value(name, overrides, expected):
    loss = method_loss(name, *overrides)
    assert loss(**pick(hand_streams(), loss)).loss.item() == approx(expected, abs=1.5e-6)


def test_parts_are_the_cross_entropies():
    loss = method_loss("llmu")
    parts = {name: value.item() for name, value in loss(**pick(hand_streams(), loss)).parts.items()}
    assert parts == approx({"forget_nll": 0.299001, "template_nll": 0.789041, "retain_kl": 0.038335}, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("ga", ("method.loss.forget_weight=2",), -2 * 0.299001),
        ("graddiff", ("method.loss.retain_weight=3",), -0.299001 + 3 * 0.4),
        ("npo_rt", ("method.loss.retain_weight=0.5",), 13.219936 + 0.5 * 0.4),
        ("dpo_gd", ("method.loss.retain_weight=0.5",), 12.316940 + 0.5 * 0.4),
        ("llmu", ("method.loss.template_weight=2",), 0.677875 + 0.789041),
    ],
)
def test_weights_scale_their_term(name, overrides, expected):
    loss = method_loss(name, *overrides)
    assert loss(**pick(hand_streams(), loss)).loss.item() == approx(expected, abs=3e-6)


def test_po_weighs_by_tokens_or_by_sides():
    """Template: 1 token of NLL ln 4. Retain: 3 tokens of NLL ln 2. By tokens (ln 4 + 3 ln 2) / 4, by sides ln 4 + ln 2."""
    streams = {"template": table([0.25]), "retain": table([0.5] * 3)}
    assert PreferenceOptimisation(weighting="tofu")(**streams).loss.item() == approx(5 / 4 * math.log(2))
    assert PreferenceOptimisation()(**streams).loss.item() == approx(3 * math.log(2))


def test_simnpo_by_hand():
    """NLL per token (ln 2 + ln 4) / 2 = 1.039721; -(2 / 2) ln sigmoid(2 (1.039721 - 0.5)) = ln(1 + e^-1.079442)."""
    output = SimNPO(beta=2.0, delta=0.5, forget_weight=0.1, retain_weight=2.0)(forget=table([0.5, 0.25]), retain=table([0.5]))
    assert output.parts["simnpo"].item() == approx(0.292509, abs=1e-6)
    assert output.loss.item() == approx(0.1 * 0.292509 + 2 * math.log(2), abs=1e-6)


def test_npo_at_the_reference_is_gradient_ascent_on_the_sequence():
    """theta = ref: value (2 / beta) ln 2, and each token's log-probability is pushed down with weight 1."""
    logp = torch.tensor([FORGET], dtype=torch.float64).log().requires_grad_()
    forget = TokenTable.of(torch.ones(1, 4, dtype=torch.bool), {"logp": logp, "reference_logp": logp.detach()})
    loss = NPO(beta=0.1)(forget=forget).loss
    loss.backward()
    assert loss.item() == approx(20 * math.log(2))
    assert logp.grad.tolist() == [approx([1.0] * 4)]


def test_dpo_depends_on_the_gap_alone():
    """log p(y_e) - log p(y_f) = ln 2 with beta 1 and no reference: 2 ln(1 + 1/2)."""
    dpo = DPO(beta=1.0, reference_free=True)
    output = dpo(forget=table([0.25]), template=table([0.5]))
    assert output.loss.item() == approx(2 * math.log(1.5))
    assert output.parts["gap"].item() == approx(math.log(2))
    assert dpo(forget=table([0.5, 0.25]), template=table([0.5, 0.5])).loss.item() == approx(2 * math.log(1.5))


@pytest.mark.parametrize(
    ("name", "streams"),
    [
        ("npo", {"forget": ("logp", "reference_logp")}),
        ("npo_kl", {"forget": ("logp", "reference_logp"), "retain": ("kl",)}),
        ("simnpo", {"forget": ("logp",), "retain": ("logp",)}),
        ("flat", {"forget": ("logp",), "template": ("logp",)}),
        ("ga", {"forget": ("logp",)}),
    ],
)
def test_needs_follow_the_switches(name, streams):
    assert dict(method_loss(name).needs) == streams


def test_dpo_without_reference_asks_for_none():
    assert all(statistics == ("logp",) for statistics in DPO(reference_free=True).needs.values())
