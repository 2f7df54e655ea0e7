"""The safety benchmark: prompts as released, what is measured is not trained on, outputs get verdicts that are kept."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

import data.files.sources
import utils.judges.judges
from data.benchmarks.safety import Safety, first_answer
from data.files.sources import FIXTURES
from tests.models import tokenizer
from tests.runs import QUICK_EVALUATION, REAL, compose_settings, metrics, run, script, target
from tests.utils.tokens.made_tokenizers import bpe
from utils.files import read_json
from utils.items.rows import QA
from utils.judges.judges import KeywordJudge, Verdict
from utils.reading import DataError
from utils.runs.settings import SettingsError, check_evaluation
from utils.tokens.prompts import Encoder, Template

JUDGES = {"keywords": KeywordJudge("data/fixtures/safety/key_phrases.txt")}
with_real_data = pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED, the folder with the real data")


def safety(root: Path | str = "fixture", **options) -> Safety:
    files = {"train": ["round0/train.jsonl.xz"], "test": ["round0/test.jsonl.xz"]}
    return Safety(
        "safety", "owner/pku", "0123456789", files, "owner/qa", "abcdef0123", str(root), **{"judges": JUDGES, **options}
    )


@pytest.fixture
def copied(tmp_path) -> Path:
    """A data_root of the user's that a test may damage."""
    shutil.copytree(FIXTURES / "safety", tmp_path / "data")
    return tmp_path / "data"


def test_the_prompt_is_that_of_the_released_code_to_the_blank():
    template, length = safety().prompts("unlearn", Template("chat"), 77)
    question, answer = "How?", "Put it there."
    text = template.question_start + question + template.question_end + template.answer_tag + answer
    assert text == "### Question: How?\n ### Answer: Put it there." and length == 77 and not template.eos


@pytest.mark.parametrize("tok", [tokenizer, bpe])
def test_all_of_the_answer_is_supervised_and_nothing_else(tok):
    encoder = Encoder(tok(), safety().prompts("evaluate", Template("plain"), 200)[0], 200)
    example = encoder.example("How?", "Put it there.")
    assert tok().decode(example.answer).strip() == "Put it there."
    shown = tok().decode(example.prompt + example.answer, skip_special_tokens=True)
    assert shown == "### Question: How?\n ### Answer: Put it there."
    assert encoder.generation_prompt("How?") == example.prompt


def test_the_end_of_an_answer_is_learned_and_only_unlearned_on_request():
    chat = Template("chat")
    ends = {name: safety().prompts(name, chat, 9)[0].eos for name in ("finetune", "unlearn", "evaluate")}
    assert ends == {"finetune": True, "unlearn": False, "evaluate": False}
    assert safety(eos=True).prompts("unlearn", chat, 9)[0].eos and not safety(eos=True).prompts("evaluate", chat, 9)[0].eos


def test_splits_and_how_they_join():
    benchmark = safety()
    harmful, normal = benchmark.training("harmful"), benchmark.training("normal")
    assert (len(harmful), len(normal)) == (72, 56) and benchmark.retain_split("harmful") == "normal"
    assert benchmark.training("full") == benchmark.training("harmful+normal") == harmful + normal
    assert safety(harmful_rows=5).training("harmful") == harmful[:5]
    assert safety(harmful_rows="all").training("harmful") == harmful


def test_rows_to_keep_in_three_forms():
    sizes = {form: len(safety(normal_rows=form).training("normal")) for form in ("each", "best", "joined")}
    assert sizes == {"each": 56, "best": 28, "joined": 56}


@pytest.mark.parametrize("split", ["harmful_unseen", "harmful+harmful_unseen"])
def test_unseen_questions_are_never_trained_on(split):
    with pytest.raises(ValueError, match="split=harmful_unseen: write one of harmful, normal, full"):
        safety().training(split)


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="split=harmfull: write one of harmful, normal, full; did you mean harmful"):
        safety().training("harmfull")
    with pytest.raises(ValueError, match="split=full: write harmful"):
        safety().check_forget_split("full")


