"""Wrong options are refused in one sentence that names the key, the value and what would be right."""

from __future__ import annotations

import pytest

from losses.dpo import DPO
from losses.ga import GradientAscent
from losses.llmu import LLMU
from losses.npo import NPO
from losses.po import PreferenceOptimisation
from losses.simnpo import SimNPO
from tests.tables import table
from utils.checks import choose, did_you_mean, did_you_mean_or_all, nearest, several, share, whole_or


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (GradientAscent, {"retain": "KLL"}, "retain=KLL: write one of none, nll, kl; did you mean kl"),
        (GradientAscent, {"retain_weight": -1.0}, "retain_weight=-1.0: write a number from 0"),
        (GradientAscent, {"forget_weight": float("nan")}, "forget_weight=nan: write"),
        (PreferenceOptimisation, {"weighting": "tofus"}, "weighting=tofus: .*did you mean tofu"),
        (DPO, {"beta": 0}, "beta=0: write a number above 0"),
        (DPO, {"factor": "2/beta"}, "factor=2/beta: write one of two_over_beta, one"),
        (DPO, {"reference_free": "no"}, "reference_free=no: write true or false"),
        (DPO, {"length_normalised": "false"}, "length_normalised=false: write true or false"),
        (NPO, {"beta": "0.1x"}, "beta=0.1x: write a number above 0"),
        (NPO, {"retain": "gd"}, "retain=gd: write one of none, nll, kl"),
        (SimNPO, {"delta": -0.5}, "delta=-0.5: write"),
        (LLMU, {"template_weight": True}, "template_weight=True: write"),
    ],
)
def test_refused(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(**options)


def test_nearest_names_are_found_whatever_the_case():
    with pytest.raises(ValueError) as refusal:
        choose("divergence", "Pearson", ("kl", "pearson"))
    assert str(refusal.value) == "divergence=Pearson: write one of kl, pearson; did you mean pearson?"


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: choose("split", "all", ["forget"]), "split=all: write forget"),
        (lambda: several("tasks", "a", "abc"), "tasks=a: write a list out of a, b, c, each at most once"),
        (lambda: several("tasks", [], "abc"), "tasks=[]: write a list out of a, b, c, each at most once"),
        (lambda: several("tasks", ["a", "a"], "abc"), "tasks=['a', 'a']: write a list out of a, b, c, each at most once"),
        (lambda: several("tasks", None, "abc"), "tasks=None: write a list out of a, b, c, each at most once"),
        (
            lambda: several("tasks", ["piqq"], ["piqa", "rte"]),
            "tasks=['piqq']: write a list out of piqa, rte, each at most once; did you mean piqa?",
        ),
        (lambda: whole_or("rows", 0, "all"), "rows=0: write all, or a whole number from 1"),
        (lambda: whole_or("rows", True, None, 3, "rows"), "rows=True: write null, or a whole number from 3 (rows)"),
        (lambda: whole_or("rows", None, "all"), "rows=None: write all, or a whole number from 1"),
        (lambda: share("k", 0), "k=0: write a number above 0 and up to 1"),
        (lambda: share("k", 1.5, "MUSE: 0.4"), "k=1.5: write a number above 0 and up to 1 (MUSE: 0.4)"),
    ],
)
def test_refused_in_these_words(check, message):
    with pytest.raises(ValueError) as refusal:
        check()
    assert str(refusal.value) == message


def test_not_refused():
    several("tasks", ("b", "a"), "abc")
    whole_or("rows", "all", "all")
    whole_or("rows", None, None)
    whole_or("rows", 3, "all", 3)
    share("k", 1)


def test_nearest_names_by_the_whole_or_by_the_last_part():
    valid = ["lr", "method.loss.beta", "model.lr.unlearn", "batch_size"]
    assert nearest("bacth_size", valid) == ["batch_size"]
    assert nearest("Beta", valid) == nearest("loss.beta", valid) == ["method.loss.beta"]
    assert nearest("zzz", valid) == []
    assert did_you_mean_or_all("bta", ["eta", "beta", "gamma"]) == "; did you mean beta or eta?"
    assert did_you_mean_or_all("zzz", ["eta", "beta"]) == "; there are eta, beta" and did_you_mean("zzz", ["eta"]) == ""


def test_a_retain_term_without_its_stream_is_refused():
    with pytest.raises(ValueError, match="retain=nll needs the stream retain"):
        GradientAscent(retain="nll")(forget=table([0.5]))
