"""The report of a set of runs: what counts, in which order, what is best, and table.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.report import main
from tests.utils.report import fake_runs as fake
from utils.files import read_rows, write_rows
from utils.report.columns import read_display
from utils.report.page import page
from utils.report.read import ReportError, read_report
from utils.report.table import best_cells, markdown_table

TOFU = read_display("tofu").columns


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return fake.write_runs(tmp_path / "runs")


def table_rows(markdown: str) -> list[list[str]]:
    """Cells of the rows of the table, split at bars that are not escaped."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def cell(markdown: str, label: str, column: str) -> str:
    rows = table_rows(markdown)
    place = [header.split()[0] for header in rows[0]].index(column)
    return next(row[place] for row in rows if row[0] == label)


def test_target_then_oracle_then_methods_in_natural_order(runs):
    report = read_report(runs)
    assert [run.folder.name for run in report.runs] == ["full", "retain90", "flat", "npo2", "npo10"]
    assert [run.role for run in report.runs] == ["target", "oracle", "method", "method", "method"]
    labels = [run.label for run in report.runs]
    assert labels == ["target (full)", "retain oracle (retain90)", "flat (tv)", "npo · npo2", "npo · npo10"]


@pytest.mark.parametrize(
    "split, role",
    [
        ("full", "target"),
        ("retain90", "oracle"),
        ("retain90+forget10", "target"),
        ("full+real_authors", "target"),
        ("retain95+world_facts", "oracle"),
    ],
)
def test_role_of_a_finetuned_run(tmp_path, split, role):
    fake.write_run(tmp_path / "a", "finetune", split, "memorise", None, {"model_utility": 0.5})
    assert read_report(tmp_path).runs[0].role == role


def add(runs: Path, name: str, role: str | None, **settings: object) -> None:
    """An evaluation by itself whose numbers are better than any other's."""
    fake.write_json(runs / name / "run.json", fake.capsule("evaluate", {"split": "forget10", **settings}, role=role))
    found = {"forget_quality": fake.metric(1.0), "model_utility": fake.metric(0.99)}
    fake.write_json(runs / name / "metrics.json", found)


def test_only_methods_compete_whatever_else_stands_beside_them(runs):
    """A relearned model is no target, the log of an oracle and a probe are no methods, though they have the best numbers."""
    fake.write_run(runs / "again", "finetune", "forget10", "memorise", None, {"model_utility": 0.98})
    capsule = json.loads((runs / "again" / "run.json").read_text())
    fake.write_json(runs / "again" / "run.json", capsule | {"role": "relearned"})
    add(runs, "log", "log", from_logs="eval_log.json", model={"name": "other", "path": None})
    add(runs, "base", "untouched")
    probe = {"_target_": "data.probes.Paraphrase"}
    add(runs, "asked", "method", probe=probe, model={"name": "tiny", "path": str(runs / "flat")})
    report = read_report(runs)
    found = {run.folder.name: (run.role, run.label) for run in report.runs}
    assert found["again"] == ("relearned", "relearned (forget10)") and found["log"] == ("log", "log")
    assert found["asked"] == ("probe", "flat (tv), paraphrase") and found["base"][0] == "untouched"
    assert [run.role for run in report.runs] == ["untouched", "target", "oracle", *["method"] * 3, "relearned", "probe", "log"]
    assert {folder.name for folder, _ in best_cells(report)} == {"flat", "npo2", "npo10"}
    text = page(report)
    for words in ("relearned, trained again after unlearning", "log of other code", "probe, asked in another way"):
        assert words in text
    assert "Settings: model tiny, benchmark tofu" in markdown_table(report)  # a log was never asked of a model


def test_a_broken_model_is_marked_and_never_best(runs):
    """It repeats nine of ten trigrams where the oracle repeats one, and has the best utility."""
    for name, repeated in (("retain90", 0.1), ("npo2", 0.9), ("flat", 0.2)):
        path = runs / name / "eval" / "metrics.json"
        fake.write_json(path, json.loads(path.read_text()) | {"fluency_rep3_forget": fake.metric(repeated)})
    report = read_report(runs)
    assert report.collapsed == {runs / "npo2": "fluency_rep3_forget 0.90 against 0.10"}
    best = {(folder.name, column) for folder, column in best_cells(report)}
    assert ("flat", "MU") in best and "npo2" not in {name for name, _ in best}
    text = markdown_table(report)
    assert "npo · npo2 †" in text and "† collapsed, and never bold" in text and "npo · npo2 †" in page(report)
    assert "†" not in markdown_table(read_report(fake.write_runs(runs.parent / "others")))


