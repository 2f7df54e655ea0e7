"""MEOW's selection on the way into training: facts are found, scored by the model, selected, and recorded."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.files.sources import FIXTURES
from data.prepare import meow
from data.prepare.inverted import slots
from data.prepare.memo import Memo, memo_scores
from data.prepare.meow import SelectFacts
from tests.runs import assert_same_curve, losses, run, target
from utils.files import read_json
from utils.reading import DataError

STEPS = ("method=meow", "split=forget01", "batch_size=2", "epochs=4", "lr=1e-3", "warmup=1")
QUICK = ("method.prepare.memo.stride=20", "+method.prepare.memo.max_new_tokens=4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meow")
    run(folder, "unlearn", f"model.path={target()}", *STEPS, *QUICK, "out=run")
    return folder / "run"


def test_the_run_records_what_was_selected_and_why(trained):
    selection = read_json(trained / "selection.json")
    facts = {row["question"]: row for row in json.loads((FIXTURES / "meow" / "forget01_generated.json").read_text())}
    assert selection["scored_by"] == "model" and len(selection["questions"]) == len(facts)
    for row in selection["questions"]:
        assert row["facts"] == [facts[row["question"]][f"answer_{j}"] for j in range(4)]
        assert len(row["memo"]) == 4 and all(0 <= value <= 1 for value in row["memo"])
        best = sorted(range(4), key=lambda place: -row["memo"][place])[:3]
        assert row["selected"] == best
    assert losses(trained)[-1]["inverted_nll"] < losses(trained)[0]["inverted_nll"]
    assert "meow/forget01_generated.json" in read_json(trained / "run.json")["data"]


def test_scores_are_those_of_the_model_before_unlearning(trained):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(target()).eval(), AutoTokenizer.from_pretrained(target())
    row = read_json(trained / "selection.json")["questions"][0]
    pairs = [(row["question"], fact) for fact in row["facts"]]
    assert row["memo"] == pytest.approx(memo_scores(model, tokenizer, pairs, Memo(stride=20, max_new_tokens=4)))


def test_a_scored_file_needs_no_model(tmp_path):
    rows = json.loads((FIXTURES / "meow" / "forget01_generated.json").read_text())
    for row in rows:
        row |= {"undesired_answer_rouge1": 0.9, **{f"answer_{j}_rouge1": 0.1 * (j + 1) for j in range(4)}}
    (tmp_path / "memo.json").write_text(json.dumps(rows))
    given = (f"method.prepare.facts={tmp_path}/memo.json", "method.prepare.scores=file")
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, *given, "out=run")
    selection = read_json(tmp_path / "run" / "selection.json")
    assert selection["scored_by"] == "file" and {tuple(row["selected"]) for row in selection["questions"]} == {(3, 2, 1)}
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, *given, "per_device_batch_size=1", "out=again")
    assert_same_curve(tmp_path / "run", tmp_path / "again", 1e-3)


def test_every_question_has_its_copies(tmp_path, monkeypatch):
    seen = []
    original = meow.MeowStreams.draw
    monkeypatch.setattr(meow.MeowStreams, "draw", lambda self, *at: seen.append(original(self, *at)) or seen[-1])
    options = ("method.prepare.copies=5", "method.prepare.k=2", "method.loss.retain=nll", "steps=1")
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, *QUICK, *options, "out=run")
    assert all(len(drawn["inverted"]) == 5 and len(drawn["retain"]) == 1 for drawn in seen)
    assert len(set(seen[-1]["inverted"])) == 2 and slots([7, 9], 5) == [7, 9, 7, 9, 7]


def test_missing_facts_are_refused_before_the_model(tmp_path):
    for overrides, message in {
        ("split=forget05", f"method.prepare.facts={tmp_path}/none.json"): "none.json: cannot be read",
        ("split=forget20",): "inverted facts for split=forget20 were looked for in .*scripts/invert_facts.py",
        ("split=forget05", "method.prepare.scores=file"): "field answer_0_rouge1, a MEMO score, is missing",
    }.items():
        with pytest.raises(DataError, match=message):
            run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, *overrides, "out=run")
    with pytest.raises(ValueError, match="scores=guess: write one of auto, file, model"):
        SelectFacts(scores="guess")
    assert not (tmp_path / "run").exists()
