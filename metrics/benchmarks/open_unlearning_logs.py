"""Reader of the evaluation logs that open-unlearning writes: TOFU_EVAL.json and MUSE_EVAL.json, plain or gzipped.

Each top-level name is a metric, of which there are three kinds:

    {"agg_value": mean, "value_by_index": {"0": {field: value, ...}, ...}}          a value of each question
    {"agg_value": AUC, "auc": AUC, "forget": <as above>, "holdout": <as above>}     a membership attack
    {"agg_value": value}                                                            what was made of other metrics

What is read is what that code computed for each question, so that numbers are in its form of the metrics, `COMPAT`. Each mean is
held against the log's own: a metric that was set up in another way is refused, and does not pass for ours.

Source: open-unlearning (arXiv 2506.12618), its code at d3d7cf9.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metrics.benchmarks.tofu_logs import load_log
from metrics.measures.membership import GROUPS, Groups, Membership, attack_metrics, membership_auc
from metrics.measures.memorization import definitions
from metrics.membership_attacks import EPS, auc, privleak
from metrics.tables import mean_over
from utils.checks import is_number
from utils.items.metric import Metric
from utils.items.saved import Saved

logger = logging.getLogger(__name__)

COMPAT = "open_unlearning"
TOFU = {  # our task and part -> metric and field
    ("forget", "prob"): ("forget_Q_A_Prob", "prob"),
    ("forget", "rougeL_recall"): ("forget_Q_A_ROUGE", "rougeL_recall"),
    ("forget", "truth_ratio"): ("forget_truth_ratio", "score"),
    ("retain", "prob"): ("retain_Q_A_Prob", "prob"),
    ("retain", "rougeL_recall"): ("retain_Q_A_ROUGE", "rougeL_recall"),
    ("retain", "truth_ratio"): ("retain_Truth_Ratio", "score"),
    ("real_authors", "prob"): ("ra_Q_A_Prob_normalised", "prob"),
    ("real_authors", "rougeL_recall"): ("ra_Q_A_ROUGE", "rougeL_recall"),
    ("real_authors", "truth_ratio"): ("ra_Truth_Ratio", "score"),
    ("world_facts", "prob"): ("wf_Q_A_Prob_normalised", "prob"),
    ("world_facts", "rougeL_recall"): ("wf_Q_A_ROUGE", "rougeL_recall"),
    ("world_facts", "truth_ratio"): ("wf_Truth_Ratio", "score"),
}
MUSE = {  # our task -> metric, whose field is rougeL_f1
    "verbmem": "forget_verbmem_ROUGE",
    "knowmem_forget": "forget_knowmem_ROUGE",
    "knowmem_retain": "retain_knowmem_ROUGE",
}
OF_BENCHMARK = {"tofu": {metric for metric, _ in TOFU.values()}, "muse": set(MUSE.values())}
MEMORISED = ("exact_memorization", "extraction_strength")  # of the forgotten task; called alike here
GRADNORM = "mia_gradnorm"
COMPARED = ("forget_quality", "privleak")  # with a retain model
SIDES = dict(zip(GROUPS, ("forget", "holdout"), strict=True))  # of a membership attack
CLOSE = 1e-6  # relative and absolute: values are of float32
AGAIN = "pass TOFU_EVAL.json or MUSE_EVAL.json as open-unlearning wrote it"

Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Log:
    """One file. content: metric -> what it says of it. Methods raise ValueError naming file, metric and question for what is not
    as the head of this module says, and where a mean is not the log's."""

    path: Path
    content: Mapping[str, Any]

    def items(self, metric: str, field: str, mean_of: Transform | None = None) -> pd.Series:
        """`field` of each question, by its index. mean_of: what of them the log's mean is taken of."""
        values = self._items(self.content[metric], field, metric)
        whole = values.to_numpy() if mean_of is None else mean_of(values.to_numpy())
        self._check(metric, float(whole.mean()), "the mean of its questions")
        return values

    def groups(self, attack: str) -> Groups:
        """Scores of a membership attack: members, others -> one for each text, by its index."""
        entry = self.content[attack]
        sides = entry if isinstance(entry, dict) else {}
        found = {group: self._items(sides.get(side), "score", f"{attack}: {side}") for group, side in SIDES.items()}
        self._check(attack, auc(*found.values()), "the AUC of its scores")
        return found

    def value(self, metric: str) -> float | None:
        """The agg_value of a metric; None without one."""
        entry = self.content.get(metric)
        found = entry.get("agg_value") if isinstance(entry, dict) else None
        return float(found) if is_number(found) else None

    def _items(self, entry: object, field: str, metric: str) -> pd.Series:
        table = entry.get("value_by_index") if isinstance(entry, dict) else None
        if not isinstance(table, dict) or not table:
            raise ValueError(f"{self.path}: {metric}: has no value_by_index, the values of each question; {AGAIN}")
        values: dict[int, float] = {}
        for index in range(len(table)):
            row, where = table.get(str(index)), f"{self.path}: {metric}: question '{index}' of {len(table)}"
            if not isinstance(row, dict) or field not in row:
                raise ValueError(f"{where}: {'is missing' if row is None else f'has no {field}'}; {AGAIN}")
            value = row[field]
            if value is None and metric == "exact_memorization":
                continue  # an answer of which no token counts: left out of the mean there too
            if not is_number(value):
                raise ValueError(f"{where}: {field}={value!r} is not a finite number; score this question again")
            values[index] = float(value)
        return pd.Series(values, dtype=float)

    def _check(self, metric: str, value: float, words: str) -> None:
        logged = self.value(metric)
        if logged is None or not _close(logged, value):
            raise ValueError(
                f"{self.path}: {metric}: its agg_value is {logged}, {words} {value:.6g}; only what was set up as in "
                "open-unlearning's own configuration can be read"
            )


