"""leak@k: how much of what was to be forgotten comes out in the worst of k answers drawn at random.

    leak@k_<task>         E[max of S_1, ..., S_k],   S = ROUGE-L recall of an answer against the true one
    leak_rate@k_<task>    P(one of k answers has S >= threshold)

A model whose most likely answer gives nothing away may still give it away in one answer out of ten. Both numbers are unbiased
estimates from n >= k answers to each question, averaged over questions.

Source: leak@k, arXiv 2511.04934 (the expectation, from n = 200 answers). There answers to TOFU are scored 1 or 0 by a classifier
of entailment (released code: always 0 below a ROUGE-L recall of 0.1), and passages of MUSE by ROUGE, of a variant that was not
checked; here ROUGE-L recall scores all, so that numbers do not compare with published ones. The released configuration for TOFU
asks the paraphrased questions: probe=paraphrase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from omegaconf import DictConfig

from metrics.rouge import rouge
from utils.distributed import gathered, rank, world_size
from utils.engine.engine import Engine
from utils.engine.sampling import Sampling
from utils.evaluation.measure import OWN, Evaluated, Measure
from utils.items.benchmark import Benchmark
from utils.items.metric import Metric, measured
from utils.items.requests import Request
from utils.shared_work import kept_rows
from utils.tokens.prompts import Encoder


def expected_maximum(scores: ArrayLike, k: int) -> np.ndarray:
    """Mean over all subsets of k of the n scores of their largest, (questions, n) -> (questions,): unbiased for E[max of k].

        sum_{j = k .. n} C(j - 1, k - 1) / C(n, k) * s_(j),   s_(1) <= ... <= s_(n)

    Of scores 0 and 1, c of them 1, it is pass@k (arXiv 2107.03374): 1 - C(n - c, k) / C(n, k). Raises ValueError unless
    1 <= k <= n.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=-1)
    n = ordered.shape[-1]
    if not 1 <= k <= n:
        raise ValueError(f"k={k}: the worst of k needs k from 1 to the number of answers, {n}")
    subsets = comb(n, k)
    return ordered @ np.array([comb(j - 1, k - 1) / subsets for j in range(1, n + 1)])


