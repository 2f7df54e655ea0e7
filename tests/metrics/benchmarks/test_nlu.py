"""Few-shot accuracies by hand: which answers name a label, cleanly and as released."""

from __future__ import annotations

import pytest

from metrics.benchmarks.nlu import WINDOW, NluMetrics, first_label, in_window
from utils.items.saved import Saved

ASKED = "validation split, 4 examples from the training split, drawn for each question"


def row(index: int, generation: str, truth: str, task: str = "arc_easy", labels: str = "ABCD", form: str = "paper") -> dict:
    texts = {"generation": generation.strip(), "output": f"<s> {generation}", "truth": truth}
    return {"task": task, "index": index, "form": form, "labels": list(labels), "asked": ASKED, **texts}


def numbers(rows: list[dict], form: str = "paper") -> dict:
    return NluMetrics(form).numbers(Saved(None, rows, resamples=100))


@pytest.mark.parametrize(
    ("text", "labels", "label"),
    [
        ("B", "ABCD", "B"),
        (" (C) because", "ABCD", "C"),
        ("D: four\nA: three", "ABCD", "D"),
        ("\n\nB\nA", "ABCD", "B"),
        ("Answer: C", "ABCD", "C"),
        ("The Best is unknown", "ABCD", None),
        ("because\nB", "ABCD", None),
        ("b", "ABCD", None),
        ("E", "ABCD", None),
        ("", "ABCD", None),
        ("2", "1234", "2"),
        ("12", "1234", None),
        ("B or 3", "1234", "3"),
        ("1. 0", "01", "1"),
        ("10", "01", None),
    ],
)
def test_the_first_label_that_stands_alone_in_the_first_line(text, labels, label):
    assert first_label(text, labels) == label


@pytest.mark.parametrize(
    ("output", "label", "window", "right"),
    [
        ("<s>  B", "B", 8, True),
        ("<s> Answer: B", "A", 8, True),  # any character counts, here one of a word
        ("<s> 1234B", "B", 8, False),  # the ninth character
        ("<s> 123B", "B", 8, True),  # the eighth
        ("<s> 12345 1", "1", 10, True),
        ("<s> 234567 0", "0", 10, False),
    ],
)
def test_the_released_code_looks_for_the_characters_of_the_label(output, label, window, right):
    assert in_window(output, label, window) is right


def test_the_windows_are_those_of_the_released_code():
    assert WINDOW == {"arc_challenge": 8, "arc_easy": 8, "piqa": 10}


def test_accuracies_by_hand():
    """Right, wrong, no label, right: 2 of 4 are right and 3 of 4 name a label."""
    rows = [row(0, " B", "B"), row(1, " A", "B"), row(2, " because", "B"), row(3, " (D)", "D")]
    found = numbers(rows)
    assert {name: metric.value for name, metric in found.items()} == {"arc_easy_acc": 0.5, "arc_easy_labelled": 0.75}
    low, high = found["arc_easy_acc"].ci95
    assert found["arc_easy_acc"].n == 4 and low < 0.5 < high
    assert found["arc_easy_acc"].definition.endswith(f"; greedy; {ASKED}; MEOW (arXiv 2409.11844)")


def test_every_task_has_its_own_numbers():
    rows = [row(0, "1", "1", "piqa", "01"), row(0, "A", "B", "arc_challenge"), row(0, "3", "3", "arc_easy", "1234")]
    values = {name: metric.value for name, metric in numbers(rows).items() if name.endswith("_acc")}
    assert values == {"piqa_acc": 1, "arc_challenge_acc": 0, "arc_easy_acc": 1}


def test_the_released_form_by_hand():
    """Four characters are <s> and a blank. ARC sees four more: "B" in the first, "Answ" and "It i" in the others; PIQA sees six:
    "It is " and "It's 1"."""
    arc = [row(0, " B", "B", form="meow"), row(1, "Answer: B", "B", form="meow"), row(2, "It is B", "B", form="meow")]
    piqa = [row(0, "It is 1", "1", "piqa", "01", "meow"), row(1, "It's 1", "1", "piqa", "01", "meow")]
    found = numbers(arc + piqa, "meow")
    assert {name: metric.value for name, metric in found.items()} == {"arc_easy_acc": 1 / 3, "piqa_acc": 0.5}
    assert "first 8 characters, form=meow" in found["arc_easy_acc"].definition
    assert "first 10 characters, form=meow" in found["piqa_acc"].definition


def test_answers_to_other_prompts_are_not_read_in_this_form():
    with pytest.raises(ValueError, match="task piqa, row 3: was asked with form=paper, .* use benchmark.form=paper"):
        numbers([row(2, "1", "1", "piqa", "01")], "meow")
    with pytest.raises(ValueError, match="was asked with form=meow"):
        numbers([row(0, "B", "B", form="meow")])


def test_nothing_to_read_is_an_error():
    with pytest.raises(ValueError, match="no row of any task; evaluate again"):
        numbers([])
    with pytest.raises(ValueError, match="benchmark.form=raw: write one of paper, meow"):
        NluMetrics("raw")