@dataclass(frozen=True)
class OpenUnlearningLogs:
    """The logs of a model and of its retain model (None: there is none).

    about: resamples, forgotten and members; compat is the log's. It has an oracle's table, if only an empty one, wherever
    PrivLeak compares with a retain model, since an AUC of 0.5 stands for none.
    """

    model: Log
    oracle: Log | None
    about: Saved

    def both(self, metric: str, field: str, mean_of: Transform | None = None) -> tuple[pd.Series, pd.Series] | None:
        """The values of model and retain model; None unless both logs have them. Raises ValueError as `Log.items`, and if one was
        asked more questions than the other."""
        if self.oracle is None or any(metric not in log.content for log in (self.model, self.oracle)):
            return None
        own, of_oracle = (log.items(metric, field, mean_of) for log in (self.model, self.oracle))
        _check_alike(metric, own, of_oracle, self.oracle.path)
        return own, of_oracle

    def groups(self, attack: str) -> tuple[Groups, Groups | None]:
        """The scores of a membership attack by model and retain model. Raises ValueError as `both`."""
        own = self.model.groups(attack)
        if self.oracle is None or attack not in self.oracle.content:
            return own, None
        of_oracle = self.oracle.groups(attack)
        for group, side in SIDES.items():
            _check_alike(f"{attack}: {side}", own[group], of_oracle[group], self.oracle.path)
        return own, of_oracle

    def measures(self) -> dict[str, Metric]:
        """What the log has of the measures memorization, membership and gradnorm. Raises ValueError as `both`."""
        (task,) = self.about.forgotten
        told, measure = definitions(task, "last", floor=True, compat=COMPAT), Membership("membership")
        metrics: dict[str, Metric] = {}
        for name in MEMORISED:
            if name in self.model.content:
                values = self.model.items(name, "score")
                metrics[f"{name}_{task}"] = mean_over(values, told[name], self.about.resamples, task)
        for attack in measure.attacks():
            if f"mia_{attack}" in self.model.content:
                metrics |= attack_metrics(attack, *self.groups(f"mia_{attack}"), measure.words(attack, COMPAT), self.about)
        if GRADNORM in self.model.content:
            words = "the attack gradnorm (open-unlearning), the mean over tensors of the norm of a text's gradient"
            metrics[GRADNORM] = membership_auc(self.model.groups(GRADNORM), words, self.about)
        return metrics