def test_what_is_asked():
    requests = safety().requests("harmful")
    assert Counter(r.task for r in requests) == {"harmful": 48, "harmful_unseen": 16, "normal": 8, "truthfulqa": 8}
    first = next(r for r in requests if len(r.answers) > 1)
    pairs = [qa for qa in safety().training("harmful") if qa.question == first.question]
    assert first.answers == tuple(("answer", n, text) for n, text in enumerate(dict.fromkeys(qa.answer for qa in pairs)))
    assert first.truth == pairs[0].answer
    assert len(safety(rows=3).requests("harmful")) == 12
    assert safety().oracle_requests(requests) == []


def test_multiple_choice_asks_for_both_sets_and_no_output():
    request = next(r for r in safety().requests("harmful") if r.task == "truthfulqa")
    assert Counter(role for role, _, _ in request.answers) == {"mc1_true": 1, "mc1_false": 3, "mc2_true": 2, "mc2_false": 3}
    assert request.truth is None and len({text for _, _, text in request.answers}) == 5
    assert len([r for r in safety(multiple_choice="all").requests("harmful") if r.task == "truthfulqa"]) == 40


def test_no_question_is_both_trained_on_and_measured_as_unseen():
    benchmark = safety(rows="all")
    trained = {qa.question for qa in benchmark.training("full")}
    asked = {
        task: {r.question for r in benchmark.requests("harmful") if r.task == task} for task in ("harmful", "harmful_unseen")
    }
    assert asked["harmful"] <= trained and not asked["harmful_unseen"] & trained
    measured = {r.question for r in benchmark.requests("harmful") if r.task in ("normal", "truthfulqa")}
    assert len(measured) == 8 and not measured & trained


def test_a_test_file_without_questions_of_its_own_is_refused(copied):
    shutil.copy(copied / "pku_saferlhf/train.jsonl", copied / "pku_saferlhf/test.jsonl")
    with pytest.raises(DataError, match="every harmful question of the test file is in the training file too"):
        safety(copied, judge="none").requests("harmful")
    with pytest.raises(ValueError, match="benchmark.judge=auto: benchmark.judges has no beaver_dam"):
        safety(copied).requests("harmful")


def test_answer_pools():
    clean, released = safety(), safety(pool="sku")
    assert clean.answer_pool("harmful") == released.answer_pool("harmful") and len(clean.answer_pool("harmful")) == 72
    assert sorted(clean.answer_pool("harmful")) == sorted(qa.answer for qa in clean.training("harmful"))
    trained = {qa.question for qa in clean.training("normal")}
    assert (len(clean.answer_pool("normal")), len(released.answer_pool("normal"))) == (28 * 6, 40 * 6 + 8)
    assert len(trained) == 28 and released.answer_pool("normal").count("") == 8 and "" not in clean.answer_pool("normal")
    with pytest.raises(ValueError, match="pool=random: write one of harmful, normal"):
        clean.answer_pool("random")


def test_general_knowledge_is_the_rest_of_the_towns_and_how_to_decline(copied):
    known = safety().general_knowledge()
    assert len(known) == 12 * 2 + 24 and not {qa.question for qa in known} & {qa.question for qa in safety().training("full")}
    assert len(safety(copied).general_knowledge()) == 24
    assert safety().training("harmful")[0] not in known and isinstance(known[0], QA)


@with_real_data
def test_the_real_truthfulqa_beside_the_invented_substance(tmp_path):
    shutil.copytree(FIXTURES / "safety/pku_saferlhf", tmp_path / "pku_saferlhf")
    (tmp_path / "truthfulqa").mkdir()
    for name in ("TruthfulQA.csv", "mc_task.json"):
        (tmp_path / "truthfulqa" / name).symlink_to(REAL / "data/truthfulqa" / name)
    benchmark = safety(tmp_path, rows="all", judge="none")
    counts = Counter(r.task for r in benchmark.requests("harmful"))
    assert (counts["normal"], counts["truthfulqa"]) == (165, 165)
    assert len({qa.question for qa in benchmark.training("normal")}) == 571
    assert len(safety(tmp_path, pool="sku").answer_pool("normal")) == 6735
    assert {name: len(part) for name, part in benchmark.provenance()["truthfulqa"]["split"].items()} == {
        "train": 571,
        "val": 81,
        "test": 165,
    }


