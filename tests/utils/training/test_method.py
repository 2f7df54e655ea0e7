"""A method says what it needs: template answers, a fixed reference, an end; wrong parts are refused by key."""

from __future__ import annotations

import pytest

from losses.nll import NLL
from losses.po import PreferenceOptimisation
from tests.runs import compose_settings, target
from utils.items.rows import QA
from utils.runs.settings import check_training
from utils.training.method import Method, Stop, Templates


def test_templates_are_refusals_or_answers_to_retain_questions(tmp_path):
    (tmp_path / "no.txt").write_text("I do not know.\n\nNobody told me.\n", encoding="utf-8")
    retain = [QA("q", "an answer"), QA("r", "another")]
    assert Templates("refusal", "fixed").answers(str(tmp_path / "no.txt"), retain) == ["I do not know.", "Nobody told me."]
    assert Templates("normal", "fixed").answers("nowhere", retain) == ["an answer", "another"]
    Templates("normal", "fixed").check("nowhere")
    with pytest.raises(ValueError, match="templates=nowhere: there is no such file"):
        Templates("refusal", "fixed").check("nowhere")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Templates("refusals", "fixed"), "method.template=refusals: write one of refusal, normal; did you mean refusal"),
        (lambda: Templates("refusal", "always"), "method.template_policy=always: write one of per_access, fixed"),
        (lambda: Stop("loss", "abc"), "method.stop.above=abc: write a number, or null"),
        (lambda: Stop("loss", True), "method.stop.above=True: write a number"),
        (lambda: Method("x", NLL(), reference_dropout="no"), "method.reference_dropout=no: write true or false"),
    ],
)
def test_parts_that_are_none_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()


def test_only_a_loss_that_reads_template_answers_has_some():
    start = f"model.path={target()}"
    flat, npo = (
        check_training(compose_settings("unlearn", start, f"method={name}"), "unlearn").method for name in ("flat", "npo")
    )
    assert flat.templates == Templates("refusal", "per_access") and flat.template_answers("data/refusals.txt", ())
    assert npo.templates is None and npo.template_answers("nowhere", [QA("q", "a")]) == []
    assert not flat.memorises and Method("memorise", NLL()).memorises
    assert Method("po", PreferenceOptimisation()).stop is None
