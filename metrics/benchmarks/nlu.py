"""Accuracy of generated answers to multiple-choice questions, as MEOW (arXiv 2409.11844) measures language understanding.

    <task>_acc         answers that name the right label
    <task>_labelled    answers that name a label at all (form=paper)

form=paper: the first label that stands alone in the first line of the answer ("B", "(B)", "B: four"). form=meow: whether the
right label occurs anywhere in the first 8 characters (PIQA: 10) of the output with its special tokens, as in the released code
(which rounds to 4 decimals, we do not): with Llama "<s> " takes four of them, and "Answer" names A. Neither compares with
accuracies by likelihood.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from metrics.tables import by_question, mean_over
from utils.checks import choose
from utils.items.metric import Metric
from utils.items.saved import Metrics, Row, Saved

TASKS = ("arc_challenge", "arc_easy", "piqa")
FORMS = ("paper", "meow")
WINDOW = {"arc_challenge": 8, "arc_easy": 8, "piqa": 10}  # characters of an output that the released code looks at
MEOW = "MEOW (arXiv 2409.11844)"


def first_label(text: str, labels: Sequence[str]) -> str | None:
    """The first of the labels that stands alone in the first line of a text, or None: "A" in "Answer" does not count.

    Case matters: the article "a" is no label, though one that begins a sentence reads as label A.
    """
    line = text.strip().partition("\n")[0]
    found = re.search(rf"(?<!\w)(?:{'|'.join(map(re.escape, labels))})(?!\w)", line)
    return found.group() if found else None


def in_window(output: str, label: str, window: int) -> bool:
    """Whether the label's characters occur in the first `window` characters of the output: the released code's test."""
    return label in output[:window]


@dataclass(frozen=True)
class NluMetrics(Metrics):
    """From generations with `form`, `labels` and `asked`, and for form=meow with `output`. form: paper | meow."""

    form: str = "paper"

    def __post_init__(self) -> None:
        choose("benchmark.form", self.form, FORMS)

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """Every number that the rows allow. Raises ValueError for rows that were asked in another form."""
        metrics: dict[str, Metric] = {}
        for task in TASKS:
            rows = saved.rows(task)
            for row in rows:
                if row["form"] != self.form:
                    raise ValueError(
                        f"task {task}, row {row['index'] + 1}: was asked with form={row['form']}, whose prompts are others than "
                        f"those of form={self.form}; use benchmark.form={row['form']}, or evaluate again into another folder"
                    )
            if rows:
                metrics |= (_paper if self.form == "paper" else _meow)(task, rows, saved.resamples)
        if not metrics:
            raise ValueError("generations.jsonl holds no row of any task; evaluate again")
        return metrics


def _paper(task: str, rows: Sequence[Row], resamples: int) -> dict[str, Metric]:
    said = [first_label(row["generation"], row["labels"]) for row in rows]
    right = [label == row["truth"] for label, row in zip(said, rows, strict=True)]
    labelled = [label is not None for label in said]
    what = "a label that stands alone in their first line"
    return {
        f"{task}_acc": _share(right, f"share of answers with {what}, the first of them the right one", rows, resamples),
        f"{task}_labelled": _share(labelled, f"share of answers with {what}", rows, resamples),
    }


def _meow(task: str, rows: Sequence[Row], resamples: int) -> dict[str, Metric]:
    window = WINDOW[task]
    right = [in_window(row["output"], row["truth"], window) for row in rows]
    what = f"share of outputs, special tokens kept, with the right label in their first {window} characters, form=meow"
    return {f"{task}_acc": _share(right, what, rows, resamples)}


def _share(values: Sequence[bool], what: str, rows: Sequence[Row], resamples: int) -> Metric:
    definition = f"{what}; greedy; {rows[0]['asked']}; {MEOW}"
    return mean_over(by_question(values, rows), definition, resamples, "questions")
