"""Statistics of next-token logits, by hand and against their definitions in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import log
from typing import ClassVar

import pytest
import torch
from pytest import approx
from torch import Tensor

from tests.losses.cases import METHODS, method_loss
from tests.models import moved_copy, tiny_model, tokenizer, toy_streams
from tests.naive import NAIVE_STATISTICS, all_logits
from utils.engine.engine import Engine
from utils.engine.loss import Loss, LossOutput, Needs, check_needs
from utils.engine.reference import ResidentReference, hidden_streams, reference_streams
from utils.engine.table import TokenTable
from utils.engine.token_statistics import REFERENCE_LOGP, STATISTICS, Logits, Statistic, compute, statistic

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
}
NAMES = [name for name in NAIVE_STATISTICS if name != REFERENCE_LOGP]
NEED_A_REFERENCE = ("kl", "cross_entropy", "logit_npo", "logit_kl")
CHOICES = ("hit", "argmax")  # steps, not slopes: no gradient


def logits(shift: float = 0.0) -> Logits:
    """Logits of the probabilities above: a constant added to a row changes nothing."""
    return Logits(P.log() + shift, LABELS, Q.log() - shift)


def test_every_statistic_has_a_value_by_hand():
    assert set(BY_HAND) == set(STATISTICS)


@pytest.mark.parametrize("shift", [0.0, 50.0])
@pytest.mark.parametrize("name", STATISTICS)
def test_by_hand(name, shift):
    assert STATISTICS[name](logits(shift)).tolist() == approx(BY_HAND[name], abs=1e-5)


def test_compute_gives_one_column_each_in_the_order_asked():
    found = compute(("hit", "logp", "kl"), logits())
    assert found.shape == (2, 3) and found.dtype == torch.float32
    assert found.T.tolist() == [approx(BY_HAND[name], abs=1e-5) for name in ("hit", "logp", "kl")]


@cache
def every() -> dict[str, Statistic]:
    """The engine's and all losses' own. Not at import: composing every method costs the collection of tests seconds."""
    brought = [one for name in METHODS for asked in method_loss(name).needs.values() for one in asked]
    return {**STATISTICS, **{one.name: one for one in brought if isinstance(one, Statistic)}}


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_over_a_large_vocabulary(name):
    """Against a second definition in float64: what the engine has, and what losses bring."""
    generator = torch.Generator().manual_seed(0)
    values, reference = 3 * torch.randn(2, 6, 5000, generator=generator)
    labels = torch.randint(5000, (6,), generator=generator)
    values.requires_grad_()
    found = every()[name](Logits(values, labels, reference))
    wanted = NAIVE_STATISTICS[name](values.double(), reference.double(), labels)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    if name in CHOICES:
        return
    (gradient,), (exact,) = (torch.autograd.grad(result.sum(), values) for result in (found, wanted))
    torch.testing.assert_close(gradient, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_certainty_is_finite(name):
    """One logit far above all others: probabilities of 1 and 0 to the last bit."""
    values = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    found = every()[name](Logits(values, torch.tensor([2]), torch.zeros(1, 3)))
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


@pytest.mark.parametrize("name", NEED_A_REFERENCE)
def test_what_needs_a_reference_says_so(name):
    with pytest.raises(ValueError, match=f"statistic {name} needs reference logits"):
        every()[name](Logits(P.log(), LABELS))


def test_argmax_keeps_large_token_ids_exact():
    values = torch.zeros(1, 200_001)
    values[0, 200_000] = 1.0
    assert STATISTICS["argmax"](Logits(values, torch.tensor([0]))).int().tolist() == [200_000]


def test_every_statistic_is_described_and_defined_a_second_time():
    """reference_logp comes from the reference itself, everything else from a function."""
    assert {name for name, statistic in every().items() if statistic.needs_reference} == set(NEED_A_REFERENCE)
    told = {name: (statistic.function.__doc__ or "").split("\n")[0] for name, statistic in every().items()}
    assert all(statistic.name == name and len(told[name]) > 20 for name, statistic in every().items())
    assert set(NAIVE_STATISTICS) == {*every(), REFERENCE_LOGP}


@statistic()
def lead(logits: Logits) -> Tensor:
    """How far the answer token's logit lies above the largest of the others."""
    true = logits.labels[:, None]
    others = logits.values.scatter(-1, true, float("-inf")).amax(dim=-1)
    return logits.values.gather(-1, true)[:, 0] - others


@statistic(needs_reference=True)
def reversed_kl(logits: Logits) -> Tensor:
    """KL(model || reference)."""
    ours = logits.log_probabilities
    return (ours.exp() * (ours - logits.reference_log_probabilities)).sum(dim=-1)


@dataclass(frozen=True)
class Lead(Loss):
    """A loss of two statistics that no other has."""

    needs: ClassVar[Needs] = {"forget": (lead, "logp"), "retain": (reversed_kl, "kl", "reference_logp")}

    def __call__(self, forget: TokenTable, retain: TokenTable) -> LossOutput:
        return LossOutput(forget.token_mean("lead") + retain.token_mean("reversed_kl"))


def test_a_loss_brings_statistics_of_its_own():
    """Nothing in utils/ knows them: the engine computes them, the reference is asked for what they need, checks let them pass."""
    loss, pad = Lead(), tokenizer().pad_token_id
    check_needs(loss.needs)
    assert reference_streams(loss.needs) == hidden_streams(loss.needs) == {"retain"}
    original, streams = tiny_model(), toy_streams(loss.needs)
    model, engine = moved_copy(original), None
    engine = Engine(model, pad, chunk_bytes=7 * 4 * len(tokenizer()))
    packed = engine.pack(streams)
    reference = ResidentReference(Engine(original, pad), ("retain",)).values(packed)
    output = loss(**engine.tables(packed, loss.needs, reference)).loss
    gradient = torch.autograd.grad(output, engine.head.weight)[0]
    (z, y), (r, answers) = (all_logits(model, streams[name], pad) for name in ("forget", "retain"))
    with torch.no_grad():
        r0 = all_logits(original, streams["retain"], pad)[0].log_softmax(-1)
    z, y, r, r0 = z[y != -100], y[y != -100], r[answers != -100].log_softmax(-1), r0[answers != -100]
    true = torch.nn.functional.one_hot(y, z.shape[-1]).bool()
    leads = z[true] - z.masked_fill(true, float("-inf")).amax(-1)
    wanted = leads.mean() + (r.exp() * (r - r0)).sum(-1).mean()
    torch.testing.assert_close(output, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, engine.head.weight)[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"forgot": ("logp",)}, "stream=forgot: write one of .*did you mean forget"),
        ({"forget": ("lgp",)}, "statistic=lgp: write one of .*did you mean logp"),
        ({"forget": ("lead",)}, "statistic=lead: write one of"),
        ({"forget": (replace(lead, name="kl"),)}, "statistic=kl: write another name"),
        ({"forget": (lead, replace(reversed_kl, name="lead"))}, "statistic=lead: write another name"),
    ],
)
def test_needs_that_cannot_be_met_are_refused(needs, message):
    with pytest.raises(ValueError, match=message):
        check_needs(needs)
