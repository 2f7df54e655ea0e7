"""How well answers are known by heart, on any benchmark: exact memorisation and extraction strength (metrics/verbatim.py).

    exact_memorization_<task>, extraction_strength_<task>

Read from the hits that every evaluation saves, so that it costs no forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from metrics.tables import WITHOUT, DropEos, Dropped, answers_of, check_drop_eos, dropped, kept_tokens, mean_over, per_question
from metrics.verbatim import exact_memorization, extraction_strength
from utils.checks import choose
from utils.evaluation.measure import Measure
from utils.items.benchmark import Benchmark
from utils.items.metric import Metric
from utils.items.requests import Request, tasks_with_answers
from utils.items.saved import Saved

Tasks = Literal["all", "forgotten"]


@dataclass(frozen=True)
class Memorization(Measure):
    """tasks: all that have answers | forgotten: only those about what is to be forgotten.

    floor: whether the extraction strength of an answer is at least one token's share, as open-unlearning has it; auto: with
    compat=open_unlearning. drop_eos: auto (a supervised EOS is no part of the answer; with compat=open_unlearning the last token,
    whatever it is) | eos | last | never. Raises ValueError for other values.
    """

    name: str
    tasks: Tasks = "all"
    floor: bool | Literal["auto"] = "auto"
    drop_eos: DropEos = "auto"

    def __post_init__(self) -> None:
        check_drop_eos(self.name, self.drop_eos)
        choose(f"measure.{self.name}.tasks", self.tasks, get_args(Tasks))
        choose(f"measure.{self.name}.floor", self.floor, ("auto", True, False))

    def check(self, benchmark: Benchmark, asked: Sequence[Request]) -> None:
        """Raises ValueError if the benchmark scores no answers to the tasks."""
        answered = tasks_with_answers(asked)
        if not answered & set(benchmark.forgotten if self.tasks == "forgotten" else answered):
            raise self.unfit(benchmark, "scores no true answers, which would be known by heart or not")

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """Both numbers of each task."""
        answered = dict.fromkeys(saved.scores.loc[saved.scores["role"] == "answer", "task"])
        metrics: dict[str, Metric] = {}
        for task in saved.forgotten if self.tasks == "forgotten" else answered:
            metrics |= self._of_task(task, answers_of(saved.scores, task), saved)
        return metrics

    def _of_task(self, task: str, rows: pd.DataFrame, saved: Saved) -> dict[str, Metric]:
        drop = dropped(self.drop_eos, saved.compat)
        floor = saved.compat == "open_unlearning" if self.floor == "auto" else self.floor
        kept = kept_tokens(rows, drop)
        hits = pd.Series([np.asarray(hit)[:count] for hit, count in zip(rows["hit"], kept, strict=True)])
        empty = np.array(kept) == 0  # open-unlearning leaves such an answer out of the one number and counts it in the other
        made = {
            "exact_memorization": per_question([exact_memorization(hit) for hit in hits[~empty]], rows[~empty]),
            "extraction_strength": per_question(
                [extraction_strength(hit, floor) for hit in hits[~empty | floor]], rows[~empty | floor]
            ),
        }
        told = definitions(task, drop, floor, saved.compat)
        return {
            f"{name}_{task}": mean_over(values, told[name], saved.resamples, task) for name, values in made.items() if len(values)
        }


def definitions(task: str, drop: Dropped, floor: bool, compat: str) -> dict[str, str]:
    """What the two numbers of a task are, by name."""
    about = f"true answers of task {task}; {WITHOUT[drop]}, compat={compat}"
    return {
        "exact_memorization": (
            f"mean share of answer tokens that are the model's most likely next token, {about}; open-unlearning"
        ),
        "extraction_strength": (
            "mean share of an answer that follows, each token as the most likely one, from the tokens before it; "
            f"{about}, floor={str(floor).lower()}; open-unlearning"
        ),
    }
