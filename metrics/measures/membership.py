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
from typing import Any, ClassVar

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
from metrics.tables import WITHOUT, DropEos, Dropped, answers_of, check_drop_eos, dropped, kept_tokens, per_question
from utils.checks import is_share, require
from utils.evaluation.measure import Measure
from utils.items.benchmark import Benchmark
from utils.items.metric import Metric, Samples, measured
from utils.items.requests import Request, tasks_with_answers
from utils.items.saved import Saved

log = logging.getLogger(__name__)

Groups = Mapping[str, pd.Series]  # members, others -> one score per question, by its index

GROUPS = ("members", "others")


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
        fits = 0 < len(self.ks) == len(set(filter(is_share, self.ks)))
        require(fits, f"measure.{self.name}.k", self.k, "a number above 0 and up to 1 (MUSE: 0.4), or a list of such")

    @property
    def ks(self) -> list[float]:
        return list(self.k) if isinstance(self.k, Sequence) else [self.k]

    def check(self, benchmark: Benchmark, asked: Sequence[Request]) -> None:
        """Raises ValueError if nothing that the benchmark asks about was never trained on."""
        check_members(self, benchmark, asked)

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """The attacks that the tables allow. Raises ValueError if one of the two groups was not scored."""
        rows = {group: answers_of(saved.scores, task) for group, task in zip(GROUPS, saved.members, strict=True)}
        oracle = None if saved.oracle is None else _oracle(rows, saved.oracle)
        of_oracle = {} if oracle is None else self._scores(oracle, saved.compat, "oracle.parquet")
        if oracle is not None:
            rows = {group: table.assign(reference_logp=oracle[group]["logp"]) for group, table in rows.items()}
        metrics: dict[str, Metric] = {}
        for attack, groups in self._scores(rows, saved.compat, "scores.parquet").items():
            metrics |= attack_metrics(attack, groups, of_oracle.get(attack), self.words(attack, saved.compat), saved)
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
            found[name] = {group: _scored(attack, table, drop) for group, table in rows.items()}
        lost.pop("reference", None)  # not asked for: there is no oracle
        if lost:
            columns = ", ".join(dict.fromkeys(lost.values()))
            log.warning("%s has no column %s: left out: %s; evaluate again to have them", file, columns, ", ".join(lost))
        return found

    def words(self, name: str, compat: str) -> str:
        """What an attack is, for definitions."""
        attack = self.attacks()[name]
        return f"the attack {attack.words}; {WITHOUT[dropped(self.drop_eos, compat, attack.released)]}"


def attack_metrics(attack: str, groups: Groups, of_oracle: Groups | None, words: str, saved: Saved) -> dict[str, Metric]:
    """The AUC of an attack, and what it is beside the retain oracle's. Raises ValueError for a NaN.

    of_oracle: its scores of the same texts; None without them. words: what the attack is.
    """
    metrics = {f"mia_{attack}": membership_auc(groups, words, saved)}
    if attack != "reference":
        metrics |= _beside_oracle(f"mia_{attack}", groups, of_oracle, words, saved)
    return metrics


def membership_auc(groups: Groups, words: str, saved: Saved) -> Metric:
    """AUC of scores that are high for texts which were not trained on. Raises ValueError for a NaN."""
    definition = f"AUC of {words}; 1: remembered, 0.5: like unseen text, 0: less likely than unseen text; {_about(saved)}"
    samples = {group: scores.to_numpy() for group, scores in groups.items()}
    return measured(samples, definition, auc_of_groups, items=_items(groups, saved), resamples=saved.resamples)


def check_members(measure: Measure, benchmark: Benchmark, asked: Sequence[Request]) -> None:
    """Raises ValueError unless the benchmark asks about texts that were trained on and such that were not."""
    if benchmark.members is None:
        raise measure.unfit(benchmark, "has no texts that were never trained on, to tell members from")
    lost = [task for task in benchmark.members if task not in tasks_with_answers(asked)]
    if lost:
        why = f"has data without task {lost[0]} for this split"
        raise measure.unfit(benchmark, why, "add its file below data_root, or ")


