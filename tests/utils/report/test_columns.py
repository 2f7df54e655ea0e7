"""Which metrics a report shows of which benchmark: the declarations fit the metrics, and every benchmark gets its own table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metrics.benchmarks.knowundo import knowundo_metrics
from metrics.benchmarks.tofu import tofu_metrics
from tests.metrics.benchmarks.test_knowundo import scope
from tests.metrics.benchmarks.test_safety import ROWS, numbers
from tests.metrics.benchmarks.test_tofu import all_tasks, scores
from tests.metrics.benchmarks.test_utility import all_ten, text
from tests.metrics.benchmarks.test_utility import numbers as utility_numbers
from tests.utils.report import fake_runs as fake
from tests.utils.report.test_page import Page
from tests.utils.report.test_read import table_rows
from utils import ROOT
from utils.report.charts import axis_ends, strip_ends, ticks
from utils.report.columns import FOLDER, Column, Display, columns_of, read_display
from utils.report.headline import caution, headline
from utils.report.page import page
from utils.report.read import ReportRun, read_report
from utils.report.table import best_cells, legend, markdown_table

DECLARED = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SHARE, PERCENT = Column("S", "s"), Column("C", "c", scale="percent")
P, LOG, FREE = Column("P", "p", scale="p"), Column("L", "l", scale="log"), Column("F", "f", scale="free")


def metrics_of(benchmark: str) -> set[str]:
    """Names of what the metrics of a benchmark make of a few made-up scores."""
    bleurt = [{**row, "bleurt": 0.5, "bleurt_checkpoint": "x"} if row["task"] == "normal" else row for row in ROWS]
    generated = replace(scope(), rouge_generated=np.array([0.5, 0.5]))
    make = {
        "tofu": lambda: tofu_metrics(all_tasks(), scores(8), resamples=100),
        "knowundo": lambda: knowundo_metrics({"unlearn": generated, "retention": generated}, resamples=100),
        "safety": lambda: numbers(rows=bleurt),
        "utility": lambda: utility_numbers([*all_ten(1.0, (1.0, 0.0), (0.5, 0.5)), text(0, -1.0, 1, 1, 1)]),
    }
    return set(make[benchmark]())


@pytest.mark.parametrize("benchmark", ["tofu", "knowundo", "safety", "utility"])
def test_every_declared_metric_is_one_that_the_benchmark_has(benchmark):
    declared = {column.metric for column in read_display(benchmark).columns}
    assert declared and declared <= metrics_of(benchmark), declared - metrics_of(benchmark)


@pytest.mark.parametrize("benchmark", DECLARED)
def test_every_file_belongs_to_a_benchmark_and_explains_its_columns(benchmark):
    assert (ROOT / "config" / "benchmark" / f"{benchmark}.yaml").is_file()
    columns = read_display(benchmark).columns
    assert columns and all(column.meaning and len(column.name) <= 10 for column in columns)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("colums: []", "there is no key colums; did you mean columns?"),
        ("columns: [{name: A}]", "column 1: missing 1 required positional argument: 'metric'"),
        ("columns: [{name: A, metric: a, better: more}]", "column 1: better=more: write one of high, low, zero, oracle, neither"),
        ("columns: [{name: A, metric: a, scale: log10}]", "column 1: scale=log10: write one of share, percent, p, log"),
        ("columns: [{name: A, metric: a, higher: true}]", "column 1: got an unexpected keyword argument 'higher'"),
        ("columns: [{name: A, metric: a}, {name: A, metric: b}]", "columns: two have the name A"),
        ("columns: [{name: A, metric: a}]\nmap: {x: A, y: B}", "map.y=B: write A"),
        ("columns: [{name: A, metric: a}]\nmap: {x: A, y: A, word: no}", "there is no key word; did you mean words?"),
        ("- a", "write keys with values"),
        ("columns: [", "while parsing a flow"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, text, problem):
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as refusal:
        read_display("mine", tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path / 'mine.yaml'}: {problem}") and "\n" not in str(refusal.value)


def test_a_benchmark_without_file_shows_its_first_metrics():
    measured = [f"m{k}" for k in range(11)]
    assert read_display("../tofu") == read_display("nothing") == Display()
    assert [column.metric for column in columns_of("nothing", measured)] == measured[:8]
    assert {column.header for column in columns_of("nothing", ["m"])} == {"m"}  # no direction: nobody said which
    # So does one whose declared metrics nobody has.
    assert [column.metric for column in columns_of("tofu", ["m"])] == ["m"]
    assert [column.name for column in columns_of("tofu", ["m", "retain_prob", "model_utility"])] == ["MU", "R-Prob"]


@pytest.mark.parametrize(
    ("better", "header", "best"),
    [("high", "A ↑", "a"), ("low", "A ↓", "b"), ("zero", "A → 0", "c"), ("oracle", "A → oracle", "b"), ("neither", "A", "")],
)
def test_direction(better, header, best):
    column, values = Column("A", "a", better=better), {"a": 3.0, "b": -4.0, "c": -0.5}
    assert column.header == header and column.best(values, aim=-3.0) == set(best) and column.best({}, aim=-3.0) == set()


def test_nearest_to_the_oracle_is_best_and_equal_prints_share_it():
    """0.025 of a broken model is farther from 0.084 than 0.101 is; without an oracle nobody knows the aim."""
    column = Column("F-ROUGE", "r", better="oracle")
    assert column.best({"ga": 0.025, "npo": 0.101, "flat": 0.211}, aim=0.084) == {"npo"}
    assert column.best({"a": 0.0801, "b": 0.0799, "c": 0.088, "d": 0.09}, aim=0.084) == {"a", "b", "c"}
    assert column.best({"ga": 0.025, "npo": 0.101}) == set()
    assert Column("FQ", "p", better="high", scale="p").best({"a": 1.2e-15, "b": 3.4e-14, "c": 3.41e-14}) == {"b", "c"}
    over_powers = Column("PPL", "p", better="oracle", scale="log")
    assert over_powers.best({"a": 1.0, "b": 900.0}, aim=100.0) == {"b"}  # by factors: 100 against 9


def test_only_a_p_value_has_a_statistic():
    with pytest.raises(ValueError, match="statistic=ks_statistic: write nothing: the column is no p-value"):
        Column("A", "a", statistic="ks_statistic")


@pytest.mark.parametrize(
    "column, value, text",
    [
        (SHARE, 0.12345, "0.123"),
        (PERCENT, 98.765, "98.77"),
        (P, 1.2e-5, "1.2e-05"),
        (LOG, 22.1349, "22.13"),
        (FREE, -12.5, "-12.5"),
    ],
)
def test_how_numbers_are_shown(column, value, text):
    assert column.show(value) == text


def test_axes_by_hand():
    assert strip_ends(SHARE, [0.4]) == (0, 1) and strip_ends(PERCENT, []) == (0, 100)
    assert strip_ends(P, [-5.0, -1.0]) == (-5, 0) and strip_ends(P, [-1.0]) == (-2, 0)
    assert strip_ends(FREE, [3.0, -1.0]) == (-1, 3) and strip_ends(LOG, [2.0]) == (1.5, 2.5)
    assert axis_ends(PERCENT, [50.0, 100.0]) == (45.0, 102.0) and axis_ends(P, [-4.0]) == (-4.24, 0.24)
    assert axis_ends(FREE, [0.0, 10.0]) == (-1.0, 11.0) and axis_ends(FREE, [2.0]) == (1.5, 2.5)
    assert ticks(P, -4.24, 0.24) == [(-4.0, "10⁻⁴"), (-3.0, "10⁻³"), (-2.0, "10⁻²"), (-1.0, "10⁻¹"), (0.0, "1")]
    # Less than two powers of ten: round numbers at their logarithms; beyond the largest float no number at all.
    assert ticks(LOG, 1.0, 1.7)[0] == (1.0, "10") and [words for _, words in ticks(LOG, 1.0, 1.7)] == [
        "10",
        "20",
        "30",
        "40",
        "50",
    ]
    assert ticks(LOG, 307.8, 308.8) == [(308.0, "10³⁰⁸")]


KNOWUNDO: dict[str, dict[str, float]] = {
    "target": {"unlearn_success": 2.0, "retention_success": 99.0, "perplexity_unlearn": 1.02, "membership_auc": 0.99},
    "ga": {"unlearn_success": 97.5, "retention_success": 12.0, "perplexity_unlearn": 1.7e308, "membership_auc": 0.5},
    "memflex": {"unlearn_success": 80.25, "retention_success": 91.0, "perplexity_unlearn": 60.0, "membership_auc": 0.6},
}


def write(folder: Path, benchmark: str, script: str, split: str, metrics: Mapping[str, float]) -> None:
    """A finished run and its evaluation on a benchmark."""
    fake.write_run(folder, script, split, folder.name, None, {})
    known = {"benchmark": {"name": benchmark}, "split": split}
    fake.write_json(folder / "run.json", fake.capsule(script, {**known, "method": {"name": folder.name}}))
    fake.write_json(folder / "eval/run.json", fake.capsule("evaluate", {**known, "split": "unlearn"}))
    fake.write_json(folder / "eval/metrics.json", {name: {"value": v, "n": 4, "ci95": [v, v]} for name, v in metrics.items()})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """KnowUnDo: a target, a collapsed model, a good one."""
    for name, metrics in KNOWUNDO.items():
        write(tmp_path / name, "knowundo", *(("finetune", "full") if name == "target" else ("unlearn", "unlearn")), metrics)
    return tmp_path


def test_knowundo_has_its_own_table(runs):
    report = read_report(runs)
    rows = table_rows(markdown_table(report))
    assert rows[0] == ["run", "US → oracle", "RS ↑", "U-PPL"]  # what no run has is left out, and membership_auc has no column
    assert [row[0] for row in rows[2:]] == ["target (full)", "ga", "memflex"]
    assert rows[3][1:] == ["97.50 [97.50, 97.50]", "12.00 [12.00, 12.00]", "1.7e+308 [1.7e+308, 1.7e+308]"]
    # The collapsed model misses every token, which is no feat: without an oracle nobody knows what is.
    assert {(folder.name, name) for folder, name in best_cells(report)} == {("memflex", "RS")}
    assert legend(report).startswith(
        "value [95 % interval over questions]. Bold: best of the methods; ↑ more is better, → oracle"
    )


def test_with_an_oracle_the_nearest_to_it_forgot_best(runs):
    write(runs / "oracle", "knowundo", "finetune", "retention", {"unlearn_success": 60.0, "retention_success": 98.0})
    assert {(folder.name, name) for folder, name in best_cells(read_report(runs))} == {("memflex", "US"), ("memflex", "RS")}


def test_the_page_lists_what_has_no_column(runs):
    source = page(read_report(runs))
    Page(source)
    assert "1 other metrics" not in source and "1 other metric" in source and "membership_auc" in source
    assert (
        source.count("mean over questions") == 0
        and "from 0 to 100 for percentages, over powers of ten for perplexities;" in source
    )


def test_headline_names_the_best_of_both_axes(runs):
    assert headline(read_report(runs)) == "2 methods. Best by retention success, %: memflex, 91.00 (target 99.00)."
    write(runs / "oracle", "knowundo", "finetune", "retention", {"unlearn_success": 60.0, "retention_success": 98.0})
    assert "Best by unlearn success, %: memflex, 80.25 (target 2.00, oracle 60.00)." in headline(read_report(runs))


def test_the_map_has_the_axes_of_the_benchmark(runs):
    source = page(read_report(runs))
    assert "unlearn success, %" in source and "retention success, % →" in source and "p = 0.05" not in source
    write(runs / "other", "nothing", "unlearn", "all", {"m": 1.0})
    for name in KNOWUNDO:
        (runs / name / "run.json").unlink()
    alone = page(read_report(runs))
    assert 'id="map"' not in alone and 'href="#map"' not in alone


@pytest.mark.parametrize(
    "split, role",
    [("retention", "oracle"), ("retention+retention_val", "oracle"), ("full", "target"), ("retention+unlearn", "target")],
)
def test_role_of_a_finetuned_run_follows_its_benchmark(tmp_path, split, role):
    write(tmp_path / "a", "knowundo", "finetune", split, {"unlearn_success": 1.0})
    assert read_report(tmp_path).runs[0].role == role


def test_every_benchmark_has_its_own_table_and_its_own_best(runs):
    write(runs / "one", "nothing", "unlearn", "all", {"m": 1.0})
    write(runs / "two", "nothing", "unlearn", "all", {"m": 2.0})
    fake.write_runs(runs, ("flat", "npo2", "full"))
    report = read_report(runs)
    assert list(report.parts()) == ["tofu", "knowundo", "nothing"]
    text = markdown_table(report)
    assert [line for line in text.splitlines() if line.startswith("##")] == ["## tofu", "## knowundo", "## nothing"]
    assert [len(line.split("|")) - 2 for line in text.splitlines() if line.startswith("| run")] == [10, 4, 2]
    assert not caution(report)  # runs of different benchmarks need not agree
    said = headline(report)
    assert said.startswith("tofu: 1 of 2 methods") and " knowundo: 2 methods. " in said and said.endswith(" nothing: 2 methods.")
    source = page(report)
    Page(source)
    assert source.count("<h3>knowundo</h3>") == 2 and source.count("<h3>nothing</h3>") == 1  # numbers and map; numbers alone


def test_disagreement_in_any_option_of_the_benchmark_is_told(runs):
    options = {"name": "knowundo", "domain": "copyright", "metrics": {"average": "macro"}, "average": "macro"}
    for name, domain in (("ga", "copyright"), ("memflex", "privacy")):
        settings = {"benchmark": {**options, "domain": domain}, "split": "unlearn"}
        fake.write_json(runs / name / "eval/run.json", fake.capsule("evaluate", settings))
    assert caution(read_report(runs)) == [
        "The runs do not share one benchmark.domain: copyright, privacy. Compare only those that do."
    ]


def combination(folder: Path, target: Path, alpha: float) -> None:
    """An evaluation of the logits of two models."""
    settings = {
        "split": "forget10",
        "model": {"name": "tiny", "path": str(target)},
        "reinforced": {"name": "WHP", "path": "runs/r", "alpha": alpha},
    }
    fake.write_json(folder / "run.json", fake.capsule("evaluate", settings))
    fake.write_json(folder / "metrics.json", {"model_utility": fake.metric(0.5)})


def test_a_combination_of_models_is_not_the_run_whose_model_it_starts_from(tmp_path):
    fake.write_runs(tmp_path, ("full",))
    combination(tmp_path / "whp", tmp_path / "full", 2.0)
    combination(tmp_path / "half", tmp_path / "full", 0.5)

    def told(run: ReportRun) -> tuple[str, str, bool]:
        return run.label, run.role, run.training is None

    report = read_report(tmp_path)
    assert [told(run) for run in report.runs] == [
        ("target (full)", "target", False),
        ("WHP (alpha 0.5)", "method", True),
        ("WHP (alpha 2)", "method", True),
    ]
    # Also where it lies in the target's own folder, as its eval/.
    combination(tmp_path / "full" / "eval", tmp_path / "full", 4.0)
    assert told(read_report(tmp_path).runs[0]) == ("WHP (alpha 4)", "method", True)