def test_a_run_from_before_roles_and_one_of_no_role(runs):
    add(runs, "old", None)
    assert next(run.role for run in read_report(runs).runs if run.folder.name == "old") == "method"
    add(runs, "odd", "teacher")
    assert "role=teacher is none of" in read_report(runs).left_out["odd"]


@pytest.mark.parametrize(
    "method, divergence, label",
    [
        ("flat", "tv", "flat (tv)"),
        ("flat_kl", "kl", "flat_kl"),
        ("flat_released", "tv", "flat_released (tv)"),
        ("ga", None, "ga"),
    ],
)
def test_label_names_method_and_divergence(tmp_path, method, divergence, label):
    fake.write_run(tmp_path / "a", "unlearn", "forget10", method, divergence, {"model_utility": 0.5})
    assert read_report(tmp_path).runs[0].label == label


def test_evaluation_folder_counts_with_the_role_of_its_model(tmp_path):
    trained = fake.write_run(tmp_path / "elsewhere" / "oracle", "finetune", "retain90", "memorise", None, {})
    settings = {"split": "forget10", "model": {"name": "tiny", "path": str(trained)}}
    for name, chosen in (("known", settings), ("alone", {"split": "forget10"})):
        fake.write_json(tmp_path / "runs" / name / "run.json", fake.capsule("evaluate", chosen))
        fake.write_json(tmp_path / "runs" / name / "metrics.json", {"model_utility": fake.metric(0.5)})
    found = [(run.label, run.role) for run in read_report(tmp_path / "runs").runs]
    assert found == [("retain oracle (retain90)", "oracle"), ("alone", "method")]


def test_best_follows_the_direction_and_only_methods_compete(runs):
    report = read_report(runs)
    best = {(folder.name, column) for folder, column in best_cells(report)}
    expected = {
        ("npo10", "FQ"),  # the oracle's 1.0 does not compete
        ("npo2", "MU"),
        ("npo2", "F-ROUGE"),  # nearest to the oracle's 0.402: flat's 0.211 is no gain
        ("npo2", "F-Prob"),
        ("npo10", "F-TR"),
        ("flat", "R-ROUGE"),
        ("npo2", "R-Prob"),
        ("flat", "RA-ROUGE"),
        ("npo2", "WF-ROUGE"),
    }
    assert best == expected


def test_equal_printed_numbers_share_the_mark_and_nan_never_wins(tmp_path):
    for name, value in (("a", 0.70001), ("b", 0.69999), ("c", float("nan")), ("d", 0.6)):
        fake.write_run(tmp_path / name, "unlearn", "forget10", name, None, {"model_utility": value})
    best = {(folder.name, column) for folder, column in best_cells(read_report(tmp_path))}
    assert best == {("a", "MU"), ("b", "MU")}
    for name in "cd":
        (tmp_path / name / "run.json").unlink()
    assert best_cells(read_report(tmp_path)) == set()  # the two that are left agree


def test_markdown_table(runs):
    text = markdown_table(read_report(runs))
    rows = table_rows(text)
    assert len(rows) == 2 + 5 and {len(row) for row in rows} == {1 + len(TOFU)}
    assert rows[0][:4] == ["run", "FQ ↑", "MU ↑", "F-ROUGE → oracle"]
    assert cell(text, "flat (tv)", "FQ") == "1.2e-05 [9.6e-06, 1.4e-05]"
    assert cell(text, "npo · npo2", "MU") == "**0.655** [0.524, 0.786]"
    last = text.rstrip("\n").splitlines()[-1]
    assert last.startswith("Settings: model tiny, benchmark tofu, split forget10, seed 42, data_root fixture")
    assert last.endswith(f"Made with `python scripts/report.py {runs}`")


def test_names_cannot_break_the_markdown_table(tmp_path):
    fake.write_run(tmp_path / "a", "unlearn", "forget10", "x|y<b>*`", None, {"model_utility": 0.5})
    rows = table_rows(markdown_table(read_report(tmp_path)))
    assert {len(row) for row in rows} == {2}  # the run and its one metric
    assert rows[2][0] == r"x\|y&lt;b&gt;\*\`"


@pytest.mark.parametrize(
    "metric, value, text",
    [
        ("forget_quality", 1.23e-05, "1.2e-05"),
        ("forget_quality", 0.0335, "0.034"),
        ("forget_quality", 0.0, "0.000"),
        ("model_utility", 0.0001, "0.000"),
        ("model_utility", float("nan"), "nan"),
    ],
)
def test_how_numbers_are_printed(metric, value, text):
    column = next(column for column in TOFU if column.metric == metric)
    assert column.show(value) == text
    assert column.show_interval(None) == "" and column.show_interval((value, value)) == f"[{text}, {text}]"


