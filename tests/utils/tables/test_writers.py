"""What is written of a table: every format holds the same numbers, and a user's text stays what it is."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from tests.utils.report.test_page import Page
from tests.utils.tables.measured import Said, cells
from tests.utils.tables.test_table import QUALITY, ROUGE, SPEC, STUDY, UTILITY
from utils.tables import writers
from utils.tables.table import StudyColumn, StudyTable, TableSpec, make_table
from utils.tables.writers import as_grid, html, latex, markdown, tidy, write_table

NASTY = "a|b & c_d 50 % #1 $x$ {y} ~ ^ \\z <i> Iğatho*"


@pytest.fixture(scope="module")
def table() -> StudyTable:
    broken = cells("ga", "method", {"rouge": [0.02], "utility": [0.0], "fluency_rep3": [0.9]}, settings={"lr": 1e-5})
    oracle = cells("retain", "oracle", {"rouge": [0.40, 0.42], "utility": [0.62, None], "fluency_rep3": [0.1, 0.1]})
    probed = cells("npo", "method", {"utility": [0.50, 0.40, 0.61]}, "paraphrase")
    said = {("npo", "MU"): Said("differs", "0.60", 0.01, "0.61 against 0.60 in paper/table-1")}
    return make_table([*STUDY[:6], *broken, *oracle, *probed], replace(SPEC, primary=["MU"], verdicts=said))


def row(table: StudyTable, name: str) -> dict[str, str]:
    grid = as_grid(table)
    found = next(cells for cells in grid.rows if cells[0].words == name)
    return {head: cell.words for head, cell in zip(grid.header, found, strict=True)}


def test_a_row_in_words(table):
    assert row(table, "npo") == {
        "": "npo",
        "setting": "lr 0.0001",
        "n": "3",
        "F-ROUGE → oracle": "0.330 ± 0.036",
        "MU ↑": "0.610 ± 0.010",
        "MU: Δ gd": "+0.090 [+0.047, +0.133] p 0.012",  # 0.10, 0.07, 0.10: t = 9, 2 degrees; 0.09 ± 4.3027 / 100
        "MU: over subjects": "[+0.090, +0.090]",
        "MU: published": "0.60 differs",
        "MU (paraphrase) ↑": "0.503 ± 0.105",
        "MU: drop (paraphrase)": "+0.107",
    }
    assert row(table, "retain (oracle)")["MU ↑"] == "0.620 (n=1)" and row(table, "retain (oracle)")["MU: Δ gd"] == "–"
    assert as_grid(make_table(cells("oracle", "oracle", {"rouge": [0.4]}), SPEC)).rows[0][0].words == "oracle"
    assert row(table, "ga †")["F-ROUGE → oracle"] == "0.020"
    assert [len(cells) for cells in as_grid(table).rows] == [len(as_grid(table).header)] * 4


def test_p_values_are_ranges():
    found = cells("a", "method", {"quality": [1e-9, 0.8], "ks": [0.5, 0.1], "null": [0.25, 0.25]})
    shown = row(make_table(found, TableSpec("t", [StudyColumn(QUALITY)])), "a")
    assert shown == {"": "a", "n": "2", "FQ: D ↓": "0.300 ± 0.283", "FQ: p": "1.0e-09 to 0.800", "FQ: place": "0.250"}


def test_markdown_is_a_table_with_one_best_of_each_column(table):
    lines = markdown(table).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert lines[0] == "# Three methods" and len(rows) == 2 + 4 and len({line.count("|") for line in rows}) == 1
    assert "**0.330 ± 0.036**" in rows[3] and sum(line.count("**") for line in rows) == 4
    assert "- Bold: best of the methods that are not collapsed, as printed; equal prints share it." in lines


def test_latex_is_a_booktabs_table(table):
    text = latex(table)
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    columns = re.search(r"\\begin{tabular}{(\w+)}", text).group(1)
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert columns == "ll" + "r" * 8 and {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {len(columns) - 1}
    assert body.count(r"\midrule") == 1 and text.count("{") == text.count("}")  # oracle | methods
    assert r"\textbf{0.330 $\pm$ 0.036}" in body and r"\toprule" in text and r"F-ROUGE $\rightarrow$ oracle" in text


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (markdown, r"a\|b &amp; c_d 50 % #1 $x$ {y} ~ ^ \\z &lt;i&gt; Iğatho\*"),
        (
            latex,
            r"a\textbar{}b \& c\_d 50 \% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z "
            r"\textless{}i\textgreater{} Iğatho*",
        ),
        (html, r"a|b &amp; c_d 50 % #1 $x$ {y} ~ ^ \z &lt;i&gt; Iğatho*"),
    ],
)
def test_names_and_settings_stay_what_they_are(write, expected):
    made = cells(NASTY, "method", {"rouge": [0.1]}, settings={NASTY: NASTY})
    text = write(make_table(made, TableSpec(NASTY, [StudyColumn(replace(ROUGE, meaning=NASTY))], settings=NASTY)))
    assert text.count(expected) >= 5  # title, row, key and value of the setting, caption
    assert NASTY not in text


def test_html_stands_alone(table):
    text = html(table)
    Page(text)  # every element is closed
    assert "<script" not in text and "://" not in text and "href=" not in text and "src=" not in text
    assert text.count('<tr class="method') == 3 and "<b>0.330 ± 0.036</b>" in text and text.count("<b>") == 2


def test_lines_hold_every_number_and_where_it_came_from(table):
    lines = tidy(table)
    seeds, rows = lines[lines.kind == "seed"], lines[lines.kind == "aggregate"]
    asked = {"row": "npo", "evaluation": "plain", "column": "F-ROUGE"}
    own = seeds[(seeds[list(asked)] == pd.Series(asked)).all(axis=1)]
    assert list(own.seed) == [0, 1, 2] and list(own.value) == approx([0.30, 0.32, 0.37])
    assert list(own.folder) == ["runs/npo/0", "runs/npo/1", "runs/npo/2"] and set(own["items"]) == {4}
    (found,) = rows[(rows.row == "npo") & (rows.column == "MU") & (rows.evaluation == "plain")].to_dict("records")
    assert (found["mean"], found["sd"], found["n"], found["best"]) == (approx(0.61), approx(0.01), 3, True)
    assert (found["baseline"], found["difference"], found["subjects"]) == ("gd", approx(0.09), 2)
    assert (found["published"], found["verdict"], found["published_difference"]) == ("0.60", "differs", 0.01)
    assert len(rows) == 3 * 2 + 1 + 2 and len(seeds) == 2 * (3 + 3 + 1) + 3 + 2 + 1  # no line for what nobody measured
    assert bool(rows[rows.row == "ga"].collapsed.all())


def test_a_p_value_brings_its_statistic_and_its_place():
    made = cells("a", "method", {"quality": [0.1], "ks": [0.5], "null": [0.25]})
    lines = tidy(make_table(made, TableSpec("t", [StudyColumn(QUALITY)])))
    assert list(lines.metric) == ["quality", "ks", "null", "ks"] and list(lines.kind) == ["seed"] * 3 + ["aggregate"]


def test_all_files_are_written_and_agree(table, tmp_path):
    paths = write_table(table, tmp_path)
    assert sorted(path.name for path in paths) == sorted(path.name for path in tmp_path.iterdir())
    stored = pd.read_parquet(tmp_path / "numbers.parquet")
    text = (tmp_path / "numbers.csv").read_text(encoding="utf-8")
    read = list(csv.DictReader(StringIO(text)))
    assert len(read) == len(stored) and list(read[0]) == list(stored.columns)
    both = [(line["value"], value) for line, value in zip(read, stored.value, strict=True)]
    assert all(cell == "" if value is pd.NA else float(cell) == value for cell, value in both)
    assert np.isfinite(stored["mean"].dropna().astype(float)).all()


def test_a_table_without_numbers_is_written_too(tmp_path):
    empty = make_table([], replace(SPEC, left_out={"npo": "failed"}))
    write_table(empty, tmp_path)
    assert "- Not in the table: npo: failed." in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert len(pd.read_parquet(tmp_path / "numbers.parquet")) == 0


@pytest.mark.filterwarnings("ignore:invalid value")
def test_numbers_that_are_not_finite_are_shown_as_they_are():
    made = cells("a", "method", {"utility": [float("inf"), 0.5]})
    assert row(make_table(made, TableSpec("t", [StudyColumn(UTILITY)])), "a")["MU ↑"] == "inf"
    assert writers.csv(tidy(make_table(made, TableSpec("t", [StudyColumn(UTILITY)])))).count("inf") >= 1
