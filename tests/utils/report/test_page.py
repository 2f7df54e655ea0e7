"""The page of a report: whole, harmless whatever a model wrote, and right in what it picks out and says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts.report import write_report
from tests.utils.report import fake_runs as fake
from utils.report.charts import Curve, nice_ticks, shape, shorten, spread_out
from utils.report.details import chosen_questions, differing_settings, marked, telling_words
from utils.report.headline import caution, headline
from utils.report.page import page, training_curves
from utils.report.read import read_report
from utils.report.scatter import overlap, place_labels

VOID = {"meta", "br"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return fake.write_runs(tmp_path / "runs")


class Page(HTMLParser):
    """Checks that tags are balanced; collects tags, attributes and text."""

    def __init__(self, source: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed_and_fetches_nothing(runs):
    source = page(read_report(runs))
    parsed = Page(source)
    assert "script" not in parsed.tags and "img" not in parsed.tags and "link" not in parsed.tags
    links = [value for name, value in parsed.attributes if name in ("src", "href", "xlink:href")]
    assert links and all(value.startswith("#") for value in links)
    assert "url(" not in source and "@import" not in source and not re.search(r"\bon\w+=", source.split("</style>")[1])
    assert any(name == "content" and value.startswith("default-src 'none';") for name, value in parsed.attributes)


def test_a_hostile_generation_is_text(runs):
    evil = '<script>alert(1)</script></td><img src=x onerror=alert(2)> & "quoted" 😀 \x00 \u2028 \ud800'
    fake.write_generations(runs / "flat/eval", {("forget", i): "" for i in range(9)})
    with open(runs / "flat/eval/generations.jsonl", "w", encoding="utf-8") as file:
        for task, pairs in fake.QUESTIONS.items():
            for index, (question, truth) in enumerate(pairs):
                row = {"task": task, "asked_by": "", "index": index, "question": question, "generation": evil, "truth": truth}
                file.write(json.dumps(row) + "\n")
    _, path = write_report(runs)
    parsed = Page(path.read_text("utf-8"))
    assert not {"script", "img"} & set(parsed.tags)
    shown = '<script>alert(1)</script></td><img src=x onerror=alert(2)> & "quoted" 😀 \ufffd \u2028 \ufffd'
    assert "".join(parsed.text).count(shown) == 6  # three forget and three retain questions


def test_long_answers_are_clipped_and_whole(runs):
    long = "word " * 400 + "END"
    fake.write_generations(runs / "flat/eval", {("forget", i): long for i in range(9)})
    source = page(read_report(runs))
    assert source.count("all 2,003 characters") == 3 and source.count("END") == 3


def test_questions_are_evenly_spaced_over_those_that_all_runs_answered(runs):
    report = read_report(runs)
    assert [key[1] for key in chosen_questions(report.runs, "forget")] == [1, 4, 7]
    assert [key[1] for key in chosen_questions(report.runs, "retain")] == [2, 6, 10]
    fake.write_generations(runs / "flat/eval", {("forget", 3): "x", ("forget", 8): "y"})
    report = read_report(runs)
    assert [key[1] for key in chosen_questions(report.runs, "forget")] == [3, 8]
    assert "not answered" in page(report)  # flat has no retain answers


def test_words_of_the_reference_are_marked():
    words = telling_words("Iğatho was born in Hanoi.", "In which city was Iğatho born?")
    assert words == {"hanoi"}
    assert marked("HANOI & <b>", words) == "<mark>HANOI</mark> &amp; &lt;b&gt;"
    assert telling_words("The same", "the same?") == {"the", "same"}


def test_curves_leave_out_what_is_no_part_of_the_loss(runs):
    records = [fake.log_record(step) | {"train_nll": 4.0 / step} for step in range(1, 5)]
    records += [{"step": 4, "train_loss": 2.0}]  # the summary at the end of a log
    records[1]["forget_nll"] = float("nan")
    cut_off = "\n".join(json.dumps(record) for record in records) + '\n{"st'
    (runs / "flat/log.jsonl").write_text(cut_off, encoding="utf-8")
    flat = next(run for run in read_report(runs).runs if run.folder.name == "flat")
    lines = training_curves(flat)
    assert [(line.name, line.strong, list(line.steps)) for line in lines] == [
        ("loss", True, [1, 2, 3, 4]),
        ("forget_nll", False, [1, 3, 4]),
    ]


def test_long_curves_become_means_of_neighbours():
    short = shorten(Curve("loss", range(480), [float(k) for k in range(480)]))
    assert len(short.steps) == 240 and short.steps[0] == short.values[0] == 0.5 and short.values[-1] == 478.5


def test_headline_tells_who_matches_the_oracle(runs):
    text = headline(read_report(runs))
    assert text == (
        "2 of 3 methods cannot be told from the retain oracle on the forget set (p ≥ 0.05): npo · npo2, npo · npo10. "
        "npo · npo2 keeps the most: model utility 0.655 (target 0.690, oracle 0.688)."
    )
    for name in ("npo2", "npo10"):
        (runs / name / "run.json").unlink()
    alone = headline(read_report(runs))
    assert alone.startswith("None of 1 method matches the retain oracle on the forget set (p < 0.05). The nearest is ")


def test_caution_where_the_target_passes_or_the_runs_disagree(runs):
    assert caution(read_report(runs)) == []
    metrics = {"forget_quality": fake.metric(0.3), "model_utility": fake.metric(0.7)}
    fake.write_json(runs / "full/eval/metrics.json", metrics)
    fake.write_json(runs / "flat/eval/run.json", fake.capsule("evaluate", {"split": "forget05"}))
    weak, mixed = caution(read_report(runs))
    assert weak.startswith("The target itself passes the test (p = 0.300, n = 20)")
    assert mixed == "The runs do not share one split: forget10, forget05. Compare only those that do."


def test_differing_settings_are_compared_within_a_kind(runs):
    found = differing_settings(read_report(runs))
    assert found["target (full)"] == {"split": "full"}
    assert found["flat (tv)"] == {"method.loss._target_": "losses.flat", "method.loss.divergence": "tv"}


def test_labels_of_a_crowd_do_not_touch():
    centres = [(200.0 + 3 * k, 100.0 + 2 * k) for k in range(8)]
    placed = place_labels(centres, [f"method {k}" for k in range(8)], (0, 0, 500, 300))
    boxes = [(label.x, label.y - 12, label.x + 8 * 6.6 + 2, label.y + 3) for label in placed]
    assert all(overlap(boxes[i], boxes[j]) == 0 for i in range(8) for j in range(i))
    assert all(box[0] >= 0 and box[2] <= 500 for box in boxes)


def test_small_helpers():
    assert [round(tick, 9) for tick in nice_ticks(0.02, 0.68)] == [0.2, 0.4, 0.6]
    assert spread_out([10, 11, 12], 5, 0, 100) == [10, 15, 20]
    assert spread_out([98, 99], 5, 0, 100) == [95, 100]
    drawn = shape("text", "x < y", shape("title", "a&b"), kind='a"b', text_anchor="end", x=1.23456)
    assert drawn == '<text class="a&#34;b" text-anchor="end" x="1.23">x &lt; y<title>a&amp;b</title></text>'
