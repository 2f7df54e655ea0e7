"""The studies of publications: what their files name is there, and all of them can be planned."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from tests.runs import QUICK_EVALUATION, metrics, run, shared_folder, target
from utils import ROOT
from utils.report.columns import read_display
from utils.runs.recipes import recipe_settings
from utils.studies.archive import Archive
from utils.studies.command import planned
from utils.studies.outcome import primary_columns
from utils.studies.planning import Plan
from utils.studies.study import Study, read_study, studies
from utils.tables.table import TableSpec, study_columns

every_study = pytest.mark.parametrize("name", studies())
QUICKLY = ["knowundo/table_2", "sku/opt-2.7b"]  # what is composed in the ordinary suite
# What makes an evaluation of the shipped data quick, and write all that a study may show.
ROWS, SHORT, RESAMPLES = QUICK_EVALUATION
FEW = {
    "completion": (SHORT, "benchmark.words=40", "benchmark.prefix=20", "benchmark.passages=4", "benchmark.retain_passages=4"),
    "muse": (ROWS, SHORT, "benchmark.knowmem_max_new_tokens=8"),
    "nlg": (ROWS,),
    "utility": ("benchmark.limit=2",),
}
COMPARED = ("tofu", "muse", "completion")
MEASURES = {"tofu": ("membership", "memorization", "fluency"), "knowundo": ("fluency",)}

read = cache(read_study)


def asked(study: Study, evaluation: str) -> dict[str, Any]:
    """What an evaluation of a study is told, what its recipe says included."""
    said = {**study.settings_of("evaluate"), **study.evaluations[evaluation]}
    recipe = recipe_settings(said["recipe"], "evaluate", said.keys()) if "recipe" in said else {}
    return {**recipe, **said}


@cache
def written(benchmark: str, measured: bool) -> frozenset[str]:
    """The metrics of an evaluation with all that the benchmark can be told, and with measures or without."""
    folder = shared_folder() / f"paper_studies_{benchmark}_{measured}"
    folder.mkdir()
    words = ["model=tiny", f"model.path={target()}", f"benchmark={benchmark}", *FEW.get(benchmark, (ROWS, SHORT)), RESAMPLES]
    words += [f"oracle={target()}", "trust_oracle=true"] if benchmark in COMPARED else []
    words += [f"benchmark.perplexity_model={target()}"] if benchmark == "safety" else []
    words += [f"measure=[{','.join(MEASURES[benchmark])}]"] if measured else []
    run(folder, "evaluate", *words, f"cache={folder}/cache", "out=eval")
    return frozenset(metrics(folder / "eval"))


@every_study
def test_every_column_is_written(name):
    study = read(name)
    evaluations = list(study.evaluations)
    declared = read_display(asked(study, evaluations[0])["benchmark"]).columns
    columns = study_columns(study.columns, declared, evaluations)
    TableSpec(study.title, columns, primary=primary_columns(study, columns))
    for column in columns:
        told, metric = asked(study, column.evaluation), column.column.metric
        measures = told.get("measure") or []
        assert {*measures} <= {*MEASURES.get(told["benchmark"], ())}
        assert metric in written(told["benchmark"], bool(measures)), metric
        assert told.get("benchmark.perplexity_model") or "perplexity" not in metric or told["benchmark"] != "safety"
        assert told.get("oracle") != "none" or metric not in ("forget_quality", "ks_statistic", "privleak", "train_fq_gap")


@every_study
def test_a_published_table_shares_rows_and_columns_with_the_study(name):
    study = read(name)
    table = study.published_table
    if table is None:
        assert name.split("/")[0] not in ("knowundo", "muse", "flat", "sku", "meow", "llmu", "open-unlearning")
        return
    rows = {entry.name: study.published_row(entry) for entry in study.entries.values()}
    assert {*filter(None, rows.values())} >= ({*table.ours} if not table.unread else {*table.rows})
    shown = {column if isinstance(column, str) else column["metric"] for column in study.columns}
    assert not {column.metric for column in table.columns.values()}.isdisjoint(shown | {None})


def assert_planned(name: str) -> None:
    plan = Plan.of(read(name))
    words = planned(plan)
    evaluated = [entry for entry in plan.study.entries.values() if entry.evaluate is not None]
    trained = [entry for entry in plan.study.entries.values() if entry.script]
    assert {cell.entry.name for cell in plan.graph.cells.values()} == {entry.name for entry in [*evaluated, *trained]}
    assert len(plan.graph.evaluations()) >= len(evaluated) * len(plan.study.evaluations)
    for cell in plan.graph.cells.values():
        assert f"  {cell.name}: " in words and "@" not in " ".join(cell.words)
    assert "Nothing is left to run." in words or "Together: " in words


@pytest.mark.parametrize("name", QUICKLY)
def test_a_study_can_be_planned(name):
    assert_planned(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in studies() if name not in QUICKLY])
def test_every_study_can_be_planned(name):
    assert_planned(name)


@pytest.mark.slow
@pytest.mark.parametrize("kept", sorted((ROOT / "docs" / "results").glob("*/cells.jsonl")), ids=lambda path: path.parent.name)
def test_what_was_kept_of_a_study_is_still_known(kept, tmp_path):
    """Its cells are found by a hash of their settings: a dial that came later must not make them others."""
    plan = Plan.of(read(kept.parent.name), tmp_path, kept.parent.parent)
    known = {cell.folder.name for cell in plan.graph.cells.values()}
    assert {line["folder"] for line in Archive.of(kept.parent.name, kept.parent.parent).lines.values()} == known & {
        cell.folder.name for cell in plan.graph.evaluations()
    }


def test_a_reference_to_a_model_that_exists_means_its_path_or_its_evaluation():
    models = {"original": {"path": "opt", "evaluate": {"benchmark.base_run": None}}}
    common, evaluate = {"model": "tiny", "benchmark": "safety"}, {"benchmark.base_run": "@original/plain"}
    rows = {"ga": {"model.path": "@original"}, "npo": {"model.path": "@original/sub"}}
    made = Plan.of(Study("one", "One", common=common, evaluate=evaluate, models=models, rows=rows, seeds=[0])).graph.cells
    assert made["ga_s0"].settings["model.path"] == "opt" and made["npo_s0"].settings["model.path"] == "opt/sub"
    assert made["ga_s0.plain"].settings["benchmark.base_run"] == str(made["original.plain"].folder)
    assert made["ga_s0.plain"].needs == ("ga_s0", "original.plain") and made["original.plain"].needs == ()


def test_published_rows_are_known_before_anything_runs():
    rows = {"ga": None, "npo": None, "po": {"published": "GradAscent"}}
    table = {"table": "open-unlearning/tofu_llama3.2-1b_forget01", "rows": {"npo": None}}
    study = Study("one", "One", rows=rows, published=table)
    found = {entry.name: study.published_row(entry) for entry in study.entries.values()}
    assert found == {"ga": "GradAscent", "npo": None, "po": "GradAscent"}
    for wrong, sentence in [
        ({"table": "open-unlearning/tofu"}, "published.table=open-unlearning/tofu: there is no such published table"),
        ({**table, "rows": {"gaa": "GA"}}, "published.rows=gaa"),
        ({**table, "rows": {"ga": "GradAscend"}}, "published.rows=GradAscend: .* has no such row; did you mean GradAscent"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            Study("one", "One", rows=rows, published=wrong)


def test_a_primary_column_may_be_named_by_its_metric():
    columns = [{"name": "Prompted", "metric": "success_prompted"}, "avg_success"]
    study = Study("one", "One", columns=columns, primary=["success_prompted", "avg_success", "Prompted"])
    shown = study_columns(study.columns, read_display("knowundo").columns, ["plain"])
    assert primary_columns(study, shown) == ["Prompted", shown[1].column.name, "Prompted"]
