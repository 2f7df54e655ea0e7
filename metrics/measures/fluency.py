"""How a model's own answers read, on any benchmark that asks for them. The numbers: metrics/text_quality.py.

    fluency_<number>_<task>, fluency_<number>     each task, and all tasks together
                                                  numbers: empty, words, dominated, diversity, rep2, rep3, distinct1, 2, 3
    fluency_clean_<task>, fluency_clean           probability that a classifier gives to the label of clean text, if one is named

An unlearned model that falls silent, or says one word over and over, has forgotten nothing: it is broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from metrics.tables import mean_over
from metrics.text_quality import reading
from utils.checks import first_line, whole
from utils.distributed import main_first
from utils.evaluation.measure import Measure
from utils.fingerprint import text_hash
from utils.items.benchmark import Benchmark, Extra, Resources
from utils.items.metric import Metric
from utils.items.requests import Request
from utils.items.saved import Row, Saved
from utils.shared_work import extended_rows


@dataclass(frozen=True)
class Fluency(Measure):
    """classifier: None, or a sequence classifier (a folder or a name on the Hub) that tells clean text from gibberish.

    label: number of its label for clean text. max_length: tokens that it reads of an answer, the end is cut. batch_size: answers
    at a time. Raises ValueError for other values.
    """

    name: str
    classifier: str | None = None
    label: int = 0
    max_length: int = 32
    batch_size: int = 32

    def __post_init__(self) -> None:
        for key, least in {"label": 0, "max_length": 2, "batch_size": 1}.items():
            whole(f"measure.{self.name}.{key}", vars(self)[key], least)

    def check(self, benchmark: Benchmark, asked: Sequence[Request]) -> None:
        """Raises ValueError if the benchmark asks for no answers, or the classifier is not there or has no such label."""
        if not any(request.truth is not None for request in asked):
            raise self.unfit(benchmark, "asks for no answers of the model's own, which would read well or not")
        if self.classifier is not None:
            self._check_classifier(self.classifier)

    @property
    def extras(self) -> Sequence[Extra]:
        """The classifier, if one is named."""
        return () if self.classifier is None else (self.add_verdicts,)

    def add_verdicts(self, rows: list[Row], resources: Resources) -> list[Row]:
        """Adds `clean`, the classifier's probability, and `clean_by`, its name, to the rows with an answer."""
        from utils.judges.judges import ClassifierJudge  # loads transformers, which the numbers do without

        judge = ClassifierJudge(self.classifier, "{output}", [self.label], max_length=self.max_length, batch_size=self.batch_size)

        def judged(rows: Sequence[Row]) -> list[Row]:
            verdicts = judge.judge([row["question"] for row in rows], [row["generation"] for row in rows])
            return [{"clean": verdict.score, "clean_by": self.classifier} for verdict in verdicts]

        path = resources.folder / "parts" / f"{self.name}-{text_hash(judge.name)}.jsonl"
        return extended_rows(rows, lambda row: "generation" in row, path, judged)

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """The numbers of each task with answers, and of all of them together."""
        rows = [row for row in saved.generations if "generation" in row]
        tasks = list(dict.fromkeys(row["task"] for row in rows))
        metrics: dict[str, Metric] = {}
        for end, chosen in [*((f"_{task}", [row for row in rows if row["task"] == task]) for task in tasks), ("", rows)]:
            metrics |= {f"{self.name}_{name}{end}": metric for name, metric in self._of(chosen, saved.resamples).items()}
        return metrics

    def _of(self, rows: Sequence[Row], resamples: int) -> dict[str, Metric]:
        metrics = reading({(row["task"], row["index"]): row["generation"] for row in rows}, resamples)
        judged = [row for row in rows if "clean" in row]
        if judged:
            definition = (
                f"mean probability of label {self.label} of the classifier {judged[0]['clean_by']}, which reads "
                f"{self.max_length} tokens of an output; high is clean, though open-unlearning calls it gibberish; classifiers "
                "do not compare"
            )
            clean = pd.Series({(row["task"], row["index"]): row["clean"] for row in judged})
            metrics["clean"] = mean_over(clean, definition, resamples)
        return metrics

    def _check_classifier(self, path: str) -> None:
        from transformers import AutoConfig  # as in add_verdicts

        from utils.weights.folders import model_folder

        try:
            with main_first():
                labels = AutoConfig.from_pretrained(model_folder(path)).num_labels
        except (OSError, ValueError) as error:
            key = f"measure.{self.name}.classifier"
            raise ValueError(f"{key}={path}: cannot be loaded ({first_line(error)}); check the name or folder") from error
        if self.label >= labels:
            raise ValueError(f"measure.{self.name}.label={self.label}: {path} has labels 0 to {labels - 1}")
