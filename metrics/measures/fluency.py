"""How a model's own answers read, on any benchmark that asks for them. The numbers: metrics/text_quality.py.

    fluency_<number>_<task>, fluency_<number>     each task, and all tasks together
                                                  numbers: empty, words, dominated, diversity, rep2, rep3, distinct1, 2, 3
    fluency_clean_<task>, fluency_clean           probability that a classifier gives to the label of clean text, if one is named

An unlearned model that falls silent, or says one word over and over, has forgotten nothing: it is broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from transformers import AutoConfig

from metrics.text_quality import reading
from utils.distributed import gathered, main_first, rank, world_size
from utils.engine.engine import Engine
from utils.evaluation.measure import Evaluated, Measure, rows_of_benchmark
from utils.fingerprint import text_hash
from utils.items.benchmark import Benchmark
from utils.items.metric import Metric, measured
from utils.judges.judges import ClassifierJudge
from utils.shared_work import kept_rows
from utils.tokens.prompts import Encoder
from utils.weights.models import model_folder


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
        for key, value, least in (
            ("label", self.label, 0),
            ("max_length", self.max_length, 2),
            ("batch_size", self.batch_size, 1),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"measure.{self.name}.{key}={value}: write a whole number from {least}")

    def check(self, benchmark: Benchmark, split: str) -> None:
        """Raises ValueError if the benchmark asks for no answers, or the classifier is not there or has no such label."""
        if not any(request.truth is not None for request in benchmark.requests(split)):
            raise ValueError(
                f"measure={self.name}: benchmark={benchmark.name} asks for no answers of the model's own, which would read well "
                f"or not; leave {self.name} out"
            )
        if self.classifier is not None:
            self._check_classifier(self.classifier)

    def enrich(self, rows: list[dict], engine: Engine, encoder: Encoder, folder: Path, cfg: DictConfig) -> list[dict]:
        """Adds `clean`, the classifier's probability, and `clean_by`, its name, to the benchmark's own rows."""
        if self.classifier is None:
            return rows
        judge = self._judge(self.classifier)
        own = _answered(rows)

        def judged() -> list[dict]:
            mine = own[rank() :: world_size()]
            verdicts = judge.judge([row["question"] for row in mine], [row["generation"] for row in mine])
            found = [{**_key(row), "clean": verdict.score} for row, verdict in zip(mine, verdicts, strict=True)]
            return sorted(gathered(found), key=lambda row: (row["task"], row["index"]))

        kept = kept_rows(folder / "parts" / f"{self.name}-{text_hash(judge.name)}.jsonl", judged)
        found = {(row["task"], row["index"]): {"clean": row["clean"], "clean_by": judge.path} for row in kept}
        return [{**row, **found.get((row["task"], row["index"]), {})} for row in rows]

    def from_tables(self, found: Evaluated) -> dict[str, Metric]:
        """The numbers of each task with answers, and of all of them together."""
        rows = _answered(found.generations)
        tasks = list(dict.fromkeys(row["task"] for row in rows))
        metrics: dict[str, Metric] = {}
        for end, chosen in [*((f"_{task}", [row for row in rows if row["task"] == task]) for task in tasks), ("", rows)]:
            metrics |= {f"{self.name}_{name}{end}": metric for name, metric in self._of(chosen, found.resamples).items()}
        return metrics

    def _of(self, rows: Sequence[dict], resamples: int) -> dict[str, Metric]:
        metrics = reading({(row["task"], row["index"]): row["generation"] for row in rows}, resamples)
        known = [row for row in rows if "clean" in row]
        if known:
            definition = (
                f"mean probability of label {self.label} of the classifier {known[0]['clean_by']}, which reads "
                f"{self.max_length} tokens of an output; high is clean, though open-unlearning calls it gibberish; classifiers "
                "do not compare"
            )
            values, items = [row["clean"] for row in known], [(row["task"], row["index"]) for row in known]
            metrics["clean"] = measured({"items": values}, definition, items={"items": items}, resamples=resamples)
        return metrics

    def _judge(self, path: str) -> ClassifierJudge:
        return ClassifierJudge(path, "{output}", [self.label], max_length=self.max_length, batch_size=self.batch_size)

    def _check_classifier(self, path: str) -> None:
        try:
            with main_first():
                labels = AutoConfig.from_pretrained(model_folder(path)).num_labels
        except (OSError, ValueError) as error:
            why = str(error).strip().partition("\n")[0][:160]
            raise ValueError(
                f"measure.{self.name}.classifier={path}: cannot be loaded ({why}); check the name or folder"
            ) from error
        if self.label >= labels:
            raise ValueError(f"measure.{self.name}.label={self.label}: {path} has labels 0 to {labels - 1}")


def _answered(rows: Sequence[dict]) -> list[dict]:
    """The benchmark's own rows that hold an answer of the model."""
    return [row for row in rows_of_benchmark(rows) if "generation" in row]


def _key(row: dict) -> dict:
    return {"task": row["task"], "index": row["index"]}