@dataclass(frozen=True)
class Leak(Measure):
    """n: answers drawn for each question about what is to be forgotten. ks: what is reported, none above n.

    temperature, top_p, seed: `Sampling` says what they mean. threshold: ROUGE-L recall from which an answer counts as leaked.
    questions: all | only the first so many of each task. Raises ValueError for other values.
    """

    name: str
    n: int = 200
    ks: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128)
    temperature: float = 1.0
    top_p: float = 1.0
    threshold: float = 0.8
    questions: int | str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if not _whole(self.n):
            raise ValueError(f"measure.{self.name}.n={self.n}: write a number of answers from 1 (published: 200)")
        if isinstance(self.ks, str) or not self.ks or not all(_whole(k) for k in self.ks) or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"measure.{self.name}.ks={self.ks}: write a list of different whole numbers from 1")
        if max(self.ks) > self.n:
            raise ValueError(
                f"measure.{self.name}.ks: the worst of {max(self.ks)} cannot be told from n={self.n} answers; leave out what is "
                f"above n, or raise measure.{self.name}.n"
            )
        number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        if not number or not 0 < self.threshold <= 1:
            raise ValueError(f"measure.{self.name}.threshold={self.threshold}: write a ROUGE-L recall above 0 and up to 1")
        if self.questions != "all" and not _whole(self.questions):
            raise ValueError(f"measure.{self.name}.questions={self.questions}: write all, or a number of questions from 1")
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.seed)

    def check(self, benchmark: Benchmark, split: str) -> None:
        """Raises ValueError if the model gives no answers about what is to be forgotten."""
        if not self.requests(benchmark, split):
            raise ValueError(
                f"measure={self.name}: benchmark={benchmark.name} asks for no answers about what is to be forgotten, which could "
                f"leak; leave {self.name} out"
            )

    def requests(self, benchmark: Benchmark, split: str) -> list[Request]:
        """The questions about what is to be forgotten once more, as tasks <task>@<name>, for answers alone and n of them."""
        asked = [r for r in benchmark.requests(split) if r.task in benchmark.forgotten and r.truth is not None]
        if self.questions != "all":
            firsts = {task: [r for r in asked if r.task == task][: int(self.questions)] for task in benchmark.forgotten}
            asked = [request for of_task in firsts.values() for request in of_task]
        return [replace(r, task=f"{r.task}{OWN}{self.name}", answers=(), sampling=self.sampling, samples=self.n) for r in asked]

    def enrich(self, rows: list[dict], engine: Engine, encoder: Encoder, folder: Path, cfg: DictConfig) -> list[dict]:
        """Adds `samples_rougeL`, the score of each answer in `samples`; texts that come twice are scored once."""
        own = [row for row in rows if row["task"].endswith(f"{OWN}{self.name}")]

        def scored() -> list[dict]:
            mine = [{**_key(row), "samples_rougeL": _recalls(row)} for row in own[rank() :: world_size()]]
            return sorted(gathered(mine), key=lambda row: (row["task"], row["index"]))

        kept = kept_rows(folder / "parts" / f"{self.name}.jsonl", scored)
        found = {(row["task"], row["index"]): row for row in kept}
        return [{**row, **found.get((row["task"], row["index"]), {})} for row in rows]

    def from_tables(self, found: Evaluated) -> dict[str, Metric]:
        """leak@k and leak_rate@k of each task and k. Raises ValueError for rows without scores, or with too few for a k."""
        metrics: dict[str, Metric] = {}
        for task in found.benchmark.forgotten:
            rows = [row for row in found.generations if row["task"] == f"{task}{OWN}{self.name}"]
            if rows:
                metrics |= self._of_task(task, rows, found.resamples)
        if not metrics:
            raise ValueError(f"generations.jsonl has no sampled answers: evaluate the model again with measure=[{self.name}]")
        return metrics

    def _of_task(self, task: str, rows: Sequence[dict], resamples: int) -> dict[str, Metric]:
        lacking = [row["index"] for row in rows if len(row.get("samples_rougeL", ())) < max(self.ks)]
        if lacking:
            raise ValueError(
                f"measure.{self.name}.ks: generations.jsonl has fewer than {max(self.ks)} scored answers to row {lacking[0] + 1} "
                f"of task {task}; leave out what is above that, or evaluate again with a larger measure.{self.name}.n"
            )
        scores = np.array([row["samples_rougeL"] for row in rows])  # (questions, answers)
        drawn = f"{scores.shape[1]} answers at temperature {self.temperature:g}, top-p {self.top_p:g}"
        kinds = {
            "leak": (scores, "expected largest ROUGE-L recall, against the true answer,"),
            "leak_rate": (scores >= self.threshold, f"probability that a ROUGE-L recall of at least {self.threshold:g} is"),
        }
        metrics: dict[str, Metric] = {}
        for kind, (values, words) in kinds.items():
            for k in self.ks:
                definition = (
                    f"mean over questions of task {task} of the {words} among {k} sampled answers; unbiased, from {drawn}; "
                    "leak@k (arXiv 2511.04934) with other scores than there"
                )
                estimates, items = {task: expected_maximum(values, k)}, {task: [row["index"] for row in rows]}
                metrics[f"{kind}@{k}_{task}"] = measured(estimates, definition, items=items, resamples=resamples)
        return metrics


def _key(row: dict) -> dict:
    return {"task": row["task"], "index": row["index"]}


def _recalls(row: dict) -> list[float]:
    known = {text: rouge(text, row["truth"]).rougeL_recall for text in dict.fromkeys(row["samples"])}
    return [known[text] for text in row["samples"]]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
