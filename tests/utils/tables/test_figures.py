"""Pictures of a study: the same files each time, readable with many rows, a front that nobody beats."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.utils.tables.measured import cells
from utils.report.columns import Column, Map
from utils.tables.figures import TrialPoint, draw_map, draw_trials, pareto
from utils.tables.table import StudyColumn, TableSpec, make_table

KEPT, FORGOT = Column("MU", "kept", better="high"), Column("F", "forgot", better="oracle")


def table(rows: int):
    made = cells("oracle", "oracle", {"kept": [0.7], "forgot": [0.1]})
    for place in range(rows):
        made += cells(f"row <{place}>", "method", {"kept": [place / rows] * 2, "forgot": [0.0, 0.1]})
    return make_table(made, TableSpec("A & B", [StudyColumn(KEPT), StudyColumn(FORGOT)]))


def words(path) -> str:
    return " ".join(ElementTree.parse(path).getroot().itertext())


def test_few_rows_carry_their_names(tmp_path):
    svg, pdf = draw_map(table(3), Map(KEPT, FORGOT), tmp_path)
    assert all(name in words(svg) for name in ("oracle", "row <2>", "A & B"))
    assert pdf.read_bytes().startswith(b"%PDF")


def test_sixty_rows_carry_numbers_and_a_list_names_them(tmp_path):
    svg, _ = draw_map(table(60), Map(KEPT, FORGOT), tmp_path)
    assert "61  row <59>" in words(svg)


def test_the_same_table_gives_the_same_bytes(tmp_path):
    first, second = (draw_map(table(4), Map(KEPT, FORGOT), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_what_was_not_measured_is_not_drawn(tmp_path):
    assert draw_map(table(3), Map(KEPT, Column("else", "else")), tmp_path) == []
    assert draw_trials("A", [], "MU", 0.95, tmp_path) == [] and not list(tmp_path.iterdir())


def test_the_front_holds_what_no_other_beats():
    points = [TrialPoint("a", *place, chosen=False) for place in ((0.1, 0.5), (0.2, 0.9), (0.2, 0.8), (0.3, 0.9), (0.05, 0.1))]
    assert [(one.distance, one.kept) for one in pareto(points)] == [(0.05, 0.1), (0.1, 0.5), (0.2, 0.9)]


@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 25])
def test_trials_of_all_rows_are_in_the_legend(tmp_path, rows):
    points = [TrialPoint(f"row{row}", 0.1 * trial, 0.2 * trial, trial == 1) for row in range(rows) for trial in range(4)]
    svg, _ = draw_trials("A", points, "model utility", 0.95, tmp_path)
    assert all(f"row{row}" in words(svg) for row in range(rows)) and "model utility" in words(svg)
