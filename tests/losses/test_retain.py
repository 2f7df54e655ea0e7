"""The retain term: a mean over tokens, so that long answers weigh more; absent where it is not asked for."""

from __future__ import annotations

import math

import pytest
import torch
from pytest import approx

from losses.knowundo import AscentPlusDescent
from losses.muse_released import MuseReleased
from losses.npo import NPO
from losses.retain import retain_needs, with_retain
from tests.tables import table

ZERO = torch.tensor(0.0, dtype=torch.float64)
# Three tokens at p = 1/2 and one at 1/8: NLL 6 ln 2 / 4, where the mean over answers would be 2 ln 2;
# KL (3 * 0.1 + 0.5) / 4 = 0.2, where the mean over answers would be 0.3.
RETAIN = table([0.5] * 3, [0.125], kl=[[0.1] * 3, [0.5]])


@pytest.mark.parametrize(("kind", "term"), [("nll", 1.5 * math.log(2)), ("kl", 0.2)])
def test_term_is_the_mean_over_tokens_not_over_answers(kind, term):
    output = with_retain(ZERO + 1, {"forget": ZERO}, kind, 0.5, RETAIN)
    assert output.parts[f"retain_{kind}"].item() == approx(term)
    assert output.loss.item() == approx(1 + 0.5 * term)
    assert set(output.parts) == {"forget", f"retain_{kind}"}


def test_without_a_term_the_stream_is_not_asked_for():
    output = with_retain(ZERO + 1, {"forget": ZERO}, "none", 0.5, None)
    assert output.loss.item() == 1 and set(output.parts) == {"forget"}
    assert retain_needs("none") == {}
    assert retain_needs("kl") == {"retain": ("kl",)}


@pytest.mark.parametrize("loss", [AscentPlusDescent(), MuseReleased(retain="nll"), MuseReleased(retain="kl"), NPO(retain="kl")])
def test_a_term_without_its_stream_is_refused(loss):
    forget = table([0.5], reference=[[0.5]], logit_npo=[[-0.5]])
    with pytest.raises(ValueError, match=f"retain={loss.retain} needs the stream retain"):
        loss(forget=forget)
