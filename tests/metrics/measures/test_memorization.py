"""Exact memorisation and extraction strength of whole tasks, by hand and by the worked answer of open-unlearning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pytest import approx

from metrics.measures.memorization import Memorization
from tests.runs import compose_settings
from utils.items.benchmark import Benchmark
from utils.items.requests import Request
from utils.items.saved import Saved
from utils.runs.settings import SettingsError, check_evaluation


class Toy(Benchmark):
    """A task to forget and one to keep."""

    name = "toy"
    forgotten = ("forget",)
    roles = ("answer", "perturbed")

    def requests(self, split: str) -> list[Request]:
        answers = tuple((role, 0, "!") for role in self.roles)
        return [Request(task, 0, "?", answers, None) for task in ("forget", "retain")]


def row(task: str, index: int, hits: str, role: str = "answer", number: int = 0, eos: bool = True) -> dict:
    """An answer from its hits, as in "1011": the last is that of EOS."""
    hit = np.array([mark == "1" for mark in hits])
    return {"task": task, "index": index, "role": role, "number": number, "tokens": len(hit), "eos": eos, "hit": hit}


# Less EOS: forget 1011 (EM 3/4, ES 1/2) and 0110 (EM 1/2, ES 0); retain 11 (EM and ES 1).
ROWS = (row("forget", 1, "01101"), row("retain", 0, "110"), row("forget", 0, "10110"), row("forget", 0, "00000", "perturbed"))


def evaluated(*rows: dict, **changes) -> Saved:
    return replace(Saved(pd.DataFrame(rows or ROWS), resamples=100, forgotten=Toy.forgotten), **changes)


def values(found: Saved, **options) -> dict[str, float]:
    return {name: metric.value for name, metric in Memorization("memorization", **options).numbers(found).items()}


def test_means_over_the_true_answers_of_each_task():
    metrics = Memorization("memorization").numbers(evaluated())
    assert {name: metric.value for name, metric in metrics.items()} == {
        "exact_memorization_forget": 0.625, "extraction_strength_forget": 0.25,
        "exact_memorization_retain": 1.0, "extraction_strength_retain": 1.0,
    }  # fmt: skip
    strength = metrics["extraction_strength_forget"]
    assert strength.n == 2 and strength.ci95 == (0.0, 0.5)
    assert metrics["exact_memorization_forget"].ci95 == (0.5, 0.75) and metrics["exact_memorization_retain"].n == 1
    for name, metric in metrics.items():
        assert f"task {name.split('_')[-1]}" in metric.definition and "a supervised EOS is left out" in metric.definition
    assert "floor=false" in strength.definition


def test_the_worked_answer_of_open_unlearning():
    """Tokens 1, 2 and 4 of five are hit and EOS is not: EM 3/4, and only the last but EOS follows: ES 1/4."""
    found = values(evaluated(row("forget", 0, "11010"), compat="open_unlearning"))
    assert found == {"exact_memorization_forget": 0.75, "extraction_strength_forget": 0.25}
    missed = values(evaluated(row("forget", 0, "11000"), compat="open_unlearning"))
    assert missed == {"exact_memorization_forget": 0.5, "extraction_strength_forget": 0.25}  # the floor, 1/T
    assert values(evaluated(row("forget", 0, "11000")))["extraction_strength_forget"] == 0.0
    right = values(evaluated(row("forget", 0, "11110"), compat="open_unlearning"))
    assert right == {"exact_memorization_forget": 1.0, "extraction_strength_forget": 1.0}


def test_the_floor_is_a_dial_of_its_own():
    found = evaluated(row("forget", 0, "11000"))
    assert values(found, floor=True)["extraction_strength_forget"] == 0.25
    assert values(replace(found, compat="open_unlearning"), floor=False)["extraction_strength_forget"] == 0.0


def test_an_answer_that_was_cut_keeps_its_last_token():
    cut = row("forget", 0, "1101", eos=False)
    assert values(evaluated(cut)) == {"exact_memorization_forget": 0.75, "extraction_strength_forget": 0.25}
    assert values(evaluated(cut), drop_eos="last")["exact_memorization_forget"] == approx(2 / 3)
    assert values(evaluated(row("forget", 0, "1101")), drop_eos="never")["exact_memorization_forget"] == 0.75


def test_open_unlearning_counts_an_answer_of_one_token_in_one_number_alone():
    two = (row("forget", 0, "0"), row("forget", 1, "11"))
    metrics = Memorization("memorization").numbers(evaluated(*two, compat="open_unlearning"))
    assert (metrics["exact_memorization_forget"].value, metrics["exact_memorization_forget"].n) == (1.0, 1)
    assert (metrics["extraction_strength_forget"].value, metrics["extraction_strength_forget"].n) == (0.5, 2)
    alone = values(evaluated(two[0], compat="open_unlearning"))
    assert alone == {"extraction_strength_forget": 0.0}


def test_several_answers_to_a_question_count_as_one():
    three = (row("forget", 0, "111"), row("forget", 0, "001", number=1), row("forget", 1, "111"))
    metrics = Memorization("memorization").numbers(evaluated(*three))
    assert metrics["exact_memorization_forget"].value == 0.75 and metrics["exact_memorization_forget"].n == 2


def test_which_tasks():
    assert {name.split("_")[-1] for name in values(evaluated())} == {"forget", "retain"}
    assert set(values(evaluated(), tasks="forgotten")) == {"exact_memorization_forget", "extraction_strength_forget"}


def test_a_benchmark_without_answers_is_refused():
    class Choices(Toy):
        roles = ("mc1_true",)

    class Nothing(Toy):
        forgotten = ()

    for benchmark in (Toy(), Nothing()):
        Memorization("memorization").check(benchmark, benchmark.requests("forget01"))
    for benchmark, options in ((Choices(), {}), (Nothing(), {"tasks": "forgotten"})):
        with pytest.raises(ValueError, match="measure=memorization: benchmark=toy scores no true answers"):
            Memorization("memorization", **options).check(benchmark, benchmark.requests("forget01"))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"tasks": "retain"}, "measure.memorization.tasks=retain: write one of all, forgotten"),
        ({"floor": "yes"}, "measure.memorization.floor=yes: write one of auto, true, false"),
        ({"drop_eos": True}, "measure.memorization.drop_eos=True: write one of auto"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Memorization("memorization", **options)


def test_the_command_line_builds_it():
    asked = check_evaluation(compose_settings("evaluate", "measure=[memorization]", "measure.memorization.floor=true"))
    assert asked.measures == (Memorization("memorization", floor=True),)
    with pytest.raises(SettingsError, match="measure=memorization: .*tasks=none: write one of"):
        check_evaluation(compose_settings("evaluate", "measure=[memorization]", "measure.memorization.tasks=none"))
