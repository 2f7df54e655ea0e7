"""MUSE's released losses: by hand, and value and gradient against dense logits, where the whole loss is a few lines."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from pytest import approx
from torch import Tensor
from torch.nn import functional as F

from losses.muse_released import MuseReleased, logit_kl, logit_npo
from losses.npo import NPO
from tests.tables import table
from utils.engine.table import TokenTable
from utils.engine.token_statistics import Logits, compute, name_of

FORGET, RETAIN = 2, 3  # passages, of 4 tokens each, over 7 words
TERMS = [("npo", "none"), ("npo", "nll"), ("npo", "kl"), ("ga", "kl")]


def dense_loss(
    z: Tensor, z0: Tensor, labels: Tensor, zr: Tensor, zr0: Tensor, labels_r: Tensor, forget: str, retain: str, beta: float
) -> Tensor:
    """Released code: (B, T, V) logits of model and reference on both batches, (B, T) labels of both."""
    npo = -F.logsigmoid(beta * (z0 - z)).mean() * 2 / beta
    ascent = -F.cross_entropy(z.flatten(0, 1), labels.flatten())
    kept = {
        "none": 0.0,
        "nll": F.cross_entropy(zr.flatten(0, 1), labels_r.flatten()),
        "kl": F.kl_div(zr, zr0, reduction="batchmean", log_target=True),
    }
    return {"npo": npo, "ga": ascent}[forget] + kept[retain]


def made_table(z: Tensor, labels: Tensor, z0: Tensor, beta: float = 0.1) -> TokenTable:
    """What the engine makes of logits: (B, T, V) to a table with every statistic."""
    asked = ("logp", logit_npo(beta), logit_kl)
    columns = compute(asked, Logits(z.flatten(0, 1), labels.flatten(), z0.flatten(0, 1))).unflatten(0, labels.shape)
    return TokenTable.of(
        torch.ones(labels.shape, dtype=torch.bool), dict(zip(map(name_of, asked), columns.unbind(-1), strict=True))
    )


def drawn(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a model, labels, logits of its reference."""
    z, z0 = 2 * torch.randn(2, rows, 4, 7, generator=generator, dtype=torch.float64)
    return z.requires_grad_(), torch.randint(7, (rows, 4), generator=generator), z0


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize(("forget_term", "retain"), TERMS)
def test_value_and_gradient_of_released_code(forget_term, retain, beta):
    generator = torch.Generator().manual_seed(0)
    (z, labels, z0), (zr, labels_r, zr0) = drawn(FORGET, generator), drawn(RETAIN, generator)
    loss = MuseReleased(forget_term, beta, retain)
    streams = {"forget": made_table(z, labels, z0, beta), "retain": made_table(zr, labels_r, zr0)}
    found = loss(**{stream: streams[stream] for stream in loss.needs}).loss
    wanted = dense_loss(z, z0, labels, zr, zr0, labels_r, forget_term, retain, beta)
    assert found.item() == approx(wanted.item(), rel=1e-12)
    for mine, theirs in zip(
        *(torch.autograd.grad(value, (z, zr), materialize_grads=True) for value in (found, wanted)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_by_hand():
    """logit_npo of -0.5 and -0.7: -20 times their mean is 12. Terms of two retain passages sum to 3 and 1: their mean is 2."""
    forget = table([0.5, 0.5], logit_npo=[[-0.5, -0.7]])
    retain = table([0.5, 0.5], [0.5], logit_kl=[[1.0, 2.0], [1.0]])
    output = MuseReleased("npo", retain="kl", retain_weight=0.5)(forget=forget, retain=retain)
    assert output.parts["logit_npo"].item() == approx(12.0)
    assert output.parts["retain_logit_kl"].item() == approx(2.0)
    assert output.loss.item() == approx(13.0)
    ascent = MuseReleased("ga", retain="nll")(forget=forget, retain=retain)
    assert ascent.loss.item() == approx(0.0) and ascent.parts["forget_nll"].item() == approx(log(2))


def test_at_the_reference_every_logit_falls_and_no_probability():
    """-(2 / beta) log(1/2), and the same gradient for every word: softmax does not see it. The paper's NPO has another one."""
    z = torch.randn(1, 4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 1, 2, 3]])
    output = MuseReleased()(forget=made_table(z, labels, z.detach()))
    assert output.loss.item() == approx(20 * log(2))
    (gradient,) = torch.autograd.grad(output.loss, z)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1 / (4 * 7)))
    likely = z.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    papers = NPO()(forget=TokenTable.of(labels >= 0, {"logp": likely, "reference_logp": likely.detach()}))
    assert papers.loss.item() == approx(20 * log(2))
    assert torch.autograd.grad(papers.loss, z)[0].gather(-1, labels[..., None]).min() > 0.1


def test_statistics_by_hand():
    """At logits log p and reference logits log q; a constant added to all logits changes both."""
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.7, 0.2, 0.1]])
    pairs = list(zip(p[0].tolist(), q[0].tolist(), strict=True))
    values = lambda beta, shift=0.0: compute(  # noqa: E731
        (logit_npo(beta), logit_kl), Logits(p.log() + shift, torch.tensor([1]), q.log() - shift)
    )[0].tolist()
    # log sigmoid(b log(q / p)) = log(q^b / (p^b + q^b)), averaged; the KL of logits that happen to be log-probabilities
    for beta in (0.1, 1.0):
        npo = sum(log(q**beta / (p**beta + q**beta)) for p, q in pairs) / 3
        assert values(beta) == approx([npo, sum(q * log(q / p) for p, q in pairs)], abs=1e-6)
        assert all(found != approx(wanted, rel=0.1) for found, wanted in zip(values(beta, 50.0), values(beta), strict=True))
    assert logit_npo(0.1).needs_reference and logit_kl.needs_reference


def test_its_kl_is_no_divergence():
    """It depends on where logits lie, is below 0 for higher ones, and not flat at the reference."""
    z0 = torch.tensor([[[0.0, log(3.0)]]], dtype=torch.float64)
    values = [made_table(z0 + shift, torch.zeros(1, 1, dtype=torch.long), z0)["logit_kl"].item() for shift in (0.0, 1.0, -1.0)]
    assert values == approx([0.0, -4.0, 4.0])  # exp(z0) is 1 and 3
    higher = made_table(z0 + 2, torch.zeros(1, 1, dtype=torch.long), z0 + 1)["logit_kl"].item()
    assert higher == approx(-4 * exp(1.0))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"forget_term": "npo_kl"}, "forget_term=npo_kl: write one of npo, ga"),
        ({"retain": "klr"}, "retain=klr: write one of none, nll, kl; did you mean kl"),
        ({"beta": 0}, "beta=0: write a number above 0"),
        ({"retain_weight": -1}, "retain_weight=-1: write a number from 0"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MuseReleased(**options)
