"""Whether the numbers of a study follow from what is kept of it: from saved scores, or from the weights themselves."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from math import isclose, isnan
from pathlib import Path
from typing import Any

from utils import ROOT
from utils.files import read_json
from utils.runs.cli import as_override
from utils.studies.cells import Cell
from utils.studies.outcome import outcome, page
from utils.studies.planning import Plan

CLOSE = 1e-6  # relative: sums in another order differ by less


def differences(plan: Plan, written: Path, full: bool = False) -> Iterator[str]:
    """A sentence for each number that does not come out as it is written. written: the folder of the study's table.

    full: also evaluates every model anew whose weights are still there. Raises ValueError if nothing of the study is done.
    """
    done = [cell for cell in plan.graph.evaluations() if plan.folder(cell) is not None]
    if not done:
        raise ValueError(f"study {plan.study.name}: nothing of it is done, so there is nothing to verify")
    for cell in done:
        folder = plan.folder(cell)
        assert folder is not None
        saved = read_json(folder / "metrics.json") or {}
        found = {name: metric.value for name, metric in (plan.metrics(cell) or {}).items()}
        yield from _differing(f"{cell.name} ({folder})", saved, found)
        if full:
            yield from _from_weights(plan, cell, saved)
    path = written / "table.md"
    if path.is_file():
        made = outcome(plan)
        if made is None or path.read_text(encoding="utf-8") != page(plan, made):
            yield f"{path}: is not the table that the study's numbers give; write it again with table=true"


def _differing(where: str, saved: Mapping[str, Any], found: Mapping[str, float]) -> Iterator[str]:
    for name in saved.keys() | found.keys():
        if name not in found:
            yield f"{where}: {name} is written, and the scores do not give it"
        elif name not in saved:
            yield f"{where}: {name} is not written, and the scores give {found[name]:.6g}"
        else:
            value = saved[name]["value"]
            value = float("nan") if value is None else float(value)
            same = (isnan(value) and isnan(found[name])) or isclose(value, found[name], rel_tol=CLOSE, abs_tol=1e-12)
            if not same:
                yield f"{where}: {name} is written as {value:.9g}, and the scores give {found[name]:.9g}"


def _from_weights(plan: Plan, cell: Cell, saved: Mapping[str, Any]) -> Iterator[str]:
    """Evaluates the model of a cell again, if everything that this reads is there."""
    if any(
        not (plan.graph.cells[need].folder / "model").is_dir() for need in cell.needs if not plan.graph.cells[need].evaluation
    ):
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "again"
        words = [*cell.words, as_override("out", str(out)), "cache=null"]
        finished = subprocess.run([sys.executable, "evaluate.py", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            yield f"{cell.name}: could not be evaluated again: {finished.stderr.strip().splitlines()[-1]}"
            return
        again = {name: float(entry["value"]) for name, entry in (read_json(out / "metrics.json") or {}).items()}
        yield from _differing(f"{cell.name} from its weights", saved, again)
