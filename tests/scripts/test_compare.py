"""scripts/compare.py: the numbers follow from both folders' files, and what cannot be paired is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pytest import approx

import utils.report.comparison
from scripts.compare import main
from tests.models import tiny_model, tokenizer
from tests.runs import QUICK_EVALUATION, metrics, run, target
from utils.files import read_json, read_rows, write_json, write_parquet, write_rows
from utils.report.comparison import compare
from utils.report.read import ReportError
from utils.weights.models import save_model


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A folder with the evaluations `a` and `b` of two models against the same oracle."""
    folder = tmp_path_factory.mktemp("compared")
    for seed, name in ((5, "oracle"), (6, "other")):
        model = tiny_model(seed=seed, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        save_model(model, tokenizer(), folder / name, torch.float32)
    common = ("split=forget05", *QUICK_EVALUATION, f"oracle={folder}/oracle", "trust_oracle=true")
    run(folder, "evaluate", f"model.path={target()}", *common, "out=a")
    run(folder, "evaluate", f"model.path={folder}/other", *common, "out=b")
    return folder


@pytest.fixture
def pair(evaluated, tmp_path) -> tuple[Path, Path]:
    """Copies of both that a test may change: run.json does not answer for their files."""
    for name in ("a", "b"):
        shutil.copytree(evaluated / name, tmp_path / name)
        edit(tmp_path / name, lambda known: known.pop("results"))
    return tmp_path / "a", tmp_path / "b"


@pytest.fixture
def no_recomputing(monkeypatch):
    monkeypatch.setattr(utils.report.comparison, "recomputed", lambda *_: pytest.fail("metrics were computed"))


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    """Changes run.json."""
    known = read_json(folder / "run.json")
    change(known)
    write_json(folder / "run.json", known)


def rows_of(folder: Path) -> list[dict]:
    return read_rows(folder / "generations.jsonl")


def probabilities(folder: Path, task: str) -> np.ndarray:
    scores = pd.read_parquet(folder / "scores.parquet")
    own = scores[(scores["task"] == task) & (scores["role"] == "answer")].sort_values("index")
    return np.array([np.exp(np.mean(logp.astype(float))) for logp in own["logp"]])


def test_every_metric_is_compared_and_the_difference_is_that_of_both_files(evaluated):
    found = compare(evaluated / "a", evaluated / "b", resamples=50)
    first, second = metrics(evaluated / "a"), metrics(evaluated / "b")
    assert set(found.differences) == set(first) and not found.skipped and not found.notes
    for name, difference in found.differences.items():
        assert difference.value == approx(second[name]["value"] - first[name]["value"]), name
        assert difference.ci95[0] <= difference.ci95[1] and 2 / 51 <= difference.p <= 1, name


def test_interval_and_p_follow_from_the_saved_scores(evaluated):
    a, b = (probabilities(evaluated / name, "forget") for name in "ab")
    draws = np.random.default_rng(4)
    slow = []
    for _ in range(80):
        chosen = draws.integers(len(a), size=len(a))
        slow.append(b[chosen].mean() - a[chosen].mean())
    found = compare(evaluated / "a", evaluated / "b", ["forget_prob"], resamples=80, seed=4).differences["forget_prob"]
    assert found.ci95 == approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert found.p == approx(min(1, 2 * (1 + min(np.sum(np.array(slow) <= 0), np.sum(np.array(slow) >= 0))) / 81))


def test_a_table_is_printed_and_nothing_is_written(pair, capsys):
    before = {path: path.stat().st_mtime_ns for path in pair[0].parent.rglob("*")}
    main([*map(str, pair), "--resamples", "20"])
    out = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in pair[0].parent.rglob("*")} == before
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert all(set(cell) <= set("-:") and "-" in cell for cell in table[1])
    assert table[0] == ["metric", "A", "B", "B - A", "95 % interval", "p", "n"] and len(table) == 2 + len(metrics(pair[0]))
    row = next(row for row in table if row[0] == "forget_prob")
    assert row[1:3] == [f"{metrics(folder)['forget_prob']['value']:.4g}" for folder in pair] and row[6] == "3"
    assert (
        "Paired bootstrap: each of 20 resamples (seed 0)" in out and "2 (1 + min(#{B - A <= 0}, #{B - A >= 0})) / (1 + 20)" in out
    )