def test_the_hub_is_asked_for_pinned_revisions(monkeypatch, copied):
    asked = []

    def download(repo, file, repo_type, revision):
        asked.append((repo, file, repo_type, revision))
        return str(copied / "pku_saferlhf" / f"{Path(file).name.split('.')[0]}.jsonl")

    monkeypatch.setattr(data.files.sources, "hf_hub_download", download)
    assert safety("hub").training("harmful") == safety().training("harmful")
    assert asked == [("owner/pku", "round0/train.jsonl.xz", "dataset", "0123456789")]

    def fail(*_, **__):
        raise OSError

    monkeypatch.setattr(data.files.sources, "hf_hub_download", fail)
    with pytest.raises(DataError) as refusal:
        safety("hub").training("normal")
    assert str(refusal.value) == (
        "data_root=hub: owner/qa/generation/validation-00000-of-00001.parquet at revision abcdef01 cannot be fetched (OSError); "
        "give data_root=DIR with DIR/truthfulqa/TruthfulQA.csv, or data_root=fixture"
    )


def test_missing_and_doubled_files_are_named(copied):
    shutil.copy(copied / "truthfulqa/mc_task.json", copied / "truthfulqa/multiple_choice_validation.jsonl")
    with pytest.raises(
        DataError, match="both mc_task.json and multiple_choice_validation.jsonl exist in .*truthfulqa; remove one"
    ):
        safety(copied, judge="none").requests("harmful")
    (copied / "pku_saferlhf/train.jsonl").unlink()
    with pytest.raises(DataError, match="pku_saferlhf holds neither train.jsonl nor train.jsonl.xz"):
        safety(copied).training("harmful")


OPTIONS = [
    ({"rows": 0}, "benchmark.rows=0: write all, or a whole number from 1"),
    ({"harmful_rows": True}, "benchmark.harmful_rows=True: write all, or a whole number from 1"),
    ({"max_new_tokens": 0}, "benchmark.max_new_tokens=0: write a whole number"),
    ({"normal_rows": "all"}, "benchmark.normal_rows=all: write one of each, best, joined"),
    ({"pool": "x"}, "benchmark.pool=x: write one of paper, sku"),
    ({"multiple_choice": "train"}, "benchmark.multiple_choice=train: write one of test, all"),
    ({"judge": "gpt"}, "benchmark.judge=gpt: write one of auto, none, keywords"),
    ({"bleurt_checkpoint": "x"}, "benchmark.bleurt_checkpoint=x: needs benchmark.base_run"),
]


@pytest.mark.parametrize(("options", "sentence"), OPTIONS)
def test_options_that_are_none_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        safety(**options)


def test_an_answer_ends_where_the_next_question_begins():
    assert first_answer(" Stir it.\n### Question: Why?\n ### Answer: Because.") == "Stir it."
    assert first_answer("### Question:") == "" and first_answer("It is # 3.") == "It is # 3."


def evaluate(folder: Path, *overrides: object, out: str = "eval") -> Path:
    options = ("benchmark=safety", f"model.path={target()}", *QUICK_EVALUATION, *overrides, f"out={out}")
    run(folder, "evaluate", *options)
    return folder / out


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """An evaluation of the small model that compares with itself, and the perplexity of its outputs under itself."""
    folder = tmp_path_factory.mktemp("safety")
    evaluate(folder, out="base")
    return evaluate(folder, "benchmark.base_run=base", f"benchmark.perplexity_model={target()}")


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text(encoding="utf-8").splitlines()]


def test_an_evaluation_from_start_to_end(evaluated):
    found = metrics(evaluated)
    assert {"harmful_rate", "harmful_rate_unseen", "truthfulqa_mc1", "truthfulqa_mc2", "normal_bleu_to_base"} <= set(found)
    assert {
        f"{task}_{part}" for task in ("harmful", "harmful_unseen", "normal") for part in ("prob", "empty", "perplexity")
    } <= set(found)
    assert found["normal_rougeL_to_base"]["value"] == pytest.approx(1) == found["normal_bleu_to_base"]["value"]
    assert all(set(metric) == {"value", "n", "ci95", "definition"} for metric in found.values())
    assert "key phrases of key_phrases.txt" in found["harmful_rate"]["definition"]


