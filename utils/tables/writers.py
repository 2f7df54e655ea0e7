"""A study's table as files: Markdown, LaTeX, HTML, and its numbers as CSV and Parquet.

    table.md       to be read as text too
    table.tex      a table of the package booktabs, for engines that read UTF-8
    table.html     one page that stands alone
    numbers.*      CSV and Parquet: a line for each row, column and seed (kind `seed`), and for each row and column (`aggregate`)

Names and settings are a user's text: each format escapes it in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from utils.files import write_parquet, write_text
from utils.items.metric import Interval
from utils.report.collapse import MARK
from utils.report.columns import Column
from utils.report.markdown import MISSING, bold, escape
from utils.report.markdown import table as markdown_rows
from utils.report.page import render
from utils.tables.caption import caption
from utils.tables.table import StudyColumn, StudyTable, TableCell, TableRow

_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    MARK: r"$\dagger$",
    "Δ": r"$\Delta$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
}


class Text(NamedTuple):
    """What stands in a cell, before it is escaped."""

    words: str
    bold: bool = False


class Part(NamedTuple):
    """One of the printed columns that a column of the table takes."""

    header: str
    words: Callable[[TableCell], str]
    is_value: bool = False


class Grid(NamedTuple):
    """The table as text. starts: numbers of the rows, from the second on, that begin another role."""

    header: list[str]
    rows: list[list[Text]]
    starts: list[int]


def write_table(table: StudyTable, folder: Path) -> list[Path]:
    """Writes all formats into an existing folder, and says where."""
    numbers = tidy(table)
    texts = {"table.md": markdown(table), "table.tex": latex(table), "table.html": html(table), "numbers.csv": csv(numbers)}
    for name, text in texts.items():
        write_text(folder / name, text)
    write_parquet(numbers, folder / "numbers.parquet")
    return [folder / name for name in (*texts, "numbers.parquet")]


def markdown(table: StudyTable) -> str:
    """A heading, the table, and the caption as a list."""
    grid = as_grid(table)
    rows = [[bold(cell.words) if cell.bold else cell.words for cell in row] for row in grid.rows]
    notes = [f"- {escape(note)}" for note in caption(table)]
    return "\n".join([f"# {escape(table.spec.title)}", "", markdown_rows(grid.header, rows), "", *notes]) + "\n"


def latex(table: StudyTable) -> str:
    """A floating table; booktabs rules stand between roles."""
    grid = as_grid(table)
    lines = [_latex_row([Text(words) for words in grid.header]), r"\midrule"]
    for place, row in enumerate(grid.rows):
        lines += [r"\midrule"] if place in grid.starts else []
        lines.append(_latex_row(row))
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{_latex(' '.join([f'{table.spec.title}.', *caption(table)]))}}}",
            rf"\begin{{tabular}}{{l{'l' if grid.header[1] == 'setting' else 'r'}{'r' * (len(grid.header) - 2)}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def html(table: StudyTable) -> str:
    """One page: nothing is fetched and nothing runs."""
    grid = as_grid(table)
    rows = list(zip(table.rows, grid.rows, strict=True))
    return render("study.html", title=table.spec.title, header=grid.header, rows=rows, notes=caption(table))


def csv(numbers: pd.DataFrame) -> str:
    """The frame of `tidy`; what a line does not have is empty, numbers have all their digits."""
    return numbers.to_csv(index=False, lineterminator="\n")


def as_grid(table: StudyTable) -> Grid:
    """The table as text, without columns that nobody has something in."""
    with_settings = any(row.settings for row in table.rows)
    parts = [_parts(table, place) for place in range(len(table.columns))]
    header = ["", *(["setting"] if with_settings else []), "n", *(part.header for of_column in parts for part in of_column)]
    rows = []
    for row in table.rows:
        role = "" if row.role in ("method", row.name) else f" ({row.role})"
        name = f"{row.name}{role}{f' {MARK}' if row.collapsed else ''}"
        cells = [_text(part, cell, row) for of_column, cell in zip(parts, row.cells, strict=True) for part in of_column]
        rows.append([Text(name), *([Text(row.settings)] if with_settings else []), Text(str(row.seeds)), *cells])
    roles = [row.role for row in table.rows]
    return Grid(header, rows, [place for place in range(1, len(roles)) if roles[place] != roles[place - 1]])


def _text(part: Part, cell: TableCell | None, row: TableRow) -> Text:
    words = "" if cell is None else part.words(cell)
    if words and part.is_value and cell is not None and len(cell.cells) < row.seeds:
        words += f" (n={len(cell.cells)})"
    return Text(words or MISSING, bool(words) and part.is_value and cell is not None and cell.best)


def _parts(table: StudyTable, place: int) -> list[Part]:
    """What is printed of a column: its value, then what stands beside it in any row."""
    column, baseline = table.columns[place], table.spec.baseline
    cells = [cell for row in table.rows if (cell := row.cells[place]) is not None]
    shown, aside = column.shown, "" if column.evaluation == table.spec.plain else f" ({column.evaluation})"
    beside = [
        Part(f"{column.column.name}: p{aside}", lambda cell: _span(column.column, cell.p_values)),
        Part(f"{column.column.name}: place{aside}", lambda cell: _span(shown, cell.placements)),
        Part(f"{shown.name}: drop{aside}", lambda cell: "" if cell.drop is None else _signed(shown, cell.drop.mean)),
        Part(f"{shown.name}{aside}: Δ {baseline}", lambda cell: _difference(shown, cell)),
        Part(f"{shown.name}{aside}: over subjects", lambda cell: _interval(shown, cell.clustered and cell.clustered.ci95)),
        Part(f"{column.column.name}: published", lambda cell: _published(column, cell)),
    ]
    value = [Part(shown.header.replace(shown.name, shown.name + aside, 1), lambda cell: _mean(shown, cell), is_value=True)]
    return (value if column.has_mean else []) + [part for part in beside if any(map(part.words, cells))]


def _mean(column: Column, cell: TableCell) -> str:
    if cell.spread is None:
        return ""
    sd = "" if math.isnan(cell.spread.sd) else f" ± {column.show(cell.spread.sd)}"
    return f"{column.show(cell.spread.mean)}{sd}"


def _span(column: Column, ends: Interval | None) -> str:
    return "" if ends is None else " to ".join(dict.fromkeys(map(column.show, ends)))


def _signed(column: Column, value: float) -> str:
    return f"{'−' if value < 0 else '+'}{column.show(abs(value))}"


def _interval(column: Column, ends: Interval | None) -> str:
    return "" if ends is None else f"[{_signed(column, ends[0])}, {_signed(column, ends[1])}]"


def _difference(column: Column, cell: TableCell) -> str:
    if cell.difference is None:
        return ""
    p = "" if cell.p_holm is None else f"p {cell.p_holm:.2g}"
    words = (_signed(column, cell.difference.mean), _interval(column, cell.difference.ci95), p)
    return " ".join(word for word in words if word)


def _published(column: StudyColumn, cell: TableCell) -> str:
    if cell.verdict is None:
        return ""
    printed = cell.verdict.published
    value = column.column.show(printed) if isinstance(printed, float) else printed
    return " ".join(str(word) for word in (value, cell.verdict.words) if word is not None)


def tidy(table: StudyTable) -> pd.DataFrame:
    """The numbers, one to a line; what a kind of line does not have is missing."""
    return pd.DataFrame([*_seed_lines(table), *_aggregate_lines(table)], columns=list(LINE)).astype(LINE)


LINE = {
    **dict.fromkeys(("kind", "row", "role", "settings", "evaluation", "column", "metric"), "string"),
    "seed": "Int64",
    **dict.fromkeys(("value", "ci95_low", "ci95_high"), "Float64"),
    "items": "Int64",
    **dict.fromkeys(("definition", "folder"), "string"),
    **dict.fromkeys(("mean", "sd"), "Float64"),
    "n": "Int64",
    **dict.fromkeys(("best", "collapsed"), "boolean"),
    "baseline": "string",
    **dict.fromkeys(("difference", "difference_low", "difference_high", "p", "p_holm"), "Float64"),
    **dict.fromkeys(("subjects_low", "subjects_high", "subjects_p"), "Float64"),
    "subjects": "Int64",
    "drop": "Float64",
    **dict.fromkeys(("published", "verdict"), "string"),
    "published_difference": "Float64",
}
"""Columns of `tidy`, and their types: a format that has none keeps an empty column a column of its kind."""


def _measured(table: StudyTable) -> Iterator[tuple[dict[str, Any], StudyColumn, TableCell, TableRow]]:
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if cell is not None:
                about = {"row": row.name, "role": row.role, "settings": row.settings, "evaluation": column.evaluation}
                yield about | {"column": column.column.name}, column, cell, row


def _seed_lines(table: StudyTable) -> Iterator[dict[str, Any]]:
    """A line for each number of a seed: of a p-value also those of its statistic and its place."""
    for about, column, cell, _ in _measured(table):
        metrics = dict.fromkeys((column.column.metric, column.column.statistic, column.column.placement))
        for seed, measured in cell.cells.items():
            for metric in metrics:
                number = None if metric is None else measured.metrics.get(metric)
                if number is not None:
                    low, high = number.ci95
                    yield about | {
                        "kind": "seed",
                        "metric": metric,
                        "seed": seed,
                        "value": number.value,
                        "ci95_low": low,
                        "ci95_high": high,
                        "items": number.n,
                        "definition": number.definition,
                        "folder": str(measured.folder),
                    }


def _aggregate_lines(table: StudyTable) -> Iterator[dict[str, Any]]:
    for about, column, cell, row in _measured(table):
        line = about | {"kind": "aggregate", "metric": column.shown.metric, "n": len(cell.cells), "best": cell.best}
        line |= {"collapsed": bool(row.collapsed)}
        if cell.spread is not None:
            line |= {"mean": cell.spread.mean, "sd": cell.spread.sd}
        if cell.difference is not None:
            low, high = cell.difference.ci95 or (None, None)
            line |= {"baseline": table.spec.baseline, "difference": cell.difference.mean, "difference_low": low}
            line |= {"difference_high": high, "p": cell.difference.p, "p_holm": cell.p_holm}
        if cell.clustered is not None:
            low, high = cell.clustered.ci95
            line |= {"subjects_low": low, "subjects_high": high, "subjects_p": cell.clustered.p, "subjects": cell.clustered.units}
        if cell.drop is not None:
            line |= {"drop": cell.drop.mean}
        if cell.verdict is not None:
            printed = None if cell.verdict.published is None else str(cell.verdict.published)
            line |= {"published": printed, "verdict": cell.verdict.words, "published_difference": cell.verdict.difference}
        yield line


def _latex_row(cells: list[Text]) -> str:
    words = (rf"\textbf{{{_latex(cell.words)}}}" if cell.bold else _latex(cell.words) for cell in cells)
    return rf"{' & '.join(words)} \\"


def _latex(text: str) -> str:
    """Plain text that stays what it is; line breaks become spaces."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
