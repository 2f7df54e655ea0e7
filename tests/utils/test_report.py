"""The report of a set of runs: what counts, in which order, what is best, and that no text of a model can do harm."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts.report import main, write_report
from tests.utils import fake_runs as fake
from utils.charts import Curve, nice_ticks, shorten, spread_out
from utils.markup import element, escape
from utils.report import Number, ReportError, read_report
from utils.report_details import chosen_questions, differing_settings, marked, telling_words
from utils.report_html import caution, headline, page, training_curves
from utils.report_table import COLUMNS, best_cells, markdown_table, show, show_interval
from utils.scatter import overlap, place_labels

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


def table_rows(markdown: str) -> list[list[str]]:
    """Cells of the rows of the table, split at bars that are not escaped."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def cell(markdown: str, label: str, column: str) -> str:
    rows = table_rows(markdown)
    place = [header.split()[0] for header in rows[0]].index(column)
    return next(row[place] for row in rows if row[0] == label)


def test_target_then_oracle_then_methods_in_natural_order(runs):
    report = read_report(runs)
    assert [run.folder.name for run in report.runs] == ["full", "retain90", "flat", "npo2", "npo10"]
    assert [run.role for run in report.runs] == ["target", "oracle", "method", "method", "method"]
    labels = [run.label for run in report.runs]
    assert labels == ["target (full)", "retain oracle (retain90)", "flat (tv)", "npo · npo2", "npo · npo10"]


@pytest.mark.parametrize(
    "split, role",
    [
        ("full", "target"),
        ("retain90", "oracle"),
        ("retain90+forget10", "target"),
        ("full+real_authors", "target"),
        ("retain95+world_facts", "oracle"),
    ],
)
def test_role_of_a_finetuned_run(tmp_path, split, role):
    fake.write_run(tmp_path / "a", "finetune", split, "memorise", None, {"model_utility": 0.5})
    assert read_report(tmp_path).runs[0].role == role


@pytest.mark.parametrize(
    "method, divergence, label",
    [("flat", "tv", "flat (tv)"), ("flat_kl", "kl", "flat_kl"), ("flat_released", "tv", "flat_released (tv)"), ("ga", None, "ga")],
)
def test_label_names_method_and_divergence(tmp_path, method, divergence, label):
    fake.write_run(tmp_path / "a", "unlearn", "forget10", method, divergence, {"model_utility": 0.5})
    assert read_report(tmp_path).runs[0].label == label


def test_evaluation_folder_counts_with_the_role_of_its_model(tmp_path):
    trained = fake.write_run(tmp_path / "elsewhere" / "oracle", "finetune", "retain90", "memorise", None, {})
    settings = {"split": "forget10", "model": {"name": "tiny", "path": str(trained)}}
    for name, chosen in (("known", settings), ("alone", {"split": "forget10"})):
        fake.write_json(tmp_path / "runs" / name / "run.json", fake.capsule("evaluate", chosen))
        fake.write_json(tmp_path / "runs" / name / "metrics.json", {"model_utility": fake.metric(0.5)})
    report = read_report(tmp_path / "runs")
    assert [(run.label, run.role) for run in report.runs] == [("retain oracle (retain90)", "oracle"), ("alone", "method")]


def test_best_follows_the_direction_and_only_methods_compete(runs):
    report = read_report(runs)
    best = {(folder.name, column) for folder, column in best_cells(report)}
    expected = {
        ("npo10", "FQ"),  # the oracle's 1.0 does not compete
        ("npo2", "MU"),
        ("flat", "F-ROUGE"),  # lower is better
        ("flat", "F-Prob"),
        ("npo10", "F-TR"),
        ("flat", "R-ROUGE"),
        ("npo2", "R-Prob"),
        ("flat", "RA-ROUGE"),
        ("npo2", "WF-ROUGE"),
    }
    assert best == expected


def test_equal_printed_numbers_share_the_mark_and_nan_never_wins(tmp_path):
    for name, value in (("a", 0.70001), ("b", 0.69999), ("c", float("nan")), ("d", 0.6)):
        fake.write_run(tmp_path / name, "unlearn", "forget10", name, None, {"model_utility": value})
    best = {(folder.name, column) for folder, column in best_cells(read_report(tmp_path))}
    assert best == {("a", "MU"), ("b", "MU")}


