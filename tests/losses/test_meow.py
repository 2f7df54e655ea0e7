"""MEOW's loss and the two baselines of its trainer, by hand."""

from __future__ import annotations

from math import log

import pytest
import torch
from pytest import approx

from losses.ga import GradientAscent
from losses.kto import KTO
from losses.meow import MEOW
from tests.tables import table
from utils.engine.table import TokenTable


def from_nll(*rows: list[float]) -> TokenTable:
    width = max(map(len, rows))
    mask = torch.tensor([[place < len(row) for place in range(width)] for row in rows])
    logp = torch.tensor([[-value for value in row] + [0.0] * (width - len(row)) for row in rows], dtype=torch.float64)
    return TokenTable.of(mask, {"logp": logp, "kl": logp * -0.1})


def test_long_answers_weigh_more():
    """Two sequences: 3.9 nats over 5 tokens, not the mean of the sequence means 0.825."""
    inverted = from_nll([0.5, 1.0, 0.3], [2.0, 0.1])
    assert MEOW()(inverted=inverted).loss.item() == approx(0.78)


def test_released_variants():
    inverted, retain = from_nll([0.5, 1.0, 0.3], [2.0, 0.1]), from_nll([0.2])
    balanced = MEOW(weight=0.9, retain="nll", retain_weight=0.1)
    assert balanced(inverted=inverted, retain=retain).loss.item() == approx(0.722)
    anchored = MEOW(kl_weight=1.0)
    assert anchored.needs == {"inverted": ("logp", "kl")}
    assert anchored(inverted=inverted).loss.item() == approx(0.78 + 0.078)


def test_gradient_ascent_with_a_kl_on_the_forget_answers():
    forget = from_nll([0.5, 1.0, 0.3])
    assert GradientAscent(forget_kl_weight=1.0)(forget=forget).loss.item() == approx(-0.6 + 0.06)
    assert GradientAscent().needs == {"forget": ("logp",)}


def test_kto_by_hand():
    # r_f = ln 0.5 - ln 0.25 = ln 2; r_e = ln 0.8 - ln 0.4 = ln 2; beta 1: z = ln 2
    forget, template = table([0.5], reference=[[0.25]]), table([0.8], reference=[[0.4]])
    pulled = KTO(beta=1.0)(forget=forget, template=template)
    assert pulled.loss.item() == approx((1 - 0.5) + (1 - 0.5))
    free = KTO(beta=1.0, reference_point="zero")(forget=forget, template=template)
    assert free.parts["forget_loss"].item() == approx(1 - 1 / (1 + 2))  # sigmoid(-ln 2) = 1/3
    assert free.parts["template_loss"].item() == approx(1 - 2 / 3)
    assert log(2) > 0 and KTO().micro_batch_dependent and not KTO(reference_point="zero").micro_batch_dependent


def test_the_reference_point_of_kto_is_never_below_zero_and_has_no_gradient():
    template = table([0.2], reference=[[0.4]])
    leaf = template["logp"].clone().requires_grad_()
    moved = TokenTable(template.mask, {**template.statistics, "logp": leaf}, 1.0, 1.0)
    forget = table([0.5], reference=[[0.5]])
    out = KTO(beta=1.0, template_weight=0.0)(forget=forget, template=moved)
    assert out.loss.item() == approx(0.5)
    assert out.loss.requires_grad is False or torch.autograd.grad(out.loss, leaf)[0].abs().sum() == 0


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"kl_weight": "x"}, {"retain": "yes"}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MEOW(**options)
