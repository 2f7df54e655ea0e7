"""Reader of the evaluation logs that the authors of TOFU publish: one JSON file, plain or gzipped, per checkpoint.

Below four top-level names (TOP_LEVEL) the file holds metric name -> {question index as a string: value}. Four metrics
matter here, all losses being averages over the tokens of an answer: `avg_gt_loss`, `avg_paraphrased_loss`,
`average_perturb_loss` (one value per wrong answer), `rougeL_recall`; `rouge1_recall` is read where it is present. The
original code scores at most 300 questions per task.

Source: TOFU (arXiv 2401.06121) and its released code.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metrics.benchmarks.tofu import CHOICE_TASKS, TaskScores
from utils.checks import is_number
from utils.reading import note_file

TOP_LEVEL = {
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
    "forget": "eval_log_forget.json",
}
WRONG_ANSWERS = {"retain": 5, "real_authors": 3, "world_facts": 3, "forget": 5}


def read_tofu_log(path: str | Path) -> dict[str, TaskScores]:
    """Scores of retain, real_authors, world_facts and forget, items sorted by their number.

    The real tasks have no paraphrase: where `avg_paraphrased_loss` is absent there, the true answer stands in. Raises
    FileNotFoundError, and ValueError naming file, task, metric and question for anything that is not such a log:
    broken gzip or JSON, an absent task or metric, questions that differ between metrics, a value that is no finite
    number, too few or many wrong answers.
    """
    path = Path(path)
    log = load_log(path)
    scores = {}
    for task, name in TOP_LEVEL.items():
        if not isinstance(log.get(name), dict):
            names = ", ".join(TOP_LEVEL.values())
            raise ValueError(f"{path}: '{name}' (task {task}) is missing; an aggregated TOFU log has {names}.")
        scores[task] = _task(log[name], task, f"{path}: {name}")
    return scores


def load_log(path: Path) -> dict[str, Any]:
    """The JSON object of a log, whoever wrote it. Raises FileNotFoundError, and ValueError for anything else."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; pass the path of an evaluation log (.json or .json.gz).")
    try:
        raw = path.read_bytes()
        log = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: broken gzip ({error}); fetch it again, or drop .gz from its name.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}); fetch it again, or name a gzipped file .json.gz.") from error
    note_file(path)
    if not isinstance(log, dict):
        raise ValueError(f"{path}: holds a {type(log).__name__}, not an object; pass an evaluation log of the benchmark's code.")
    return log


def _task(table: Mapping[str, object], task: str, where: str) -> TaskScores:
    order = _order(_column(table, "avg_gt_loss", where), f"{where}: avg_gt_loss")

    def values(metric: str, width: int | None = None) -> np.ndarray:
        return _values(_column(table, metric, where), order, width, f"{where}: {metric}")

    no_paraphrase = task in CHOICE_TASKS and "avg_paraphrased_loss" not in table
    return TaskScores(
        gt=values("avg_gt_loss"),
        paraphrased=values("avg_gt_loss" if no_paraphrase else "avg_paraphrased_loss"),
        perturbed=values("average_perturb_loss", WRONG_ANSWERS[task]),
        rougeL_recall=values("rougeL_recall"),
        rouge1_recall=values("rouge1_recall") if "rouge1_recall" in table else None,
    )


def _column(table: Mapping[str, object], metric: str, where: str) -> dict[str, object]:
    column = table.get(metric)
    if not isinstance(column, dict) or not column:
        raise ValueError(f"{where}: metric '{metric}' is missing or empty; score it again with the original code.")
    return column


def _order(column: Mapping[str, object], where: str) -> list[str]:
    """The questions in numeric order: as text, "10" would come before "2"."""
    odd = [index for index in column if not index.isdecimal()]
    if odd:
        raise ValueError(f"{where}: question '{odd[0]}' is not a row number; questions are named '0', '1', ...")
    return sorted(column, key=int)


def _values(column: Mapping[str, object], order: list[str], width: int | None, where: str) -> np.ndarray:
    """A finite number for each question, or `width` of them, (n,) or (n, width)."""
    different = sorted(set(column) ^ set(order))
    if different:
        state = "has" if different[0] in column else "lacks"
        raise ValueError(
            f"{where}: {state} question '{different[0]}', unlike avg_gt_loss; a task needs the same ones throughout."
        )
    for index in order:
        values = column[index] if width else [column[index]]
        if not isinstance(values, list) or len(values) != (width or 1):
            found = f"{len(values)} values" if isinstance(values, list) else repr(values)
            raise ValueError(
                f"{where}: question '{index}': {found} instead of {width}, one per wrong answer; score this question again."
            )
        for value in values:
            if not is_number(value):
                raise ValueError(f"{where}: question '{index}': {value!r} is not a finite number; score this question again.")
    return np.array([column[index] for index in order], dtype=np.float64)