def test_markdown_table(runs):
    text = markdown_table(read_report(runs))
    rows = table_rows(text)
    assert len(rows) == 2 + 5 and {len(row) for row in rows} == {1 + len(COLUMNS)}
    assert rows[0][:4] == ["run", "FQ ↑", "MU ↑", "F-ROUGE ↓"]
    assert cell(text, "flat (tv)", "FQ") == "1.2e-05 [9.6e-06, 1.4e-05]"
    assert cell(text, "npo · npo2", "MU") == "**0.655** [0.524, 0.786]"
    last = text.rstrip("\n").splitlines()[-1]
    assert last.startswith("Settings: model tiny, benchmark tofu, split forget10, seed 42, data_root fixture")
    assert last.endswith(f"Made with `python scripts/report.py {runs}`")


def test_names_cannot_break_the_markdown_table(tmp_path):
    fake.write_run(tmp_path / "a", "unlearn", "forget10", "x|y<b>*`", None, {"model_utility": 0.5})
    rows = table_rows(markdown_table(read_report(tmp_path)))
    assert {len(row) for row in rows} == {1 + len(COLUMNS)}
    assert rows[2][0] == r"x\|y&lt;b&gt;\*\`"


@pytest.mark.parametrize(
    "metric, value, text",
    [
        ("forget_quality", 1.23e-05, "1.2e-05"),
        ("forget_quality", 0.0335, "0.034"),
        ("forget_quality", 0.0, "0.000"),
        ("model_utility", 0.0001, "0.000"),
        ("model_utility", float("nan"), "nan"),
    ],
)
def test_how_numbers_are_printed(metric, value, text):
    column = next(column for column in COLUMNS if column.metric == metric)
    assert show(column, value) == text
    assert show_interval(column, Number(value, None, None, "")) == ""


def test_a_missing_metric_is_a_dash(runs):
    metrics = json.loads((runs / "npo2/eval/metrics.json").read_text("utf-8"))
    del metrics["forget_quality"]
    metrics["model_utility"]["value"] = None
    fake.write_json(runs / "npo2/eval/metrics.json", metrics)
    report = read_report(runs)
    text = markdown_table(report)
    assert cell(text, "npo · npo2", "FQ") == cell(text, "npo · npo2", "MU") == "–"
    assert cell(text, "flat (tv)", "MU").startswith("**0.610**")  # the next best takes the mark
    assert "Without both numbers and so not drawn: npo · npo2." in page(report)


def broken_run(folder: Path, fault: str) -> None:
    """One run folder with one fault."""
    fake.write_run(folder, "unlearn", "forget10", "ga", None, {"model_utility": 0.5})
    known = fake.capsule("unlearn", {"split": "forget10"})
    faults = {
        "running": lambda: fake.write_json(folder / "run.json", known | {"status": "running"}),
        "no run.json": lambda: (folder / "run.json").unlink(),
        "damaged": lambda: (folder / "run.json").write_text("{", encoding="utf-8"),
        "no eval": lambda: (folder / "eval").rename(folder / "other"),
        "eval running": lambda: fake.write_json(folder / "eval/run.json", known | {"status": "running"}),
        "no metrics": lambda: (folder / "eval/metrics.json").unlink(),
        "bad metric": lambda: fake.write_json(folder / "eval/metrics.json", {"model_utility": {"value": "much"}}),
        "no settings": lambda: fake.write_json(folder / "run.json", {"script": "unlearn", "status": "finished"}),
    }
    faults[fault]()


@pytest.mark.parametrize(
    "fault, why",
    [
        ("running", "run.json says running, not finished"),
        ("no run.json", "it has no run.json"),
        ("damaged", "run.json is damaged"),
        ("no eval", "it has no eval/metrics.json; make it with evaluate.py"),
        ("eval running", "eval/run.json says running, not finished"),
        ("no metrics", "its evaluation wrote no metrics.json"),
        ("bad metric", "metrics.json: model_utility is damaged"),
        ("no settings", "run.json holds no settings"),
    ],
)
def test_what_cannot_count_is_listed_with_the_reason(tmp_path, fault, why):
    fake.write_runs(tmp_path, ("flat",))
    broken_run(tmp_path / "broken", fault)
    report = read_report(tmp_path)
    assert [run.folder.name for run in report.runs] == ["flat"]
    assert [entry.name for entry in report.left_out] == ["broken"] and why in report.left_out[0].why
    assert f"- broken: {why}"[:20] in markdown_table(report) and "Left out" in page(report)
    (tmp_path / "flat/run.json").unlink()
    with pytest.raises(ReportError, match="holds no finished run with metrics"):
        read_report(tmp_path)