def test_a_missing_metric_is_a_dash(runs):
    metrics = json.loads((runs / "npo2/eval/metrics.json").read_text("utf-8"))
    del metrics["forget_quality"]
    metrics["model_utility"]["value"] = None
    fake.write_json(runs / "npo2/eval/metrics.json", metrics)
    report = read_report(runs)
    text = markdown_table(report)
    assert cell(text, "npo · npo2", "FQ") == cell(text, "npo · npo2", "MU") == "–"
    assert cell(text, "flat (tv)", "MU").startswith("**0.610**")  # the next best takes the mark
    assert "Without both numbers and so not drawn: npo · npo2." in page(report)


def broken_run(folder: Path, fault: str) -> None:
    """One run folder with one fault."""
    fake.write_run(folder, "unlearn", "forget10", "ga", None, {"model_utility": 0.5})
    known = fake.capsule("unlearn", {"split": "forget10"})
    faults = {
        "running": lambda: fake.write_json(folder / "run.json", known | {"status": "running"}),
        "no run.json": lambda: (folder / "run.json").unlink(),
        "damaged": lambda: (folder / "run.json").write_text("{", encoding="utf-8"),
        "no eval": lambda: (folder / "eval").rename(folder / "other"),
        "eval running": lambda: fake.write_json(folder / "eval/run.json", known | {"status": "running"}),
        "no metrics": lambda: (folder / "eval/metrics.json").unlink(),
        "bad metric": lambda: fake.write_json(folder / "eval/metrics.json", {"model_utility": {"value": "much"}}),
        "no settings": lambda: fake.write_json(folder / "run.json", {"script": "unlearn", "status": "finished"}),
    }
    faults[fault]()


@pytest.mark.parametrize(
    "fault, why",
    [
        ("running", "run.json says running, not finished"),
        ("no run.json", "it has no run.json"),
        ("damaged", "run.json is damaged"),
        ("no eval", "it has no eval/metrics.json; make it with: python evaluate.py model.path="),
        ("eval running", "eval/run.json says running, not finished"),
        ("no metrics", "its evaluation wrote no metrics.json"),
        ("bad metric", "metrics.json: model_utility is damaged"),
        ("no settings", "run.json holds no settings"),
    ],
)
def test_what_cannot_count_is_listed_with_the_reason(tmp_path, fault, why):
    fake.write_runs(tmp_path, ("flat",))
    broken_run(tmp_path / "broken", fault)
    report = read_report(tmp_path)
    assert [run.folder.name for run in report.runs] == ["flat"]
    assert list(report.left_out) == ["broken"] and why in report.left_out["broken"]
    assert "- broken: " in markdown_table(report) and "Left out" in page(report)
    (tmp_path / "flat/run.json").unlink()
    with pytest.raises(ReportError, match="holds no finished run with metrics"):
        read_report(tmp_path)


@pytest.mark.parametrize("make, message", [("missing", "there is no such folder"), ("empty", "it has no sub-folders")])
def test_nothing_found_is_one_sentence(tmp_path, make, message, capsys):
    folder = tmp_path / make
    if make == "empty":
        folder.mkdir()
    with pytest.raises(SystemExit) as caught:
        main([str(folder)])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_single_run_is_a_report_of_itself(runs):
    (run,) = read_report(runs / "flat").runs
    assert run.folder == runs / "flat" and run.metrics
    (runs / "flat" / "eval" / "metrics.json").unlink()
    with pytest.raises(ReportError, match=f"{runs / 'flat'}: its evaluation wrote no metrics.json"):
        read_report(runs / "flat")


def test_a_line_separator_in_a_generation_does_not_split_its_row(runs):
    fake.write_generations(runs / "flat/eval", {("forget", 4): "one\u2028two\x85three"})
    flat = next(run for run in read_report(runs).runs if run.folder.name == "flat")
    assert flat.generations["forget", 4]["generation"] == "one\u2028two\x85three"


def test_what_a_measure_asked_is_not_the_answer_to_the_question(runs):
    path = runs / "flat/eval" / "generations.jsonl"
    rows = read_rows(path)
    write_rows(path, [*rows, {**rows[0], "asked_by": "leak", "generation": "drawn"}])
    flat = next(run for run in read_report(runs).runs if run.folder.name == "flat")
    assert flat.generations["forget", 0]["generation"] == rows[0]["generation"] != "drawn"


def test_command_writes_both_files_and_is_repeatable(runs, tmp_path, capsys):
    out = runs / "report"
    arguments = [str(runs), "--out", str(out), "--title", "A <b> title"]
    main(arguments)
    assert capsys.readouterr().out.split() == [str(out / "table.md"), str(out / "report.html")]
    first = (out / "report.html").read_text("utf-8")
    assert "A &lt;b&gt; title" in first and "Left out" not in first  # its own folder is passed over
    main(arguments)
    assert (out / "report.html").read_text("utf-8") == first
