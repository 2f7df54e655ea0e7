"""Statistics of next-token logits, by hand and against their definitions in float64."""

from __future__ import annotations

from math import log

import pytest
import torch
from pytest import approx
from torch import Tensor

from utils.engine import loss as protocol
from utils.engine.token_statistics import NEEDS_REFERENCE_LOGITS, STATISTICS, Logits, compute

P = torch.tensor([[0.5, 0.25, 0.25], [0.9, 0.1, 1e-9]])
Q = torch.tensor([[0.7, 0.2, 0.1], [0.9, 0.1, 1e-9]])
LABELS = torch.tensor([1, 0])
BY_HAND = {
    "logp": [log(0.25), log(0.9)],
    "hit": [0.0, 1.0],
    "argmax": [0.0, 0.0],
    "entropy": [1.5 * log(2), -0.9 * log(0.9) - 0.1 * log(0.1)],
    # log p is -ln 2 or -2 ln 2, with probability one half each: variance (ln 2 / 2)^2
    "logp_variance": [(log(2) / 2) ** 2, 0.09 * log(9) ** 2],
    "kl": [0.7 * log(0.7 / 0.5) + 0.2 * log(0.2 / 0.25) + 0.1 * log(0.1 / 0.25), 0.0],
    "cross_entropy": [0.7 * log(2) + 0.3 * log(4), -0.9 * log(0.9) - 0.1 * log(0.1)],
    # log sigmoid(0.1 log(q / p)) = log(q^0.1 / (p^0.1 + q^0.1)), averaged; where p = q it is log(1/2)
    "logit_npo": [sum(log(q**0.1 / (p**0.1 + q**0.1)) for p, q in ((0.5, 0.7), (0.25, 0.2), (0.25, 0.1))) / 3, -log(2)],
    # logits that happen to be log-probabilities: the KL above
    "logit_kl": [0.7 * log(0.7 / 0.5) + 0.2 * log(0.2 / 0.25) + 0.1 * log(0.1 / 0.25), 0.0],
}
RAW = ("logit_npo", "logit_kl")  # functions of logits that are no functions of the distribution
CHOICES = ("hit", "argmax")  # steps, not slopes: no gradient


def logits(shift: float = 0.0) -> Logits:
    """Logits of the probabilities above: a constant added to a row changes nothing."""
    return Logits(P.log() + shift, LABELS, Q.log() - shift)


def test_every_statistic_has_a_value_by_hand():
    assert set(BY_HAND) == set(STATISTICS)


@pytest.mark.parametrize("shift", [0.0, 50.0])
@pytest.mark.parametrize("name", STATISTICS)
def test_by_hand(name, shift):
    found = STATISTICS[name](logits(shift)).tolist()
    if shift and name in RAW:
        assert found != approx(BY_HAND[name], rel=0.1)
    else:
        assert found == approx(BY_HAND[name], abs=1e-5)


def test_compute_gives_one_column_each_in_the_order_asked():
    found = compute(("hit", "logp", "kl"), logits())
    assert found.shape == (2, 3) and found.dtype == torch.float32
    assert found.T.tolist() == [approx(BY_HAND[name], abs=1e-5) for name in ("hit", "logp", "kl")]


def slow(name: str, values: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    p, q = values.double().softmax(-1), reference.double().softmax(-1)
    mean = (p * p.log()).sum(-1, keepdim=True)
    return {
        "logp": p.log()[torch.arange(len(labels)), labels],
        "entropy": -mean[:, 0],
        "logp_variance": (p * (p.log() - mean) ** 2).sum(-1),
        "kl": (q * (q.log() - p.log())).sum(-1),
        "cross_entropy": -(q * p.log()).sum(-1),
        "logit_npo": -torch.log1p(((values.double() - reference.double()) * 0.1).exp()).mean(-1),
        "logit_kl": (reference.double().exp() * (reference.double() - values.double())).sum(-1),
    }[name]


@pytest.mark.parametrize("name", [name for name in STATISTICS if name not in CHOICES])
def test_value_and_gradient_over_a_large_vocabulary(name):
    generator = torch.Generator().manual_seed(0)
    values, reference = 3 * torch.randn(2, 6, 5000, generator=generator)
    labels = torch.randint(5000, (6,), generator=generator)
    values.requires_grad_()
    found, wanted = STATISTICS[name](Logits(values, labels, reference)), slow(name, values, labels, reference)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    (gradient,), (exact,) = (torch.autograd.grad(result.sum(), values) for result in (found, wanted))
    torch.testing.assert_close(gradient, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", STATISTICS)
def test_certainty_is_finite(name):
    """One logit far above all others: probabilities of 1 and 0 to the last bit."""
    values = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    found = STATISTICS[name](Logits(values, torch.tensor([2]), torch.zeros(1, 3)))
    assert found.isfinite().all()
    if name not in CHOICES:
        assert torch.autograd.grad(found.sum(), values)[0].isfinite().all()


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_variance_is_never_negative(offset):
    """A uniform distribution has none; a difference of two large squares would leave rounding of either sign."""
    values = torch.full((64, 5000), offset) + torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    found = STATISTICS["logp_variance"](Logits(values, torch.zeros(64, dtype=torch.long)))
    assert (found >= 0).all() and found.max() < 1e-9


def test_kl_of_a_model_with_itself_is_zero_and_flat():
    """The first step from the reference: no divergence, no gradient."""
    values = torch.randn(4, 300, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = STATISTICS["kl"](Logits(values, torch.zeros(4, dtype=torch.long), values.detach().clone()))
    assert found.abs().max() < 1e-6
    assert torch.autograd.grad(found.sum(), values)[0].abs().max() < 1e-6


@pytest.mark.parametrize("name", sorted(NEEDS_REFERENCE_LOGITS))
def test_what_needs_a_reference_says_so(name):
    with pytest.raises(ValueError, match=f"statistic {name} needs reference logits"):
        STATISTICS[name](Logits(P.log(), LABELS))


def test_argmax_keeps_large_token_ids_exact():
    values = torch.zeros(1, 200_001)
    values[0, 200_000] = 1.0
    assert STATISTICS["argmax"](Logits(values, torch.tensor([0]))).int().tolist() == [200_000]


def test_losses_may_ask_for_nothing_that_does_not_exist():
    """reference_logp comes from the reference itself, everything else from here."""
    assert set(protocol.STATISTICS) - {"reference_logp"} <= set(STATISTICS)
    assert set(STATISTICS) >= NEEDS_REFERENCE_LOGITS