@pytest.mark.parametrize("make, message", [("missing", "there is no such folder"), ("empty", "it has no sub-folders")])
def test_nothing_found_is_one_sentence(tmp_path, make, message, capsys):
    folder = tmp_path / make
    if make == "empty":
        folder.mkdir()
    with pytest.raises(SystemExit) as caught:
        main([str(folder)])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_single_run_is_refused_with_the_folder_to_give(runs):
    with pytest.raises(ReportError, match=f"flat is a single run; give the folder that holds it, {runs}"):
        read_report(runs / "flat")


def test_the_page_is_well_formed_and_fetches_nothing(runs):
    source = page(read_report(runs))
    parsed = Page(source)
    assert "script" not in parsed.tags and "img" not in parsed.tags and "link" not in parsed.tags
    links = [value for name, value in parsed.attributes if name in ("src", "href", "xlink:href")]
    assert links and all(value.startswith("#") for value in links)
    assert "url(" not in source and "@import" not in source and not re.search(r"\bon\w+=", source.split("</style>")[1])
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'") in parsed.attributes


def test_a_hostile_generation_is_text(runs):
    evil = "<script>alert(1)</script></td><img src=x onerror=alert(2)> & \"quoted\" 😀 \x00 \u2028 \ud800"
    fake.write_generations(runs / "flat/eval", {("forget", i): "" for i in range(9)})
    with open(runs / "flat/eval/generations.jsonl", "w", encoding="utf-8") as file:
        for task, pairs in fake.QUESTIONS.items():
            for index, (question, reference) in enumerate(pairs):
                row = {"task": task, "index": index, "question": question, "generation": evil, "reference": reference}
                file.write(json.dumps(row) + "\n")
    _, path = write_report(runs)
    parsed = Page(path.read_text("utf-8"))
    assert not {"script", "img"} & set(parsed.tags)
    shown = "<script>alert(1)</script></td><img src=x onerror=alert(2)> & \"quoted\" 😀 \ufffd \u2028 \ufffd"
    assert "".join(parsed.text).count(shown) == 6  # three forget and three retain questions


def test_a_line_separator_in_a_generation_does_not_split_its_row(runs):
    fake.write_generations(runs / "flat/eval", {("forget", 4): "one\u2028two\x85three"})
    flat = next(run for run in read_report(runs).runs if run.folder.name == "flat")
    assert flat.generations["forget", 4]["generation"] == "one\u2028two\x85three"


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
    (runs / "flat/log.jsonl").write_text("\n".join(json.dumps(record) for record in records) + '\n{"st', encoding="utf-8")
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
        "npo · npo2 keeps the most utility of them: model utility 0.655 (target 0.690, oracle 0.688)."
    )
    for name in ("npo2", "npo10"):
        (runs / name / "run.json").unlink()
    assert headline(read_report(runs)).startswith("None of 1 method matches the retain oracle on the forget set (p < 0.05)")


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
    assert element("p", {"class": 'a"b'}, "x < y", element("br", {})) == '<p class="a&quot;b">x &lt; y<br></p>'
    assert escape("\x00'") == "\ufffd&#x27;"


def test_command_writes_both_files_and_is_repeatable(runs, tmp_path, capsys):
    out = runs / "report"
    arguments = [str(runs), "--out", str(out), "--title", "A <b> title"]
    main(arguments)
    assert capsys.readouterr().out.split() == [str(out / "table.md"), str(out / "report.html")]
    first = (out / "report.html").read_text("utf-8")
    assert "A &lt;b&gt; title" in first and "Left out" not in first  # its own folder is passed over
    main(arguments)
    assert (out / "report.html").read_text("utf-8") == first