def test_out_gets_the_table_and_all_digits(evaluated, tmp_path, capsys):
    out = tmp_path / "new" / "comparison"
    chosen = ["forget_quality", "retain_prob"]
    main(
        [str(evaluated / "a"), str(evaluated / "b"), "--metrics", *chosen, "--resamples", "20", "--seed", "3", "--out", str(out)]
    )
    assert (out / "comparison.md").read_text() == capsys.readouterr().out
    content, found = read_json(out / "comparison.json"), compare(evaluated / "a", evaluated / "b", chosen, 20, 3)
    assert sorted(path.name for path in out.iterdir()) == ["comparison.json", "comparison.md"]
    assert list(content["metrics"]) == chosen and (content["resamples"], content["seed"]) == (20, 3)
    entry, difference = content["metrics"]["retain_prob"], found.differences["retain_prob"]
    assert (entry["difference"], entry["ci95"], entry["p"]) == (difference.value, list(difference.ci95), difference.p)
    assert entry["a"] == {key: metrics(evaluated / "a")["retain_prob"][key] for key in ("value", "n")}
    assert "true answer" in entry["definition"] and content["b"]["evaluation"] == str(evaluated / "b")


def test_a_training_run_is_compared_by_its_evaluation(pair, tmp_path):
    trained = tmp_path / "trained"
    trained.mkdir()
    settings = {"split": "forget05", "method": {"name": "n|po<b>[x](y)", "loss": {}}}
    write_json(trained / "run.json", {"script": "unlearn", "status": "finished", "settings": settings})
    pair[1].rename(trained / "eval")
    found = compare(pair[0], trained, ["forget_prob"], 10)
    assert found.runs[1].at == trained / "eval" and "- B: n\\|po&lt;b&gt;[x]\\(y) (" in found.to_markdown()


def test_other_metric_options_leave_only_the_same_metrics(evaluated, pair):
    edit(pair[1], lambda known: known["settings"]["benchmark"].update(truth_ratio="arithmetic"))
    edit(pair[1], lambda known: known["settings"]["benchmark"]["metrics"].update(truth_ratio="arithmetic"))
    found = compare(*pair, resamples=10)
    changed = {f"{task}_truth_ratio" for task in ("forget", "retain", "real_authors", "world_facts")} | {"model_utility"}
    assert set(found.skipped) == changed and "defined differently" in found.skipped["model_utility"]
    assert "forget_quality" in found.differences  # always geometric
    assert any("benchmark.truth_ratio geometric, arithmetic" in note for note in found.notes)
    assert any(note.startswith("metrics.json of B has other values") and "forget_truth_ratio" in note for note in found.notes)
    assert "- Not compared: model_utility: it is defined differently" in found.to_markdown()
    with pytest.raises(ReportError, match="--metrics model_utility: it is defined differently"):
        compare(*pair, ["model_utility"], 10)


def test_without_an_oracle_forget_quality_is_not_compared(pair):
    (pair[1] / "oracle.parquet").unlink()
    found = compare(*pair, resamples=10)
    assert found.skipped == dict.fromkeys(["forget_quality", "ks_statistic"], "the settings and files of B do not give it")
    assert "Only metrics.json of B, not its settings in run.json, gives forget_quality, ks_statistic" in found.notes


def test_damaged_scores_are_an_error(evaluated, tmp_path):
    shutil.copytree(evaluated / "b", tmp_path / "b")
    write_rows(tmp_path / "b" / "generations.jsonl", [{**row, "generation": "forgotten"} for row in rows_of(tmp_path / "b")])
    with pytest.raises(ValueError, match="b/generations.jsonl is damaged .other content than was saved.; run the evaluation"):
        compare(evaluated / "a", tmp_path / "b", resamples=10)


def test_another_oracle_is_told(pair):
    table = pd.read_parquet(pair[1] / "oracle.parquet")
    table["logp"] = [values * 2 for values in table["logp"]]
    write_parquet(table, pair[1] / "oracle.parquet")
    assert any("different scores of a retain oracle" in note for note in compare(*pair, ["forget_prob"], 10).notes)


def test_a_task_that_only_one_was_asked_is_told(pair):
    table = pd.read_parquet(pair[1] / "scores.parquet")
    write_parquet(table[table["task"] != "world_facts"], pair[1] / "scores.parquet")
    write_rows(pair[1] / "generations.jsonl", [row for row in rows_of(pair[1]) if row["task"] != "world_facts"])
    found = compare(*pair, resamples=10)
    assert "Only A was asked: world_facts" in found.notes and "world_facts_prob" in found.skipped
    assert "retain_prob" in found.differences