def open_logs(benchmark: str, path: Path, oracle: Path | None, asked: Saved) -> OpenUnlearningLogs | None:
    """The logs of open-unlearning in these files; None if other code wrote them.

    asked: compat, resamples, forgotten and members. Raises ValueError as `load_log`, if it wrote only one of the two, for its
    summary, which has no questions, for another benchmark's log, and for a compat that asks for another form.
    """
    logs = [Log(file, load_log(file)) for file in (path, oracle) if file is not None]
    foreign = [log.path for log in logs if not _is_one(log)]
    if len(foreign) == len(logs):
        return None
    if foreign:
        raise ValueError(f"{foreign[0]}: is no log of open-unlearning, as the other one is; {AGAIN}")
    for one in logs:
        _check_benchmark(one, benchmark)
    if asked.compat not in ("none", COMPAT):
        raise ValueError(f"compat={asked.compat}: {path} holds what open-unlearning computed; leave compat out")
    _tell(logs[0], oracle is not None, benchmark)
    beside = oracle is not None or _beside_another(logs[0])
    about = replace(asked, compat=COMPAT, oracle=pd.DataFrame() if beside else None)
    return OpenUnlearningLogs(logs[0], logs[1] if oracle is not None else None, about)


def _is_one(log: Log) -> bool:
    if log.content and all(is_number(value) for value in log.content.values()):
        raise ValueError(f"{log.path}: holds means without the questions behind them; {AGAIN}")
    return any(isinstance(entry, dict) and "agg_value" in entry for entry in log.content.values())


def _check_benchmark(log: Log, benchmark: str) -> None:
    for name, metrics in OF_BENCHMARK.items():
        if name != benchmark and (found := sorted(metrics & set(log.content))):
            raise ValueError(f"{log.path}: holds {found[0]}, which benchmark={benchmark} has not; use benchmark={name}")
    if not OF_BENCHMARK[benchmark] & set(log.content):
        names = ", ".join(sorted(OF_BENCHMARK[benchmark]))
        raise ValueError(f"{log.path}: holds none of {names}; {AGAIN}")


def _check_alike(metric: str, own: pd.Series, of_oracle: pd.Series, oracle: Path) -> None:
    if len(own) != len(of_oracle):
        raise ValueError(
            f"oracle={oracle}: {metric} has {len(of_oracle)} questions, that of from_logs {len(own)}; take the log of the model "
            "that was retrained for the same forget split"
        )


def _beside_another(log: Log) -> bool:
    """Whether it was written beside the log of a retain model: for want of one PrivLeak takes 0.5 as its AUC."""
    value, own = log.value("privleak"), log.value("mia_min_k")
    changed = value is not None and own is not None and not _close(value, privleak(own, 0.5, EPS))
    return changed or log.value("forget_quality") is not None


def _tell(log: Log, with_oracle: bool, benchmark: str) -> None:
    """Says what was given, what of it is not read, and what would need the retain model's log."""
    words = "beside that of its retain model" if with_oracle else "without one of its retain model"
    logger.info("%s: log of open-unlearning on %s, %s", log.path, benchmark, words)
    attacks = {GRADNORM, *(f"mia_{attack}" for attack in Membership("membership").attacks())}
    known = OF_BENCHMARK[benchmark] | attacks | {*MEMORISED, *COMPARED, "model_utility"}
    if left := sorted(set(log.content) - known):
        logger.info("%s: not read: %s", log.path, ", ".join(left))
    if not with_oracle and _beside_another(log):
        lost = [name for name in COMPARED if log.value(name) is not None]
        logger.warning("%s: compared with a retain model; to have it here, add its log: oracle=FILE", " and ".join(lost))


def _close(first: float, second: float) -> bool:
    return isclose(first, second, rel_tol=CLOSE, abs_tol=CLOSE)
