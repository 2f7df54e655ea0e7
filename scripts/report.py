"""Writes the report of a set of runs: table.md, and report.html as one self-contained page.

    python scripts/report.py runs/quickstart
    python scripts/report.py runs/quickstart --out reports/quickstart --title "Quick start"

Every immediate sub-folder counts that is a finished run with an evaluation in eval/, or such an evaluation itself; so does
RUNS_DIR if it is one. What a benchmark says in plain words of its unlearned models is printed and stands below the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _path

from utils.files import write_text
from utils.report.headline import verdicts
from utils.report.page import page
from utils.report.read import read_report
from utils.report.table import markdown_table
from utils.runs.cli import errors_in_one_sentence


def write_report(runs: Path, out: Path | None = None, title: str | None = None) -> list[Path]:
    """Writes table.md and report.html to `out` (default: `runs`) and returns their paths. Raises ValueError."""
    report = read_report(runs, title, out)
    folder = out or runs
    folder.mkdir(parents=True, exist_ok=True)
    told = "".join(f"\n**{run.label}**\n\n" + "".join(f"- {line}\n" for line in lines) for run, lines in verdicts(report))
    contents = {folder / "table.md": markdown_table(report) + told, folder / "report.html": page(report)}
    for path, content in contents.items():
        write_text(path, content)
    return list(contents)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Report a set of runs: table.md and report.html.")
    parser.add_argument("runs", type=Path, metavar="RUNS_DIR", help="folder that holds the run folders")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the two files go (default: RUNS_DIR)")
    parser.add_argument("--title", metavar="TEXT", help="title of the report (default: the folder's name)")
    options = parser.parse_args(arguments)
    with errors_in_one_sentence():
        for path in write_report(options.runs, options.out, options.title):
            print(path)
        for run, lines in verdicts(read_report(options.runs, options.title, options.out)):
            print(f"{run.label}:", *lines, sep="\n  ")


if __name__ == "__main__":
    main()
