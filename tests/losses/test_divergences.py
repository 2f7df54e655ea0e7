"""Divergence pairs against the tables of the FLAT reference: values, weights, direction, released forms."""

from __future__ import annotations

import pytest
import torch
from pytest import approx

from losses.divergences import DIVERGENCES, RELEASED, SUPPORTED, divergence
from tests.losses.cases import FORGET, TEMPLATE

P_E, P_F = sum(TEMPLATE) / 3, sum(FORGET) / 4  # 0.5 and 0.75


def value(name, p_e, p_f, signs="paper"):
    """-g*(p_e) + f*(g*(p_f)), as tensors so that it can be differentiated."""
    chosen = divergence(name, signs)
    p_e, p_f = (torch.as_tensor(p, dtype=torch.float64) for p in (p_e, p_f))
    return chosen.forget_term(p_f) - chosen.template_term(p_e)


def weights(name, p_e, p_f, signs="paper"):
    """The two partial derivatives: what multiplies the gradients of P_e and P_f."""
    point = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in (p_e, p_f)]
    return [gradient.item() for gradient in torch.autograd.grad(value(name, *point, signs), point)]


@pytest.mark.parametrize(
    ("name", "template_term", "forget_term", "loss", "d_template", "d_forget"),
    [
        ("kl", -0.500000, 0.778801, 0.278801, -1.000000, 0.778801),
        ("tv", -0.231059, 0.317574, 0.086516, -0.393224, 0.298293),
        ("js", -0.219070, 0.443724, 0.224654, -0.377541, 0.679179),
        ("pearson", -0.500000, 0.890625, 0.390625, -1.000000, 1.375000),
        ("jeffrey", -0.500000, 0.916992, 0.416992, -1.000000, 1.480469),
    ],
)
def test_vector_a(name, template_term, forget_term, loss, d_template, d_forget):
    chosen = divergence(name)
    p_e, p_f = torch.tensor(P_E, dtype=torch.float64), torch.tensor(P_F, dtype=torch.float64)
    assert -chosen.template_term(p_e).item() == approx(template_term, abs=1e-6)
    assert chosen.forget_term(p_f).item() == approx(forget_term, abs=1e-6)
    assert value(name, P_E, P_F).item() == approx(loss, abs=1e-6)
    assert weights(name, P_E, P_F) == approx([d_template, d_forget], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "released", "corrected"),
    [
        ("reverse_kl", -0.101279, 0.356531),
        ("hellinger", 0.121088, 0.723531),
        ("neyman", 1.648721, 0.231952),
    ],
)
def test_vector_a_released_and_corrected(name, released, corrected):
    assert value(name, P_E, P_F, "flat").item() == approx(released, abs=1e-6)
    assert value(name, P_E, P_F).item() == approx(corrected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "corners"),
    [
        ("kl", [-0.632121, 0.367879, 1.000000, 0.000000]),
        ("tv", [-0.380797, 0.0, 0.380797, 0.0]),
        ("js", [-0.379885, 0.0, 0.620115, 0.240229]),
        ("pearson", [-1.0, 0.0, 1.25, 0.25]),
    ],
)
def test_corners_best_untouched_worst_both(name, corners):
    values = value(name, [1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0])
    assert values.tolist() == approx(corners, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "at_zero", "at_one"),
    [("kl", 0.367879, 1.0), ("tv", 0.5, 0.209987), ("js", 0.5, 0.731059), ("pearson", 1.0, 1.5)],
)
def test_range_of_the_forget_weight(name, at_zero, at_one):
    assert weights(name, 0.5, 0.0)[1] == approx(at_zero, abs=1e-6)
    assert weights(name, 0.5, 1.0)[1] == approx(at_one, abs=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_falls_with_the_template_and_rises_with_the_forget_probability(name):
    p = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert (value(name, p, 0.3).diff() < 0).all()
    assert (value(name, 0.3, p).diff() > 0).all()


@pytest.mark.parametrize(
    ("name", "template_sign", "forget_sign"), [("reverse_kl", 1, -1), ("hellinger", 1, -1), ("neyman", 1, 1)]
)
def test_released_forms_have_the_wrong_signs(name, template_sign, forget_sign):
    d_template, d_forget = weights(name, 0.4, 0.6, "flat")
    assert d_template * template_sign > 0 and d_forget * forget_sign > 0


def test_released_differs_for_exactly_three_divergences():
    differ = {name for name in DIVERGENCES if value(name, 0.4, 0.6) != value(name, 0.4, 0.6, "flat")}
    assert differ == set(RELEASED) == {"reverse_kl", "hellinger", "neyman"}
    assert not differ & set(SUPPORTED)


@pytest.mark.parametrize(
    ("name", "conjugate"),
    [
        ("kl", lambda t: torch.exp(t - 1)),
        ("tv", lambda t: t),
        ("js", lambda t: -torch.log(2 - torch.exp(t))),
        ("pearson", lambda t: t**2 / 4 + t),
        ("reverse_kl", lambda t: -1 - torch.log(-t)),
        ("hellinger", lambda t: t / (1 - t)),
        ("neyman", lambda t: 2 - 2 * torch.sqrt(1 - t)),
    ],
)
def test_forget_term_is_the_conjugate_of_the_template_term(name, conjugate):
    p = torch.linspace(0, 1, 11, dtype=torch.float64)
    chosen = divergence(name)
    assert chosen.forget_term(p).tolist() == approx(conjugate(chosen.template_term(p)).tolist(), abs=1e-12)


def test_unknown_name_is_a_key_error():
    with pytest.raises(KeyError):
        divergence("wasserstein")
