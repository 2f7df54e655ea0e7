"""How well answers are known by heart, on any benchmark: exact memorisation and extraction strength (metrics/verbatim.py).

    exact_memorization_<task>, extraction_strength_<task>

Read from the hits that every evaluation saves, so that it costs no forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from metrics.measures.membership import WITHOUT, DropEos, answers_of, check_drop_eos, dropped, kept_tokens, per_question
from metrics.verbatim import exact_memorization, extraction_strength
from utils.evaluation.measure import OWN, Evaluated, Measure
from utils.items.benchmark import Benchmark
from utils.items.metric import Metric, measured

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
        if self.tasks not in get_args(Tasks):
            raise ValueError(f"measure.{self.name}.tasks={self.tasks}: write one of {', '.join(get_args(Tasks))}")
        if self.floor not in (True, False, "auto"):
            raise ValueError(f"measure.{self.name}.floor={self.floor}: write auto, true or false")

    def check(self, benchmark: Benchmark, split: str) -> None:
        """Raises ValueError if the benchmark scores no answers to the tasks."""
        asked = {r.task for r in benchmark.requests(split) if any(role == "answer" for role, *_ in r.answers)}
        if not asked & set(benchmark.forgotten if self.tasks == "forgotten" else asked):
            raise ValueError(
                f"measure={self.name}: benchmark={benchmark.name} scores no true answers, which would be known by heart or not; "
                f"leave {self.name} out"
            )

    def from_tables(self, found: Evaluated) -> dict[str, Metric]:
        """Both numbers of each task. Raises ValueError for a table that does not say which answers end in EOS."""
        asked = dict.fromkeys(found.scores.loc[found.scores["role"] == "answer", "task"])
        wanted = found.benchmark.forgotten if self.tasks == "forgotten" else asked
        metrics: dict[str, Metric] = {}
        for task in (task for task in wanted if OWN not in task):
            metrics |= self._of_task(task, answers_of(found.scores, task, self.name), found)
        return metrics

    def _of_task(self, task: str, rows: pd.DataFrame, found: Evaluated) -> dict[str, Metric]:
        drop = dropped(self.drop_eos, found.compat)
        floor = found.compat == "open_unlearning" if self.floor == "auto" else self.floor
        kept = kept_tokens(rows, drop, self.name)
        hits = pd.Series([np.asarray(hit)[:count] for hit, count in zip(rows["hit"], kept, strict=True)])
        empty = np.array(kept) == 0  # open-unlearning leaves such an answer out of the one number and counts it in the other
        about = f"true answers of task {task}; {WITHOUT[drop]}, compat={found.compat}"
        made = {
            "exact_memorization": (
                per_question([exact_memorization(hit) for hit in hits[~empty]], rows[~empty]),
                f"mean share of answer tokens that are the model's most likely next token, {about}; open-unlearning",
            ),
            "extraction_strength": (
                per_question([extraction_strength(hit, floor) for hit in hits[~empty | floor]], rows[~empty | floor]),
                "mean share of an answer that follows, each token as the most likely one, from the tokens before it; "
                f"{about}, floor={str(floor).lower()}; open-unlearning",
            ),
        }
        return {
            f"{name}_{task}": measured(
                {task: values.to_numpy()}, definition, items={task: list(values.index)}, resamples=found.resamples
            )
            for name, (values, definition) in made.items()
            if len(values)
        }
