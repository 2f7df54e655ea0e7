"""Membership attacks on any benchmark that has texts which were never trained on (`members`).

The attacks themselves: metrics/membership_attacks.py.

    mia_<attack>                                    AUC of loss, zlib, min_k, min_k_plus_plus; with a retain oracle of reference
    mia_<attack>_privleak, mia_<attack>_rel_diff    that AUC beside the oracle's

The texts are scored anyway, so that all of it costs no forward pass: two more columns (entropy, logp_variance) are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd

from metrics.membership_attacks import (
    EPS,
    auc,
    auc_of_groups,
    change_of_groups,
    loss_attack,
    min_k,
    min_k_plus_plus,
    reference_attack,
    zlib_attack,
)
from utils.evaluation.measure import Evaluated, Measure
from utils.items.benchmark import Benchmark
from utils.items.metric import Metric, Samples, measured

log = logging.getLogger(__name__)

DropEos = Literal["auto", "eos", "last", "never"]
Dropped = Literal["eos", "last", "never"]
Groups = Mapping[str, pd.Series]  # members, others -> one score per question, by its index

GROUPS = ("members", "others")
WITHOUT: Mapping[Dropped, str] = {
    "eos": "a supervised EOS is left out",
    "last": "the last token is left out",
    "never": "the last token counts, EOS or not",
}


@dataclass(frozen=True)
class Attack:
    """needs: columns of the score table. score: of their values at tokens that count. released: what open-unlearning drops."""

    needs: tuple[str, ...]
    score: Callable[[Mapping[str, Any]], float]
    words: str
    released: Dropped = "never"


@dataclass(frozen=True)
class Membership(Measure):
    """k: share of tokens that min-k and min-k++ look at, or several, each of which is then part of a name (mia_min_k_0.2).

    drop_eos: auto (a supervised EOS is no part of the text; with compat=open_unlearning as there: min-k and min-k++ drop the last
    token, whatever it is, the others nothing) | eos | last | never. Raises ValueError for other values.
    """

    name: str
    k: float | Sequence[float] = 0.4
    drop_eos: DropEos = "auto"

    statistics: ClassVar[tuple[str, ...]] = ("entropy", "logp_variance")

    def __post_init__(self) -> None:
        check_drop_eos(self.name, self.drop_eos)
        numbers = [k for k in self.ks if isinstance(k, int | float) and not isinstance(k, bool) and 0 < k <= 1]
        if not self.ks or len(set(numbers)) < len(self.ks):
            raise ValueError(f"measure.{self.name}.k={self.k}: write a number above 0 and up to 1 (MUSE: 0.4), or a list of such")

    @property
    def ks(self) -> list[float]:
        return list(self.k) if isinstance(self.k, Sequence) else [self.k]

    def check(self, benchmark: Benchmark, split: str) -> None:
        """Raises ValueError if nothing that the benchmark asks about was never trained on."""
        check_members(self.name, benchmark, split)

    def from_tables(self, found: Evaluated) -> dict[str, Metric]:
        """The attacks that the tables allow. Raises ValueError if one of the two groups was not scored."""
        tasks = dict(zip(GROUPS, found.benchmark.members, strict=True))
        rows = {group: answers_of(found.scores, task, self.name) for group, task in tasks.items()}
        oracle = None if found.oracle is None else _oracle(rows, found.oracle)
        theirs = {} if oracle is None else self._scores(oracle, found.compat, "oracle.parquet")
        if oracle is not None:
            rows = {group: own.assign(reference_logp=oracle[group]["logp"]) for group, own in rows.items()}
        metrics: dict[str, Metric] = {}
        for attack, groups in self._scores(rows, found.compat, "scores.parquet").items():
            words = self._words(attack, found)
            metrics[f"mia_{attack}"] = membership_auc(groups, words, found)
            if attack != "reference":
                metrics |= _beside_oracle(f"mia_{attack}", groups, theirs.get(attack), words, found)
        return metrics

    def attacks(self) -> dict[str, Attack]:
        """All attacks on saved scores, by name."""
        needs, beside = ("logp", *self.statistics), ("logp", "reference_logp")
        loss = "loss (minus the mean log-probability of a token; arXiv 1709.01604)"
        zlib = "zlib (loss per compressed byte; arXiv 2012.07805)"
        reference = "reference (loss above the retain oracle's; arXiv 2012.07805)"
        known = {
            "loss": Attack(("logp",), lambda a: loss_attack(a["logp"]), loss),
            "zlib": Attack(("logp", "wanted"), lambda a: zlib_attack(a["logp"], a["wanted"]), zlib),
            "reference": Attack(beside, lambda a: reference_attack(a["logp"], a["reference_logp"]), reference),
        }
        for k in self.ks:
            end, of = f"_{k}" if len(self.ks) > 1 else "", f"of the {100 * k:g} % lowest tokens"
            known[f"min_k{end}"] = Attack(
                ("logp",),
                lambda a, k=k: min_k(a["logp"], k),
                f"min-k (minus the mean log-probability {of}; arXiv 2310.16789)",
                "last",
            )
            known[f"min_k_plus_plus{end}"] = Attack(
                needs,
                lambda a, k=k: min_k_plus_plus(a["logp"], -a["entropy"], a["logp_variance"], k),
                f"min-k++ (minus the mean standardised log-probability {of}; arXiv 2404.02936)",
                "last",
            )
        return known

    def _scores(self, rows: Mapping[str, pd.DataFrame], compat: str, file: str) -> dict[str, Groups]:
        """attack -> scores of both groups, of those attacks whose columns are there; the log names the others."""
        found: dict[str, Groups] = {}
        lost: dict[str, str] = {}
        for name, attack in self.attacks().items():
            missing = [column for column in attack.needs if column not in rows["members"]]
            if missing:
                lost[name] = missing[0]
                continue
            drop = dropped(self.drop_eos, compat, attack.released)
            found[name] = {group: _scored(attack, table, drop, self.name) for group, table in rows.items()}
        lost.pop("reference", None)  # not asked for: there is no oracle
        if lost:
            columns = ", ".join(dict.fromkeys(lost.values()))
            log.warning("%s has no column %s: left out: %s; evaluate again to have them", file, columns, ", ".join(lost))
        return found

    def _words(self, name: str, found: Evaluated) -> str:
        attack = self.attacks()[name]
        return f"the attack {attack.words}; {WITHOUT[dropped(self.drop_eos, found.compat, attack.released)]}"


def membership_auc(groups: Groups, words: str, found: Evaluated) -> Metric:
    """AUC of scores that are high for texts which were not trained on. Raises ValueError for a NaN."""
    definition = f"AUC of {words}; 1: remembered, 0.5: like unseen text, 0: less likely than unseen text; {_about(found)}"
    items = {group: list(scores.index) for group, scores in groups.items()}
    samples = {group: scores.to_numpy() for group, scores in groups.items()}
    return measured(samples, definition, auc_of_groups, items=items, resamples=found.resamples)


def check_members(measure: str, benchmark: Benchmark, split: str) -> None:
    """Raises ValueError unless the benchmark asks about texts that were trained on and such that were not."""
    if benchmark.members is None:
        raise ValueError(
            f"measure={measure}: benchmark={benchmark.name} has no texts that were never trained on, to tell members from; "
            f"leave {measure} out"
        )
    asked = {r.task for r in benchmark.requests(split) if any(role == "answer" for role, *_ in r.answers)}
    lost = [task for task in benchmark.members if task not in asked]
    if lost:
        raise ValueError(
            f"measure={measure}: the data of benchmark={benchmark.name} hold no task {lost[0]} for split={split}; add its file "
            f"below data_root, or leave {measure} out"
        )


def check_drop_eos(measure: str, value: str) -> None:
    """Raises ValueError unless the value is one of DropEos."""
    if value not in get_args(DropEos):
        raise ValueError(f"measure.{measure}.drop_eos={value}: write one of {', '.join(get_args(DropEos))}")


def dropped(drop_eos: DropEos, compat: str, released: Dropped = "last") -> Dropped:
    """What auto stands for: `released` with compat=open_unlearning, else eos."""
    if drop_eos != "auto":
        return drop_eos
    return released if compat == "open_unlearning" else "eos"


def kept_tokens(rows: pd.DataFrame, drop: Dropped, measure: str) -> list[int]:
    """How many of the first tokens of each answer count. Raises ValueError for a table from before it said which end in EOS."""
    if drop == "eos" and "eos" not in rows:
        raise ValueError(
            f"scores.parquet does not say which answers end in EOS: evaluate the model again, or leave the last token out of all "
            f"with measure.{measure}.drop_eos=last"
        )
    return (rows["tokens"] - (rows["eos"].astype(int) if drop == "eos" else int(drop == "last"))).tolist()


def answers_of(scores: pd.DataFrame, task: str, measure: str) -> pd.DataFrame:
    """The true answers of a task in order. Raises ValueError if there are none."""
    rows = scores[(scores["task"] == task) & (scores["role"] == "answer")]
    if rows.empty:
        raise ValueError(f"scores.parquet has no answers of task {task}: evaluate the model again with measure=[{measure}]")
    return rows.sort_values(["index", "number"], ignore_index=True)


def per_question(values: Sequence[float], rows: pd.DataFrame) -> pd.Series:
    """The value of each question, by its index: the mean over its answers, if there are several in `rows`."""
    return pd.Series(values, index=rows["index"], dtype=float).groupby(level=0).mean()


def _scored(attack: Attack, rows: pd.DataFrame, drop: Dropped, measure: str) -> pd.Series:
    """The score of each question. An answer of which no token is left has 0, as in open-unlearning."""
    scores = []
    for kept, *values in zip(kept_tokens(rows, drop, measure), *(rows[column] for column in attack.needs), strict=True):
        tokens = [value if isinstance(value, str) else np.asarray(value, np.float64)[:kept] for value in values]
        scores.append(attack.score(dict(zip(attack.needs, tokens, strict=True))) if kept else 0.0)
    return per_question(scores, rows)


def _oracle(rows: Mapping[str, pd.DataFrame], oracle: pd.DataFrame) -> dict[str, pd.DataFrame] | None:
    """The same rows with what the retain oracle says about their tokens; None if it was not asked for all of them.

    Raises ValueError if it read other tokens.
    """
    keys = ["task", "index", "role", "number"]
    known = oracle.set_index(keys)
    found = {}
    for group, own in rows.items():
        wanted, task = pd.MultiIndex.from_frame(own[keys]), own["task"].iloc[0]
        if not wanted.isin(known.index).all():
            log.warning("oracle.parquet lacks answers of task %s: no attack compares with the retain oracle", task)
            return None
        theirs = known.loc[wanted].reset_index()
        other = np.flatnonzero(theirs["tokens"] != own["tokens"])
        if other.size:
            index = own["index"].iloc[other[0]]
            raise ValueError(f"oracle.parquet: task {task}, row {index + 1} has other tokens; evaluate the oracle again")
        shared = [column for column in (*keys, "tokens", "eos", "wanted") if column in own]
        statistics = [column for column in ("logp", *Membership.statistics) if column in theirs]
        found[group] = pd.concat([own[shared], theirs[statistics]], axis=1)
    return found


def _beside_oracle(name: str, groups: Groups, theirs: Groups | None, words: str, found: Evaluated) -> dict[str, Metric]:
    """privleak and rel_diff, where there is an oracle's AUC to divide by."""
    released = found.compat == "open_unlearning"
    if theirs is None and (found.oracle is not None or not released):
        return {}
    oracle = 0.5 if theirs is None else auc(*theirs.values())
    beside = "0.5, as there is no retain oracle" if theirs is None else f"{oracle:.4f}, that of the retain oracle"
    samples: Samples = {
        group: scores.to_numpy() if theirs is None else np.column_stack([scores, theirs[group]])
        for group, scores in groups.items()
    }
    items, eps = {group: list(scores.index) for group, scores in groups.items()}, EPS if released else 0.0
    metrics = {}
    for kind, divisor, told in (
        ("privleak", 1 - oracle, f"PrivLeak (MUSE, arXiv 2407.06460): percent by which 1 - AUC exceeds 1 - {beside}"),
        ("rel_diff", oracle, f"rel_diff (open-unlearning): percent by which the AUC exceeds {beside}"),
    ):
        if divisor + eps == 0:
            log.warning("%s_%s is left out: the retain oracle's AUC of %g leaves nothing to divide by", name, kind, oracle)
            continue
        definition, statistic = f"{told}; AUC of {words}; {_about(found)}", change_of_groups(kind, eps)
        metrics[f"{name}_{kind}"] = measured(samples, definition, statistic, items=items, resamples=found.resamples)
    return metrics


def _about(found: Evaluated) -> str:
    seen, unseen = found.benchmark.members
    return f"task {seen} against {unseen}, which no model was trained on; compat={found.compat}"