def test_what_a_measure_asked_need_not_agree(pair):
    for number, folder in enumerate(pair):
        leaked = {**rows_of(folder)[0], "asked_by": "leak", "index": number}
        write_rows(folder / "generations.jsonl", [*rows_of(folder), leaked])
    assert compare(*pair, ["forget_prob"], 10).notes == []
    write_rows(pair[1] / "generations.jsonl", rows_of(pair[1])[:-1])
    assert compare(*pair, ["forget_prob"], 10).notes == ["Only A was asked: forget by leak"]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("split", "forget10", "cannot be paired: split is forget05 in one and forget10 in the other; evaluate both"),
        ("compat", "open_unlearning", "cannot be paired: compat is none in one and open_unlearning in the other"),
        ("benchmark", {"name": "knowundo"}, "cannot be paired: benchmark.name is tofu in one and knowundo in the other"),
    ],
)
def test_another_measurement_is_refused(pair, no_recomputing, key, value, sentence):
    edit(pair[1], lambda known: known["settings"].update({key: value}))
    with pytest.raises(ReportError, match=sentence):
        compare(*pair)


def other_question(folder: Path) -> None:
    rows = rows_of(folder)
    rows[0]["question"] = "Who is somebody else?"
    write_rows(folder / "generations.jsonl", rows)


def no_answer(folder: Path) -> None:
    write_rows(folder / "generations.jsonl", rows_of(folder)[1:])


def fewer_rows(folder: Path) -> None:
    table = pd.read_parquet(folder / "scores.parquet")
    write_parquet(table[(table["task"] != "forget") | (table["index"] < 2)], folder / "scores.parquet")


def other_answer(folder: Path) -> None:
    table = pd.read_parquet(folder / "scores.parquet")
    table.loc[(table["task"] == "retain") & (table["role"] == "paraphrased"), "wanted"] = "quite another answer"
    write_parquet(table, folder / "scores.parquet")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            other_question,
            "task forget, row 1: the question is .* in one and 'Who is somebody else\\?' in the other; evaluate both",
        ),
        (no_answer, "task forget, row 1: its answer is only in .*/a; evaluate both"),
        (fewer_rows, "task forget, row 3: answer 0 is only in .*/a; evaluate both"),
        (other_answer, r"task retain, row 1: the answer \(paraphrased\) is .* in one and 'quite another answer' in the other"),
    ],
)
def test_other_questions_are_refused(pair, no_recomputing, change, sentence):
    change(pair[1])
    with pytest.raises(ReportError, match=sentence):
        compare(*pair)


def test_other_tokenizers_may_write_the_answer_in_their_own_way(pair):
    other_answer(pair[1])
    edit(pair[1], lambda known: known["settings"]["model"].update(name="another"))
    found = compare(*pair, ["forget_prob"], 10)
    assert found.notes == ["Evaluated with other settings (A, B): model.name tiny, another"]


def test_what_is_no_pair_of_evaluations_is_refused(pair, tmp_path, no_recomputing):
    a, b = pair
    for second, options, sentence in (
        (a, {}, "are the same evaluation; name two"),
        (b, {"names": ["forget_prop"]}, "--metrics forget_prop: .*/a has no such metric; did you mean forget_prob?"),
        (b, {"resamples": 0}, "--resamples=0: write a whole number from 1"),
        (tmp_path / "nowhere", {}, "nowhere: it has no run.json"),
    ):
        with pytest.raises(ValueError, match=sentence):
            compare(a, second, **options)
    (b / "scores.parquet").unlink()
    with pytest.raises(ReportError, match="b holds no scores.parquet, so nothing is known per question"):
        compare(a, b)
    edit(b, lambda known: known.update(status="running"))
    with pytest.raises(ReportError, match="b: run.json says running, not finished"):
        compare(a, b)


def test_the_script_ends_with_one_sentence(pair, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="--out .*file is a file; name a folder"):
        main([*map(str, pair), "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit, match="are the same evaluation"):
        main([str(pair[0]), str(pair[0]), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_evaluations_of_before_a_setting_existed_are_read(pair):
    for folder in pair:
        edit(folder, lambda known: [known["settings"].pop(key) for key in ("measure", "tokens_per_batch", "show_prompts")])
    assert compare(*pair, ["forget_prob"], 10).differences
