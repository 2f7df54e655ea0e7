"""A method says what it needs: template answers, a fixed reference, an end; wrong parts are refused by key."""

from __future__ import annotations

import pytest

from losses.nll import NLL
from losses.po import PreferenceOptimisation
from tests.runs import compose_settings, target
from utils.items.rows import QA
from utils.runs.settings import SettingsError, check_training
from utils.training.method import Method, Stop, Templates


def checked(*overrides: str) -> Method:
    return check_training(compose_settings("unlearn", f"model.path={target()}", *overrides), "unlearn").method


def test_templates_are_refusals_or_answers_to_retain_questions(tmp_path):
    (tmp_path / "no.txt").write_text("I do not know.\n\nNobody told me.\n", encoding="utf-8")
    retain = [QA("q", "an answer"), QA("r", "another")]
    assert Templates("refusal", "fixed").answers(str(tmp_path / "no.txt"), retain) == ["I do not know.", "Nobody told me."]
    assert Templates("normal", "fixed").answers("nowhere", retain) == ["an answer", "another"]
    Templates("normal", "fixed").check("nowhere")
    with pytest.raises(ValueError, match="refusals=nowhere: write the name of a text file that exists"):
        Templates("refusal", "fixed").check("nowhere")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Templates("refusals", "fixed"), "kind=refusals: write one of refusal, normal; did you mean refusal"),
        (lambda: Templates("refusal", "always"), "policy=always: write one of per_access, fixed"),
        (lambda: Stop("loss", "abc"), "above=abc: write a number, or null"),
        (lambda: Stop("loss", True), "above=True: write a number"),
        (lambda: Method("x", NLL(), reference_dropout="no"), "method.reference_dropout=no: write true or false"),
        (lambda: Method("x", NLL(), stop=Stop("train", 1)), "method.stop.part=train: write one of loss, train_nll"),
        (lambda: Method("x", PreferenceOptimisation()), "method.templates=null: the loss reads template answers; write {kind: "),
        (lambda: Method("x", NLL(), templates=Templates("refusal", "fixed")), "method.templates: the loss reads no template an"),
    ],
)
def test_parts_that_are_none_or_do_not_fit_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()


def test_only_a_loss_that_reads_template_answers_has_some():
    flat, npo = checked("method=flat"), checked("method=npo")
    assert flat.templates == Templates("refusal", "per_access") and flat.template_answers("data/refusals.txt", ())
    assert npo.templates is None and npo.template_answers("nowhere", [QA("q", "a")]) == []
    assert not flat.memorises and Method("memorise", NLL()).memorises


def test_parts_are_made_from_the_config_and_unknown_ones_are_refused():
    assert checked("method=llmu_published", "benchmark=safety").stop == Stop("forget_nll", None)
    assert checked("method=ga", "+method.stop={part: forget_nll, above: 2}").stop == Stop("forget_nll", 2)
    with pytest.raises(SettingsError, match="method.stop: Stop.__init__.. missing 1 required positional argument: 'above'"):
        checked("method=ga", "+method.stop={part: forget_nll}")
    with pytest.raises(SettingsError, match="method=ga: Method.__init__.. got an unexpected keyword argument 'stopp'"):
        checked("method=ga", "+method.stopp={_target_: utils.training.method.Stop, part: forget_nll, above: 2}")
    with pytest.raises(SettingsError, match="method=ga: method.stop.part=bad: write one of loss, forget_nll"):
        checked("method=ga", "+method.stop={part: bad, above: 1}")