def test_rows_say_what_was_added_to_them(evaluated):
    rows = rows_of(evaluated)
    assert Counter(row["task"] for row in rows) == {"harmful": 3, "harmful_unseen": 3, "normal": 3}
    for row in rows:
        assert row["output"] == first_answer(row["generation"]) and row["perplexity_model"] == str(target())
        assert ("harmful" in row) == (row["task"] != "normal") and ("base" in row) == (row["task"] == "normal")


def test_an_evaluation_says_which_data_it_used(evaluated):
    known = read_json(evaluated / "data.json")
    assert known["pku_saferlhf"]["layout"] == "2023" and known["pku_saferlhf"]["test_rows_with_training_questions"] == 3
    assert [len(part) for part in known["truthfulqa"]["split"].values()] == [28, 4, 8]


def test_rescoring_asks_no_judge(evaluated, tmp_path, monkeypatch):
    shutil.copytree(evaluated, tmp_path / "eval")
    before = metrics(tmp_path / "eval")
    monkeypatch.setattr(KeywordJudge, "judge", lambda *_: pytest.fail("the judge was asked"))
    run(tmp_path, "evaluate", "benchmark=safety", *QUICK_EVALUATION, "rescore=true", "out=eval")
    assert metrics(tmp_path / "eval") == before


def test_an_interrupted_evaluation_asks_for_the_missing_verdicts_alone(tmp_path, monkeypatch):
    asked = []

    def judge(self, questions, outputs):
        asked.extend(questions)
        if len(asked) > 6:
            raise KeyboardInterrupt
        return [Verdict(False)] * len(questions)

    monkeypatch.setattr("utils.judges.judgements.CHUNK", 2)
    monkeypatch.setattr(KeywordJudge, "judge", judge)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, "benchmark.rows=4")
    assert len(asked) == 8 and read_json(tmp_path / "eval/run.json")["status"] == "running"
    monkeypatch.setattr(KeywordJudge, "judge", lambda self, q, o: [Verdict(True)] * len(q))
    evaluate(tmp_path, "benchmark.rows=4")
    found = metrics(tmp_path / "eval")
    assert (found["harmful_rate"]["value"], found["harmful_rate_unseen"]["value"]) == (0, 0.5)  # the last two of eight


def test_what_an_evaluation_cannot_use_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.weights.reinforced.load_model", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/generations.jsonl").write_text(
        json.dumps({"task": "normal", "asked_by": "", "index": 0, "question": "Why?", "generation": "So."}) + "\n"
    )
    for option, sentence in (
        ("benchmark.base_run=nowhere", "base_run=nowhere: holds no generations.jsonl; make one with: python evaluate.py"),
        ("benchmark.base_run=other", "base_run=other: has no output to '.*'; evaluate the original model with the same data"),
        ("benchmark.perplexity_model=runs/nowhere", "runs/nowhere does not exist"),
        ("benchmark.judge=endpoint", "judge.url=None, judge.model=None: name both"),
        ("benchmark.judges.keywords.phrases=nowhere.txt", "nowhere.txt: cannot be read"),
    ):
        with pytest.raises(ValueError, match=sentence):
            evaluate(tmp_path, option)
    assert not (tmp_path / "eval").exists()


def test_the_judge_on_real_data_is_not_that_of_the_fixture(copied):
    cfg = compose_settings("evaluate", "benchmark=safety", f"data_root={copied}", f"model.path={target()}")
    questions = check_evaluation(cfg)
    assert isinstance(questions.benchmark._judge(), utils.judges.judges.ClassifierJudge)
    with pytest.raises(SettingsError, match="benchmark=safety: benchmark.judge=x: write one of auto, none, keywords, beaver_dam"):
        check_evaluation(compose_settings("evaluate", "benchmark=safety", "benchmark.judge=x"))


@pytest.mark.slow
def test_a_model_can_be_made_and_unlearned_from(tmp_path):
    small = ("model=tiny", "benchmark=safety", "steps=1", "checkpoint=none", "batch_size=4")
    assert script(tmp_path, "finetune", *small, "split=full", "out=made").code == 0
    finished = script(tmp_path, "unlearn", *small, "method=llmu", "model.path=made", "out=unlearned", "show_prompts=1")
    assert finished.code == 0, finished.err
    assert "### Question: " in finished.out and "### Answer:⟦" in finished.out
