"""KnowUnDo's losses against values worked out for its released code, and the counts that make an optimizer step exact."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from pytest import approx

from losses.knowundo import AscentPlusDescent
from losses.nll import NLL
from tests.losses.cases import method_loss
from tests.tables import table
from utils.engine.table import TokenTable
from utils.engine.token_statistics import Logits, cross_entropy, entropy, kl

LABELS = NLL("relabelled", mean="samples")
# Two samples of a vocabulary of three: a forget one of two tokens, a retain one of one token.
FORGET_CE, RETAIN_CE = (0.2395447662218846, 0.5514447139320511), 0.5514447139320511
# Next-token distributions at three positions, the third of them padding.
P, Q = [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], [[0.8, 0.2], [0.5, 0.5], [0.6, 0.4]]


def empty(statistic: str = "logp") -> TokenTable:
    return TokenTable.of(torch.zeros(0, 0, dtype=torch.bool), {statistic: torch.zeros(0, 0, dtype=torch.float64)})


def of_step(part: TokenTable, examples: float) -> TokenTable:
    """A micro-batch of a step that holds `examples` examples of this stream."""
    return TokenTable(part.mask, part.statistics, examples, examples)


def logits(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def forget() -> TokenTable:
    return table([exp(-ce) for ce in FORGET_CE])


def retain() -> TokenTable:
    return table([exp(-RETAIN_CE)])


def test_gradient_ascent_by_hand():
    assert method_loss("gradient_ascent")(forget=forget()).loss.item() == approx(-0.39549474007696783, abs=1e-12)


@pytest.mark.parametrize("name, value", [("ascent_plus_descent", 0.07797498692754162), ("memflex", 0.4723457659166575)])
def test_two_samples_of_one_step(name, value):
    """In one batch, and as two micro-batches of which each holds nothing of the other stream."""
    loss = method_loss(name)
    assert loss(forget=forget(), retain=retain()).loss.item() == approx(value, abs=1e-12)
    first = loss(forget=of_step(forget(), 1), retain=of_step(empty(), 1)).loss
    second = loss(forget=of_step(empty(), 1), retain=of_step(retain(), 1)).loss
    assert first.item() + second.item() == approx(value, abs=1e-12)


def test_a_step_of_one_kind_counts_only_that_kind():
    loss = AscentPlusDescent(forget_weight=0.4, retain_weight=2.0)
    assert loss(forget=forget(), retain=empty()).loss.item() == approx(-0.4 * 0.39549474007696783, abs=1e-12)
    assert loss(forget=empty(), retain=retain()).loss.item() == approx(2.0 * RETAIN_CE, abs=1e-12)


def test_long_answers_weigh_no_more_than_short_ones():
    """Token means are ln 2 and ln 4; over all five tokens the mean would be (ln 2 + 4 ln 4) / 5."""
    found = AscentPlusDescent(retain="none")(forget=table([0.5], [0.25] * 4))
    assert found.loss.item() == approx(-(log(2) + log(4)) / 2)
    assert LABELS(relabelled=table([0.5], [0.25] * 4)).loss.item() == approx((log(2) + log(4)) / 2)


def test_kl_term_by_hand():
    """The released term is H(P, Q); it adds 1e-12 to Q, which moves the value by less than 1e-11."""
    three = Logits(logits(Q), torch.zeros(3, dtype=torch.long), logits(P))
    cross = cross_entropy(three).tolist()
    assert cross == approx([0.36177298742457376, 0.6931471805579453, 0.8351977102501889], abs=1e-11)
    assert entropy(Logits(logits(P), three.labels)).mean().item() == approx(0.5062108591631937)
    ones = [1.0] * 3
    released = method_loss("ascent_plus_kl_divergence")
    found = released(forget=empty(), retain=table(ones, cross_entropy=[cross]))
    assert found.loss.item() == approx(0.630039292744236, abs=1e-11)
    assert found.parts["retain_cross_entropy"].item() == approx(0.630039292744236, abs=1e-11)
    without_padding = released(forget=empty(), retain=table(ones[:2], cross_entropy=[cross[:2]]))
    assert without_padding.loss.item() == approx(0.5274600839912595, abs=1e-11)
    true_kl = AscentPlusDescent(retain="kl")(forget=empty(), retain=table(ones, kl=[kl(three).tolist()]))
    assert true_kl.loss.item() == approx(0.1238284335830283, abs=1e-11)
    assert true_kl.parts["retain_kl"].item() == true_kl.loss.item()


def test_methods_have_the_published_form():
    assert method_loss("gradient_ascent") == AscentPlusDescent(retain="none")
    assert method_loss("ascent_plus_descent") == AscentPlusDescent(1.0, 1.0, "nll", "knowundo")
    assert method_loss("ascent_plus_kl_divergence") == AscentPlusDescent(1.0, 1.0, "kl", "knowundo", kl_span="knowundo")
    assert method_loss("memflex") == AscentPlusDescent(0.4, 2.0, "nll", "knowundo")
    assert method_loss("random_label") == method_loss("adversarial") == LABELS
    assert AscentPlusDescent(retain="kl").needs == {"forget": ("logp",), "retain": ("kl",)}
    assert AscentPlusDescent(retain="none").needs == {"forget": ("logp",)}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"retain": "ce"}, "retain=ce: write one of none, nll, kl"),
        ({"retain_divergence": "js"}, "retain_divergence=js: write one of paper, knowundo"),
        ({"kl_span": "whole"}, "kl_span=whole: write one of paper, text"),
        ({"kl_span": "knowundo"}, "kl_span=knowundo: write paper; only retain=kl looks beyond the answer"),
        ({"forget_weight": -0.4}, "forget_weight=-0.4: write"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AscentPlusDescent(**options)