def _scored(attack: Attack, rows: pd.DataFrame, drop: Dropped) -> pd.Series:
    """The score of each question. An answer of which no token is left has 0, as in open-unlearning."""
    scores = []
    for kept, *values in zip(kept_tokens(rows, drop), *(rows[column] for column in attack.needs), strict=True):
        tokens = [value if isinstance(value, str) else np.asarray(value, np.float64)[:kept] for value in values]
        scores.append(attack.score(dict(zip(attack.needs, tokens, strict=True))) if kept else 0.0)
    return per_question(scores, rows)


def _oracle(rows: Mapping[str, pd.DataFrame], oracle: pd.DataFrame) -> dict[str, pd.DataFrame] | None:
    """The same rows with what the retain oracle says about their tokens; None if it was not asked for all of them.

    Raises ValueError if it read other tokens.
    """
    keys = ["task", "index", "role", "number"]
    by_place = oracle.set_index(keys)
    found = {}
    for group, table in rows.items():
        places, task = pd.MultiIndex.from_frame(table[keys]), table["task"].iloc[0]
        if not places.isin(by_place.index).all():
            log.warning("oracle.parquet lacks answers of task %s: no attack compares with the retain oracle", task)
            return None
        same = by_place.loc[places].reset_index()
        other = np.flatnonzero(same["tokens"] != table["tokens"])
        if other.size:
            index = table["index"].iloc[other[0]]
            raise ValueError(f"oracle.parquet: task {task}, row {index + 1} has other tokens; evaluate the oracle again")
        statistics = [column for column in ("logp", *Membership.statistics) if column in same]
        found[group] = pd.concat([table[[*keys, "tokens", "eos", "wanted"]], same[statistics]], axis=1)
    return found


def _beside_oracle(name: str, groups: Groups, of_oracle: Groups | None, words: str, saved: Saved) -> dict[str, Metric]:
    """privleak and rel_diff, where there is an oracle's AUC to divide by."""
    released = saved.compat == "open_unlearning"
    if of_oracle is None and (saved.oracle is not None or not released):
        return {}
    oracle = 0.5 if of_oracle is None else auc(*of_oracle.values())
    beside = "0.5, as there is no retain oracle" if of_oracle is None else f"{oracle:.4f}, that of the retain oracle"
    samples: Samples = {
        group: scores.to_numpy() if of_oracle is None else np.column_stack([scores, of_oracle[group]])
        for group, scores in groups.items()
    }
    eps = EPS if released else 0.0
    metrics, items = {}, _items(groups, saved)
    for kind, divisor, told in (
        ("privleak", 1 - oracle, f"PrivLeak (MUSE, arXiv 2407.06460): percent by which 1 - AUC exceeds 1 - {beside}"),
        ("rel_diff", oracle, f"rel_diff (open-unlearning): percent by which the AUC exceeds {beside}"),
    ):
        if divisor + eps == 0:
            log.warning("%s_%s is left out: the retain oracle's AUC of %g leaves nothing to divide by", name, kind, oracle)
            continue
        definition, statistic = f"{told}; AUC of {words}; {_about(saved)}", change_of_groups(kind, eps)
        metrics[f"{name}_{kind}"] = measured(samples, definition, statistic, items=items, resamples=saved.resamples)
    return metrics


def _items(groups: Groups, saved: Saved) -> dict[str, list[tuple[str, int]]]:
    """Task and index of every question: the groups are not named after their tasks."""
    tasks = dict(zip(GROUPS, saved.members, strict=True))
    return {group: [(tasks[group], index) for index in scores.index] for group, scores in groups.items()}


def _about(saved: Saved) -> str:
    seen, unseen = saved.members
    return f"task {seen} against {unseen}, which no model was trained on; compat={saved.compat}"
