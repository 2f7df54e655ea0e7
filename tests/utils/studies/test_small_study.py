"""A study of two methods on a tiny model, from its file to its table, in this process: run, table, archive, status, stop."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import utils.studies.command as command
from tests.runs import QUICK_EVALUATION, run, target
from utils.files import read_rows, write_json
from utils.studies import archive, study
from utils.studies.archive import Archive
from utils.studies.launch import Launch
from utils.studies.planning import Plan
from utils.studies.runner import BEHIND
from utils.studies.study import read_study

QUICK = ", ".join(word.replace("=", ": ") for word in QUICK_EVALUATION)
TEXT = f"""
title: A small study
common: {{model: tiny, benchmark: tofu, split: forget05}}
unlearn: {{model.path: "@target", batch_size: 4, steps: 1, checkpoint: none}}
evaluate: {{oracle: "@oracle", trust_oracle: true, {QUICK}}}
models:
  target: {{path: {target()}}}
  oracle: {{path: {target()}}}
rows:
  ga: {{lr: 1e-3}}
  npo: {{lr: 1e-3}}
seeds: [0]
baseline: npo
columns: [forget_prob, model_utility]
primary: [forget_prob]
keep: scores
tune: {{budget: 2, space: {{lr: [1e-3, 1e+30]}}, seeds: [9], folds: 1, rows: [ga]}}
"""


class InProcess(Launch):
    """Runs what a cell's command says in this process; a training at a rate above 1 fails, as a process does that diverges."""

    ran: list[str] = []

    def run(self, cells, again=()):
        for cell in cells:
            self.ran.append(cell.name)
            if cell.settings.get("lr", 0) > 1:
                write_json(self.behind / f"{cell.folder.name}.json", {"status": "failed", "told": "step 1: loss is not finite"})
            else:
                run(self.pool.parent, cell.script, *cell.words, *(["overwrite=true"] if cell.name in again else []))
        return set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """Where the study `small` was run to its end."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "files").mkdir()
    (folder / "files" / "small.yaml").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "FOLDER", folder / "files")
        patch.setattr(command, "Launch", InProcess)
        patch.setattr(archive, "UNPACKED", folder / "unpacked")
        patch.chdir(folder)
        InProcess.ran = []
        assert command.run(words(folder)) == 1  # a trial diverged
        yield folder


def words(folder: Path, *more: str) -> list[str]:
    return ["small", f"pool={folder}/pool", "results=results", *more]


def plan(folder: Path, *overrides: str) -> Plan:
    return Plan.of(read_study("small", overrides), folder / "pool", folder / "results")


def test_every_cell_was_run_once_in_its_order(folder):
    ran = InProcess.ran
    assert len(ran) == len({*ran}) and {"ga_t00_s9", "ga_t01_s9", "ga_t00_s0", "ga_t00_s0.plain", "npo_s0.plain"} <= {*ran}
    assert ran.index("ga_t00_s9.plain") < ran.index("ga_t00_s0")  # what is reported is run when the trials are done
    assert not [name for name in ran if name.startswith("ga_t01_s") and name != "ga_t01_s9"]


def test_a_diverged_trial_is_told_and_not_chosen(folder):
    page = (folder / "results" / "small" / "trials.md").read_text()
    assert "failed: step 1: loss is not finite" in page and " yes |" in page
    assert plan(folder).choices["ga"][0].chosen.trial == 0
    assert "ga_t01_s9" in (folder / "results" / "small" / "table.md").read_text()


def test_the_table_has_every_row(folder):
    text = (folder / "results" / "small" / "table.md").read_text()
    assert all(row in text for row in ("ga", "npo", "target", "oracle"))
    measured = {(cell.row, cell.seed) for cell in plan(folder).measured()}
    assert {("ga", 0), ("npo", 0)} <= measured


def test_weights_of_rows_are_given_up_and_nothing_is_left_to_do(folder, capsys):
    found = plan(folder).states
    assert {found[name].word for name in ("npo_s0", "ga_t00_s0", "ga_t00_s9")} == {"spent"}
    before = len(InProcess.ran)
    assert command.run(words(folder)) == 1
    assert InProcess.ran[before:] == ["ga_t01_s9"]  # what failed is tried again, once
    assert command.run(words(folder, "status=true")) == 0
    said = capsys.readouterr().out
    assert "failed      ga_t01_s9: step 1: loss is not finite" in said and "cells done (1 blocked, 1 failed)" in said


@pytest.mark.slow
def test_another_evaluation_makes_the_weights_again(folder):
    before = len(InProcess.ran)
    more = words(folder, "results=more", "evaluations={plain:{},asked:{probe:paraphrase}}", "rows.ga=false", "tune=null")
    assert command.run(more) == 0
    ran = InProcess.ran[before:]
    assert {"npo_s0", "npo_s0.asked"} <= {*ran} and "npo_s0.plain" not in ran
    assert plan(folder).states["npo_s0"].word == "spent"


def test_a_plan_names_every_command_and_starts_nothing(folder, capsys):
    before = len(InProcess.ran)
    assert command.run(["small", "plan=true", "pool=nowhere", "results=elsewhere"]) == 0
    said = capsys.readouterr().out
    cells = Plan.of(read_study("small"), Path("nowhere"), Path("elsewhere")).graph.cells
    assert all(f"  {name}: " in said for name in cells)
    assert said.count("python unlearn.py ") == sum(cell.script == "unlearn" for cell in cells.values()) == 3
    assert "Then, with the settings that their trials choose: ga" in said
    assert len(InProcess.ran) == before and not Path("nowhere").exists() and not Path("elsewhere").exists()


def test_the_archive_alone_makes_the_same_table(folder, monkeypatch):
    """In a fresh clone, where no run folder is, every number comes out bit for bit, and the diverged trial is still one."""
    kept = folder / "results" / "small"
    here = plan(folder)
    clone = Plan.of(read_study("small"), Path("gone"), folder / "results")
    assert not clone.waiting and clone.choices["ga"][0].chosen.trial == 0
    for one, other in zip(here.measured(), clone.measured(), strict=True):
        assert (one.row, one.seed) == (other.row, other.seed) and one.folder != other.folder
        assert {name: (metric.value, metric.ci95, metric.n) for name, metric in one.metrics.items()} == {
            name: (metric.value, metric.ci95, metric.n) for name, metric in other.metrics.items()
        }
    before = {path.name: path.read_bytes() for path in kept.glob("table.*")}
    assert command.run(["small", "pool=gone", "results=results", "table=true"]) == 0
    assert {path.name: path.read_bytes() for path in kept.glob("table.*")} == before


def test_equal_tables_lie_there_once(folder):
    lines = Archive.of("small", folder / "results").lines
    tables = [line["files"]["oracle.parquet"] for line in lines.values()]
    assert len(tables) > 3 and len({*tables}) == 1  # all were compared with the same oracle
    stored = {path.stem for path in (folder / "results" / "small" / "scores").iterdir()}
    assert stored == {table for line in lines.values() for table in line["files"].values()}


def test_a_damaged_table_is_one_sentence(folder, tmp_path):
    shutil.copytree(folder / "results" / "small", tmp_path / "small")
    kept = Archive.of("small", tmp_path)
    name = next(iter(kept))
    table = tmp_path / "small" / "scores" / f"{kept.lines[name]['files']['scores.parquet']}.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{table} is damaged; bring it back from the repository"):
        kept.unpacked(name, tmp_path / "into")
    table.unlink()
    with pytest.raises(ValueError, match=f"{table} is missing"):
        kept.unpacked(name, tmp_path / "into")
    assert not [path for path in (tmp_path / "into").glob("*") if path.suffix != ".partial"]


def test_a_lost_table_is_written_again_where_its_run_is(folder, tmp_path):
    shutil.copytree(folder / "results" / "small", tmp_path / "small")
    (tmp_path / "small" / "scores" / "half.parquet.partial").touch()
    for table in (tmp_path / "small" / "scores").glob("*.parquet"):
        table.unlink()
    again = Plan.of(read_study("small"), folder / "pool", tmp_path)
    again.keep()
    stored = {path.name for path in (tmp_path / "small" / "scores").iterdir()}
    assert stored == {path.name for path in (folder / "results" / "small" / "scores").iterdir()}


def test_a_part_of_the_study_drops_nothing_and_the_whole_what_is_none_of_it(folder, tmp_path):
    shutil.copytree(folder / "results" / "small", tmp_path / "small")
    lines = len(read_rows(tmp_path / "small" / "cells.jsonl"))
    place = ["small", f"pool={folder}/pool", f"results={tmp_path}", "table=true"]
    assert command.run([*place, "rows.npo=false", "baseline=null"]) == 0
    assert len(read_rows(tmp_path / "small" / "cells.jsonl")) == lines
    (folder / "files" / "small.yaml").write_text(TEXT.replace("  npo: {lr: 1e-3}\n", "").replace("baseline: npo\n", ""))
    try:
        assert command.run(place) == 0
        assert len(read_rows(tmp_path / "small" / "cells.jsonl")) == lines - 1
    finally:
        (folder / "files" / "small.yaml").write_text(TEXT)


def test_the_list_of_all_studies(folder, capsys):
    (folder / "files" / "bad.yaml").write_text("title: Bad\nseed: 3")
    try:
        assert command.run([f"pool={folder}/pool", "results=results"]) == 1
    finally:
        (folder / "files" / "bad.yaml").unlink()
    bad, small = capsys.readouterr().out.splitlines()
    assert bad == "study bad: there is no key seed; did you mean seeds?" and small.startswith("small: A small study: ")


def test_stop_reaches_every_start_of_a_study_and_only_its_own(folder, capsys):
    pool = folder / "stopped"
    with pytest.raises(ValueError, match="study small: does not run in pool=.*; nothing to stop"):
        command.run(["small", f"pool={pool}", "stop=true"])
    begun = {token: pool / BEHIND / "launches" / token for token in ("a", "b", "c")}
    for token, place in begun.items():
        place.mkdir(parents=True)
        (place / command.WHOSE).write_text("other" if token == "c" else "small")
    assert command.run(["small", f"pool={pool}", "stop=true"]) == 0
    assert {token for token, place in begun.items() if (place / "stop").exists()} == {"a", "b"}
    assert "asked to stop" in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked, said",
    [
        (["small", "other"], "small other: one study at a time"),
        (["smal"], "smal: there is no such study; did you mean small?"),
        (["small", "plan=true", "status=true"], "plan and status: one at a time"),
        (["small", "plan=yes"], "plan=yes: write true or false"),
        (["small", "pool=5"], "pool=5: write a path"),
        (["small", "launcher=jobli", "plan=true"], "launcher=jobli: write one of basic, "),
        (["small", "launcher=joblib", "launch.x=1"], "launch.x=1: launcher=joblib has no such setting"),
        (["small", "parallel=2"], "parallel=2: launcher=basic runs one after the other; write launcher=joblib"),
        (["small", "table=true", "pool=nowhere", "results=elsewhere"], "study small: nothing of it is done yet; run it first"),
        (["stop=true"], "stop: of which study? Write python scripts/study.py NAME stop=..."),
    ],
)
def test_what_cannot_be_done_is_one_sentence(folder, asked, said):
    with pytest.raises(ValueError) as error:
        command.run(asked)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
    assert not Path("elsewhere").exists() and not Path("nowhere").exists()


def test_a_pool_that_is_no_folder_is_an_error_with_its_name(folder):
    (folder / "file").touch()
    with pytest.raises(OSError) as error:
        command.run(["small", f"pool={folder}/file", "results=elsewhere"])
    assert str(folder / "file") in str(error.value.filename)
