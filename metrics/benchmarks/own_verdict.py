"""What the numbers of benchmark=own say in plain words: how much is still there, what was lost, what was not tested.

A floor says what a model gives away that never learned the rows: what the model before unlearning says about the holdout, where
there is one, else 0 (unlearning often harms answers to all such questions). What is left of a number is

    (after - floor) / (before - floor)

and at least MOST of it is "most", at least PART "part"; below that nothing was found, which is no proof that nothing is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MOST, PART = 0.5, 0.1  # ours
LOST = 0.05  # a share that fell by more is called lost, if its interval is below what it was before; ours
TOLD = {"forget_rougeL_recall": "its own answers", "forget_prob": "the probability of the true ones"}
REPEATS = 0.3  # rep-3 from which answers count as broken; ours


class Number(NamedTuple):
    """A number of metrics.json."""

    value: float
    low: float
    high: float
    n: int


class Missing(NamedTuple):
    """What was not tested, by the beginning of the names that would tell, and what it needs."""

    beginning: str
    what: str
    needs: str


MISSING = (
    Missing("holdout_", "what guessing gives", "benchmark.holdout=FILE with rows of the same kind that were never learned"),
    Missing("mia_", "membership attacks", "the same holdout file"),
    Missing("retain_", "what is kept of the same kind", "benchmark.retain=FILE"),
    Missing("general_", "general knowledge in your own texts", "benchmark.general=FILE"),
    Missing("forget_truth_ratio", "truth ratio", "fields paraphrased_answer and perturbed_answer in the forget file"),
    Missing("forget_quality", "forget quality", "wrong answers in the forget file and oracle=RUN, a model that never saw it"),
    Missing("leak_", "many sampled answers to one question", "measure=[leak]"),
    Missing("arc_easy_", "zero-shot tasks", "their data (data_root=hub, or DIR/utility)"),
)


def verdict(metrics: Mapping[str, Any]) -> list[str]:
    """Sentences about one evaluation. metrics: name -> {value, n, ci95} as metrics.json has it; no interval: None."""
    known = {}
    for name, one in metrics.items():
        if one["value"] is not None:
            low, high = one["ci95"] or (one["value"], one["value"])
            known[name] = Number(one["value"], low, high, one["n"])
    if "forget_recited" not in known:
        return ["Nothing was asked about what is to be forgotten, so nothing is said."]
    return [" ".join(_still_there(known)), " ".join(_lost(known)), _not_tested(known)]


def _still_there(known: Mapping[str, Number]) -> list[str]:
    recited = known["forget_recited"]
    told = [f"Still there: of {recited.n} answers the model gives away {_count(recited)}{_was(known, 'forget_recited', _count)}."]
    guessed = known.get("holdout_recited_before", known.get("holdout_recited"))
    if guessed is not None and guessed.value > 0:
        told.append(f"By the same count it gave away {_count(guessed)} of {guessed.n} that it never saw: so much is guessing.")
    before = known.get("forget_recited_before")
    if before is not None and before.value == 0 and all(_left(known, name) is None for name in TOLD):
        told.append("But it gave nothing away before either: perhaps it never knew these rows.")
    left = {words: share for name, words in TOLD.items() if (share := _left(known, name)) is not None}
    if left:
        most = max(left.values())
        size = "Most" if most >= MOST else "Part" if most >= PART else "No trace"
        floor = "above what it said about unseen rows" if "holdout_prob" in known else "counted from 0"
        parts = " and ".join(f"{max(0.0, share):.0%} in {words}" for words, share in left.items())
        told.append(f"{size} of it is {'found' if size == 'No trace' else 'left'}: {parts} ({floor}).")
        if min(left.values()) < 0:
            told.append("It says less than of rows that it never saw, which itself shows that something was taken out.")
    attacks = {name: one for name, one in known.items() if name in ("mia_loss", "mia_min_k", "mia_zlib", "mia_min_k_plus_plus")}
    apart = {name: one for name, one in attacks.items() if one.low > 0.5}
    if apart:
        strongest = max(apart, key=lambda name: apart[name].value)
        told.append(f"An attack tells the rows from unseen ones (AUC {apart[strongest].value:.2f}, {strongest}).")
    elif attacks:
        below = [one for one in attacks.values() if one.high < 0.5]
        why = "; they are less likely than unseen rows, which tells them apart too" if below else ""
        told.append(f"No attack finds them likelier than unseen rows{why}.")
    told.append("What no question asked for may still be there.")
    return told


def _lost(known: Mapping[str, Number]) -> list[str]:
    told = []
    for name, words in (
        ("retain_rougeL_recall", "own answers about what is kept (ROUGE-L)"),
        ("retain_prob", "probability of their true answers"),
        ("general_prob", "probability of general texts"),
        *((name, name.removesuffix("_acc")) for name in known if name.endswith("_acc")),
    ):
        after, before = known.get(name), known.get(f"{name}_before")
        if after is not None and before is not None:
            fell = before.value - after.value > LOST and after.high < before.value
            told.append(f"{words} {before.value:.2f} -> {after.value:.2f}{' (lost)' if fell else ''}")
    unknown = "Lost: unknown, as nothing that should stay was measured before and after."
    found = ["Lost: " + "; ".join(told) + "." if told else unknown]
    for task, what in (("retain", "what is kept"), ("forget", "what is forgotten")):
        refused, repeated = known.get(f"{task}_refusals"), known.get(f"{task}_rep3")
        if refused is not None and refused.value > 0:
            found.append(f"It refuses {_count(refused)} of {refused.n} answers about {what}.")
        if repeated is not None and repeated.value >= REPEATS:
            found.append(f"Its answers about {what} repeat themselves (rep-3 {repeated.value:.2f}): broken, not silent.")
    return found


def _not_tested(known: Mapping[str, Number]) -> str:
    missing = [one for one in MISSING if not any(name.startswith(one.beginning) for name in known)]
    if not missing:
        return "Not tested: other languages, other wordings than those asked (probe=paraphrase), and learning it again."
    listed = "; ".join(f"{one.what} (needs {one.needs})" for one in missing)
    return f"Not tested: {listed}; other wordings (probe=paraphrase), and learning it again."


def _left(known: Mapping[str, Number], name: str) -> float | None:
    """What is left of a number of the forget set above the holdout's; None where before was no higher than that."""
    after, before = known.get(name), known.get(f"{name}_before")
    unseen = name.replace("forget_", "holdout_", 1)
    holdout = known.get(f"{unseen}_before", known.get(unseen))
    floor = 0.0 if holdout is None else holdout.value
    if after is None or before is None or before.value - floor < LOST:
        return None
    return (after.value - floor) / (before.value - floor)


def _was(known: Mapping[str, Number], name: str, show: Any) -> str:
    before = known.get(f"{name}_before")
    return "" if before is None else f" (before {show(before)})"


def _count(share: Number) -> str:
    return str(round(share.value * share.n))
