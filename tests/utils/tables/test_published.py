"""Published values: how they are written, the rule of the verdict, and that the tables fit the house and their sources."""

from __future__ import annotations

import gzip
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from pytest import approx

from metrics.benchmarks.tofu import UTILITY_PARTS, harmonic_mean
from metrics.benchmarks.tofu_logs import TOP_LEVEL
from tests.runs import REAL, compose_settings, metrics, run
from tests.utils.report.test_columns import metrics_of
from tests.utils.runs.test_recipes import keys_of
from utils import ROOT
from utils.files import flat_settings
from utils.items.metric import Metric
from utils.report.columns import read_display
from utils.tables.published import Cell, Column, Table, Verdict, published_table, published_tables, read_printed, verdict

MAX = sys.float_info.max  # a perplexity that overflows is reported as this
needs_shared = pytest.mark.skipif(REAL is None, reason="LETHE_SHARED is not set: no logs, no reference values")
every_table = pytest.mark.parametrize("name", published_tables())


def metric(value: float, low: float | None = None, high: float | None = None) -> Metric:
    return Metric(value, 400, (value if low is None else low, value if high is None else high), "made up")


def cell(printed: str, column: Column | None = None, **table: object) -> Cell:
    """The only cell of a table; `lr` must be 1e-5."""
    column = column or Column("MU", "model_utility", decimals=2)
    options = {"source": "a paper", "columns": {column.name: column}, "setting": {"lr": 1e-5}, "rows": {"NPO": printed}} | table
    return Table("paper/table_1", **options).cell("NPO", column.name)


def judged(value: float | list[Metric], printed: str, column: Column | None = None, **table: object) -> Verdict:
    """A deterministic value, or seeds, against a printed one, in the setting of the table."""
    seeds = value if isinstance(value, list) else [metric(value)]
    return verdict(seeds, cell(printed, column, **table), {"lr": 1e-5}, deterministic=not isinstance(value, list))


@pytest.mark.parametrize(
    "text, decimals, low, high",
    [
        ("0.63", 0, 0.625, 0.635),
        ("0.6", 2, 0.595, 0.605),  # a zero was lost
        ("0.6", 0, 0.55, 0.65),
        ("2022", 0, 2021.5, 2022.5),
        ("-99.8", 1, -99.85, -99.75),
        ("5.87e-14", 2, 5.865e-14, 5.875e-14),
        ("4.02e+06", 0, 4.015e6, 4.025e6),
        ("6e-3", 0, 5.5e-3, 6.5e-3),
        ("0.0", 2, -0.005, 0.005),
        ("~2", 0, 1, 3),
        (">1e10", 0, 1e10, math.inf),
        ("<0.01", 0, -math.inf, 0.01),
        ("10^4", 0, 10**3.5, 10**4.5),
    ],
)
def test_a_print_stands_for_all_that_would_be_printed_so(text, decimals, low, high):
    printed = read_printed(text, decimals)
    assert (printed.low, printed.high) == (approx(low, rel=1e-6, abs=1e-22), approx(high, rel=1e-6, abs=1e-22))


@pytest.mark.parametrize("text", ["0,63", "about 1", "1e", ">>1", "10^x", "NaN", "", ">10^4", "sic:NM"])
def test_what_is_no_print_is_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"value {text}: write a number as it was printed")):
        read_printed(text)


@pytest.mark.parametrize(
    "value, printed, word",
    [
        (0.6349, "0.63", "within"),
        (0.6251, "0.63", "within"),
        (0.6351, "0.63", "differs"),
        (0.6249, "0.63", "differs"),
        (0.635, "0.63", "within"),  # on the edge: rounded to even or up, nobody knows
        (1e11, ">1e10", "within"),
        (math.inf, ">1e10", "within"),
        (9e9, ">1e10", "differs"),
        (3.2e3, "10^4", "within"),
        (3.1e4, "10^4", "within"),
        (3.1e3, "10^4", "differs"),
        (math.nan, "0.63", "differs"),
    ],
)
def test_rounding_alone_for_what_is_only_computed_again(value, printed, word):
    assert judged(value, printed).word == word


def test_the_sentence_states_value_print_and_tolerance():
    found = judged(0.641, "0.63")
    assert found.sentence == "differs by +0.011: 0.641 against 0.63 in paper/table_1, which stands for 0.625 to 0.635"
    assert (found.difference, found.tolerance) == (approx(0.011), approx(0.005))
    below = judged([metric(0.60, 0.55, 0.64)], "0.63")
    assert below.word == "within" and "0.6 (0.55 to 0.64: 95 % over 400 items)" in below.sentence
    assert (below.difference, below.tolerance) == (approx(-0.03), approx(0.04 + 0.005))
    above = judged([metric(0.66, 0.64, 0.75)], "0.63")
    assert above.word == "differs" and (above.difference, above.tolerance) == (approx(0.03), approx(0.02 + 0.005))
    second = judged(0.63, "0.63", second_hand="a note", remarks={"NPO": {"MU": "odd"}})
    assert second.sentence.endswith("(odd) (second-hand: a note)")


def test_units_are_those_of_the_print():
    percent = Column("V", "v", "percent", measured_in="share", decimals=1)
    assert judged(0.5844, "58.4", percent).word == "within" and judged(0.5846, "58.4", percent).word == "differs"
    assert (
        judged(0.5846, "58.4", percent).difference == approx(0.06)
        and " % against 58.4 % in" in judged(0.5, "58.4", percent).sentence
    )
    assert judged(58.44, "0.584", Column("V", "v", "share", measured_in="percent")).word == "within"
    left = Column("1-R", "r", decimals=2, complement=True)
    assert judged(0.394, "0.61", left).word == "within" and judged(0.61, "0.61", left).word == "differs"
    assert judged([metric(0.3, 0.2, 0.45)], "0.61", left).word == "within"  # 0.55 to 0.8


def test_p_values_are_compared_by_their_logarithms():
    p = Column("FQ", "forget_quality", "p", decimals=2)
    assert judged(1.944e-119, "1.94e-119", p).word == "within" and judged(1.95e-119, "1.94e-119", p).word == "differs"
    found = judged(1e-21, "1.00e-20", p)
    assert (found.difference, found.tolerance) == (approx(-1), approx(-math.log10(0.995)))
    assert found.sentence.startswith("differs by a factor of 0.1: 1e-21 against 1.00e-20 in ")
    assert judged(3e-9, "0.00", p).word == "within" and judged(0.006, "0.00", p).word == "differs"
    # Three seeds are not averaged: their median, and their range.
    seeds = judged([metric(1e-8), metric(0.3), metric(1e-3)], "0.25", p)
    assert seeds.word == "within" and "0.001 (1e-08 to 0.3: median and range of 3 seeds)" in seeds.sentence
    assert judged([metric(1e-8), metric(0.2), metric(1e-3)], "0.25", p).word == "differs"


def test_seeds_give_the_range_of_a_further_run():
    seeds = [metric(value, 0, 1) for value in (0.50, 0.52, 0.54)]
    half = 4.302653 * 0.02 * math.sqrt(1 / 3 + 1)  # Student's t of two degrees of freedom: 0.099
    found = judged(seeds, "0.62")
    assert found.word == "within" and found.tolerance == approx(half + 0.005, rel=1e-5)
    assert judged(seeds, "0.63").word == "differs"
    mean_of_five = judged(seeds, "0.58", runs=5)
    assert mean_of_five.word == "within" and mean_of_five.tolerance == approx(half * math.sqrt((1 / 3 + 1 / 5) / (4 / 3)) + 0.005)
    assert judged(seeds, "0.59", runs=5).word == "differs"
    # Perplexities that are printed as powers of ten: 10^3, 10^4, 10^5 lie around 10^4, not around their mean.
    assert judged([metric(10.0**k) for k in (3, 4, 5)], "10^4").difference == approx(0)


@pytest.mark.parametrize(
    "seeds, bound, number",
    [
        ((MAX, MAX, MAX), "within", "differs"),
        ((1e12, 1e13, 1e14), "within", "differs"),  # 1e13 and a factor of 1e5 to both sides
        ((20.0, 22.0, 21.0), "differs", "differs"),
        ((1e3, 1e20, MAX), "within", "within"),  # so far apart that a further one could lie anywhere
    ],
)
def test_perplexities_of_seeds_are_compared_by_their_logarithms(seeds, bound, number):
    column, of_seeds = Column("PPL", "perplexity", "perplexity"), [metric(value) for value in seeds]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (judged(of_seeds, ">1e10", column).word, judged(of_seeds, "3", column).word) == (bound, number)


def test_the_interval_of_a_run_holds_its_value():
    assert judged([metric(1.0, 0.2, 0.8)], "1.0").word == "within"


def test_without_a_metric_there_is_no_verdict():
    with pytest.raises(ValueError, match="there is no metric; pass one per seed"):
        judged([], "0.63")


def test_another_setting_is_named():
    value, table = [metric(0.63)], {"setting": {"lr": 1e-5, "compat": ["none", "released"]}}
    found = verdict(value, cell("0.63", **table), {"lr": 2e-5, "compat": "released"})
    assert (found.word, found.settings) == ("another setting", ["lr"])
    assert found.sentence.startswith("another setting, lr=2e-05 and not 1e-05: 0.63") and found.difference == approx(0)
    found = verdict(value, cell("0.63", **table), {"lr": 1e-5})
    assert found.settings == ["compat"] and "compat=unknown and not none or released" in found.sentence
    assert verdict(value, cell("0.63", **table), {"lr": 1e-5, "compat": "none", "epochs": 3}).word == "within"
    shipped = verdict(value, cell("0.63"), {"lr": 1e-5, "benchmark.data_root": "fixture"})
    assert shipped.word == "another setting" and "benchmark.data_root=fixture" in shipped.sentence
    unknown = verdict(value, cell("0.63", unreached=["of which model is unknown"]), {"lr": 1e-5})
    assert unknown.word == "another setting" and "of which model is unknown" in unknown.sentence


def test_training_counts_for_rows_that_were_unlearned():
    column = Column("MU", "model_utility")
    table = Table(
        "p/t",
        "a paper",
        {"MU": column},
        setting={"split": "forget10"},
        training={"lr": 1e-5, "epochs": 5},
        ours={"Original": "target", "GA": "ga", "GA 1": {"method.name": "ga", "epochs": 1}},
        rows=dict.fromkeys(("Original", "GA", "GA 1", "Other"), "0.6"),
    )
    assert table.cell("target", "model_utility").setting == {"split": "forget10"}
    assert table.cell("GA", "MU").setting == {"split": "forget10", "lr": 1e-5, "epochs": 5, "method.name": "ga"}
    assert table.cell("GA 1", "MU").setting == {"split": "forget10", "lr": 1e-5, "epochs": 1, "method.name": "ga"}
    assert table.cell("Other", "MU").setting == {"split": "forget10", "lr": 1e-5, "epochs": 5}
    with pytest.raises(ValueError, match="published.rows=ga: p/t has it as GA and as GA 1; name one of these"):
        table.cell("ga", "MU")
    with pytest.raises(ValueError, match=re.escape("published.rows=Origin: p/t has no such row; did you mean Original?")):
        table.cell("Origin", "MU")


@pytest.mark.parametrize(
    "printed, why",
    [("NM", "printed as NM, not meaningful"), ("sic:0.95", "printed as 0.95, which cannot be"), ("-", "nothing stands there")],
)
def test_no_published_value(printed, why):
    found = judged(0.9, printed)
    assert found.word == "no published value" and why in found.sentence and found.difference is None


def test_what_was_not_published_is_no_error():
    table = published_table("open-unlearning/tofu_llama3.2-1b_forget10")
    assert verdict([metric(0.3)], table.cell("npo_rt", "ks_statistic"), {}).word == "no published value"
    unread = published_table("flat/table_3").cell("flat_kl", "train_fq_gap")
    assert verdict([metric(0.3)], unread, {}).sentence == "no published value: FLAT's Table 3 could not be read"
    in_part = published_table("flat/table_4")
    assert in_part.cell("npo", "forget_quality").printed == "6e-3" and in_part.cell("flat_kl", "forget_quality").printed is None


def test_an_unknown_table_is_told_with_its_neighbours():
    with pytest.raises(
        ValueError, match="published.table=muse/table3_news: there is no such published table; did you mean muse/table_3_news"
    ):
        published_table("muse/table3_news")


GOOD = "t: {source: x, columns: {A: {metric: a}, B: {metric: b}}, rows: {GA: 1 2}}"


@pytest.mark.parametrize(
    "before, after, problem",
    [
        ("1 2", "1", "rows={'GA': 1}: write options, each a text, in quotes where it looks like a number"),
        ("1 2", "1 2 3", "rows.GA=1 2 3: write 2 values, one per column"),
        ("{A: {metric: a}, B: {metric: b}}", "[A, B]", "columns=['A', 'B']: write published names, each with its metric"),
        ("{metric: a}", "a", "columns.A=a: write its metric, unit and decimals"),
        ("metric: a", "metric: a, decimals: two", "columns.A.decimals=two: write a whole number"),
        ("source: x", "source: x, unreached: the model", "unreached=the model: write a list, each of it a text"),
        ("source: x", "source: x, runs: five", "runs=five: write a whole number"),
        ("1 2", "1 two", "value two: write a number as it was printed"),
        ("source", "sauce", "there is no key sauce; did you mean source?"),
        ("source: x, ", "", "missing 1 required positional argument: 'source'"),
        (
            "metric: a",
            "metric: a, unit: shares",
            "A.unit=shares: write one of share, percent, p, perplexity, number; did you mean share?",
        ),
        ("metric: a", "metric: a, measured_in: p", "A.measured_in=p: write one of null, share, percent"),
        ("metric: a", "metrics: a", "unexpected keyword argument 'metrics'"),
        ("rows", "ours: {GB: ga}, rows", "GB: there is no such row"),
        ("rows", "remarks: {GB: {A: odd}}, rows", "GB: there is no such row"),
        ("rows", "remarks: {GA: {C: odd}}, rows", "remarks: there is no column C"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path, before, after, problem):
    (tmp_path / "mine.yaml").write_text(GOOD.replace(before, after), encoding="utf-8")
    with pytest.raises(ValueError) as refusal:
        published_table("mine/t", tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path / 'mine.yaml'}: t: ") and problem in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["t: [", "- a", "t: 5"])
def test_a_wrong_file_is_one_sentence(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "mine.yaml"))) as refusal:
        published_tables(tmp_path)
    assert "\n" not in str(refusal.value)


CHOICES = {group: {path.stem for path in (ROOT / "config" / group).glob("*.yaml")} for group in ("model", "benchmark", "method")}


@every_table
def test_what_a_table_asks_of_a_run_is_there(name):
    """Models, benchmarks and methods have their files, and every dial exists where it is asked for."""
    table = published_table(name)
    for row in table.rows or [None]:
        setting = {} if row is None else table.setting_of(row)
        chosen = {group: setting[f"{group}.name"] for group in CHOICES if f"{group}.name" in setting}
        assert all(choice in CHOICES[group] for group, choice in chosen.items()), chosen
        keys = keys_of("evaluate") | keys_of("unlearn")
        keys = keys.union({"probe.name"}, *(keys_of(f"{group}/{choice}", f"{group}.") for group, choice in chosen.items()))
        assert setting.keys() <= keys, setting.keys() - keys


def known_metrics() -> dict[str, str]:
    """Metric -> share | percent | something else, by what the reports declare; of others unknown."""
    benchmarks = CHOICES["benchmark"]
    declared = {column.metric: column.scale for name in benchmarks for column in read_display(name).columns}
    made = set().union(*map(metrics_of, ("tofu", "knowundo", "safety", "utility")))
    return {key: "unknown" for key in made} | declared


def test_every_metric_is_one_of_ours_in_its_unit():
    known = known_metrics()
    for name in published_tables():
        table = published_table(name)
        for column in table.columns.values():
            if column.metric is None:
                continue
            scale = known[column.metric.removesuffix("_prompted")]
            ours = column.measured_in or column.unit
            if scale in ("share", "percent"):
                # open-unlearning's MUSE, and ours in that form, counts in shares
                assert ours == scale or "compat" in table.setting and table.setting["compat"] == "open_unlearning", (name, column)
            assert (column.unit == "p") == (scale == "p"), (name, column)
            assert (column.unit == "perplexity") == ("perplexity" in column.metric), (name, column)


def numbers_of(name: str, row: str) -> dict[str, float]:
    """Column -> printed number of a row, those left out that are none or are remarked on."""
    table = published_table(name)
    printed = {key: read_printed(text) for key, text in table.values(row).items() if key not in table.remarks.get(row, {})}
    return {key: one.value for key, one in printed.items() if one is not None}


def assert_follows(values: dict[str, float], average: str, names: Iterable[str], of: Callable[[list[float]], float], off: float):
    """The printed average is that of its printed parts, as far as rounding lets it be; nothing to say where one is lacking."""
    if {average, *names} <= values.keys():
        assert of([values[key] for key in names]) == approx(values[average], abs=off)


def test_printed_averages_follow_from_their_parts():
    """A slip on the way from the source would break them: where the source itself has one, a remark says so."""
    board = "tofu/leaderboard_llama2-7b-chat_forget10"
    for row in published_table(board).rows:
        assert_follows(numbers_of(board, row), "model_utility", UTILITY_PARTS, harmonic_mean, 1e-12)
    for name in ("knowundo/table_2", "knowundo/table_3", "knowundo/table_4", "knowundo/table_6"):
        for row in published_table(name).rows:
            values = numbers_of(name, row)
            assert_follows(values, "avg_success", ("unlearn_success", "retention_success"), np.mean, 0.0101)
            assert_follows(values, "general_avg", ("mmlu", "arc", "truthfulqa", "siqa", "race"), np.mean, 0.0101)
    for row in published_table("open-unlearning/table_3").rows:
        assert_follows(numbers_of("open-unlearning/table_3", row), "agg", ("mem", "priv", "utility"), harmonic_mean, 0.02)


def parts(rows: dict | list, part: str) -> dict[str, dict[str, str]]:
    """Method -> column -> text of one part (a model, a split, both) of the rows of a reference table."""
    if isinstance(rows, list):
        return {row["method"]: row for row in rows if row.get("model", part) == part}
    for key in filter(None, part.split("/")):
        rows = rows[key] if key in rows else {method: values[key] for method, values in rows.items()}
    return {method: values if isinstance(values, dict) else {"": values} for method, values in rows.items()}


MODELS = {"llama2-7b-chat": "Llama2-7B-Chat", "phi-1.5": "Phi-1.5B", "opt-2.7b": "OPT-2.7B"}
LLMU = {"opt-1.3b": "OPT-1.3B", "opt-2.7b": "OPT-2.7B", "llama2-7b": "Llama 2 (7B)"}


def sources() -> Iterator[tuple[str, str, str, str]]:
    """Our table, and where its numbers stand: file, id, part."""
    for number in "2346":
        yield f"knowundo/table_{number}", "knowundo", f"table{number}", ""
    yield "tofu/leaderboard_llama2-7b-chat_forget10", "tofu", "tofu_leaderboard_llama2_7b_forget10", ""
    for ours, theirs in (("llama2-7b-chat", "llama2_7b_chat"), ("llama3.2-1b", "llama32_1b")):
        for split in ("forget01", "forget05", "forget10"):
            yield f"open-unlearning/tofu_{ours}_{split}", "ou", f"ou_repro_tofu_{theirs}", split
            yield f"open-unlearning/tofu_{ours}_{split}", "tofu", f"ou_repro_{theirs}", split
        yield f"open-unlearning/leaderboard_tofu_{ours}_forget10", "tofu", f"ou_leaderboard_{theirs}", "forget10"
    yield "open-unlearning/table_3", "ou", "ou_paper_table_3_methods", ""
    yield "open-unlearning/table_6", "ou", "ou_paper_table_6_methods_without_privacy", ""
    for corpus in ("news", "books"):
        yield f"open-unlearning/muse_{corpus}", "ou", "ou_repro_muse", corpus.title()
        yield f"open-unlearning/muse_{corpus}", "muse", "ou_repro_muse", corpus.title()
        yield f"open-unlearning/leaderboard_muse_{corpus}", "muse", "ou_leaderboard_muse", corpus.title()
        yield f"muse/table_3_{corpus}", "muse", f"muse_paper_table3_{corpus}", ""
        yield f"simnpo/table_2_{corpus}", "simnpo", f"simnpo_table_2_muse_{corpus}", ""
        yield f"simnpo/card_muse_{corpus}", "muse", f"simnpo_card_muse_{corpus}", ""
    yield "muse/logs_news", "muse", "muse_author_logs_news", ""
    for kind, theirs in (("scal", "scalability"), ("sust", "sustainability")):
        for fold in "234":
            yield f"muse/{kind}_{fold}", "muse", f"muse_author_logs_news_{theirs}", fold
    yield "simnpo/table_1", "simnpo", "simnpo_table_1_tofu_forget05", ""
    for split in ("forget05", "forget10"):
        yield f"simnpo/card_tofu_{split}", "tofu", "simnpo_cards_llama2_7b_chat", split
    for ours, theirs in MODELS.items():
        for split, share in (("forget01", "1%"), ("forget05", "5%"), ("forget10", "10%")):
            yield f"flat/dragon_{ours}_{split}", "flat", "dragon-tables-2-8-9", f"{theirs}/{share}"
    yield "flat/mox_llama2-7b-chat", "flat", "mox-table-1", "Llama2-7B"
    yield "flat/mox_phi-1.5", "flat", "mox-table-1", "Phi-1.5B"
    yield "flat/survey_book", "flat", "survey-note-representative-values", "Harry Potter"
    yield "flat/survey_muse_news", "flat", "survey-note-representative-values", "MUSE-News"
    for ours, theirs in LLMU.items():
        yield f"llmu/harmful_{ours}", "llmu", "harmfulness", theirs
        yield f"llmu/copyright_{ours}", "llmu", "copyright", theirs
    for ours in ("opt-1.3b", "llama2-7b"):
        yield f"llmu/hallucination_{ours}", "llmu", "hallucination", LLMU[ours]
    yield "llmu/rlhf_opt-1.3b", "llmu", "comparison with RLHF", "OPT-1.3B"


SOURCES = list(sources()) if REAL is not None else []


@cache
def reference(file: str) -> dict:
    return yaml.load((REAL / "reference" / "published" / f"{file}.yaml").read_text("utf-8"), yaml.BaseLoader)


def their_tables(file: str) -> dict[str, dict]:
    lists = ("tables", "main_tables", "second_hand_tables", "related_tables")
    return {table["id"]: table for key in lists for table in reference(file).get(key, [])}


def same(text: str) -> float | str:
    """A value for comparison, whatever form it was written in."""
    text = text.removeprefix("sic:").removeprefix("~").replace("10^", "1e")
    return text if text[0] == ">" or text == "NM" else float(text)


NOT_VALUES = {"method", "model", "approximate", "relative_time_approximate"}
COLUMNS = {"PPL_order_of_magnitude": "PPL", "": "knowmem_retain"}


@needs_shared
@pytest.mark.parametrize("name, file, theirs, part", SOURCES)
def test_every_value_is_the_source_s(name, file, theirs, part):
    table = published_table(name)
    ours = {row: {column: same(text) for column, text in table.values(row).items() if text != "-"} for row in table.rows}
    wanted = parts(their_tables(file)[theirs]["rows"], part)
    read = {
        row: {COLUMNS.get(column, column): same(text) for column, text in values.items() if column not in NOT_VALUES}
        for row, values in wanted.items()
    }
    assert ours == read


@needs_shared
def test_the_values_that_stand_apart():
    shown = reference("knowundo")["figure5_prompt_sensitivity"]["rows"]
    table = published_table("knowundo/figure_5")
    for row in table.rows:
        values = {f"{key}_{prompt}": value for key, both in shown[row].items() for prompt, value in both.items()}
        assert table.values(row) == values
    assert table.rows.keys() == shown.keys()
    (quoted,) = reference("flat")["quoted_cells"]
    table = published_table("flat/table_4")
    assert {row: table.values(row) for row in table.rows} == {
        quoted["method"]: {"FQ": quoted["printed_as"], "MU": "-", "F-RL": "-", "R-RL": "-"}
    }


@needs_shared
def test_no_table_without_its_source():
    apart = {"knowundo/figure_5", "flat/table_4"}
    tables = set(published_tables())
    assert {name for name, *_ in SOURCES} | apart == {name for name in tables if published_table(name).rows}
    assert all(published_table(name).unread for name in tables if not published_table(name).rows)


def evaluated(folder: Path, log: Path, oracle: Path) -> tuple[dict[str, Metric], dict[str, object]]:
    """Numbers and settings of `python evaluate.py from_logs=...` in the setting of TOFU's leaderboard."""
    words = ("model=llama2-7b-chat", "benchmark=tofu", "split=forget10", "benchmark.rows=300", "resamples=100")
    command = (*words, f"from_logs={log}", f"oracle={oracle}", "out=logs")
    run(folder, "evaluate", *command)
    settings = flat_settings(json.loads((folder / "logs" / "run.json").read_text("utf-8"))["settings"])
    return {
        key: Metric(m["value"], m["n"], tuple(m["ci95"]), m["definition"]) for key, m in metrics(folder / "logs").items()
    }, settings


@needs_shared
def test_published_logs_come_out_within_and_an_edited_one_differs(tmp_path):
    logs = REAL / "golden" / "tofu_logs"
    full, retain = (logs / f"llama2-7b_{model}_wd0.01.json.gz" for model in ("full", "retain90"))
    table = published_table("tofu/leaderboard_llama2-7b-chat_forget10")

    def verdicts(folder: str, log: Path, row: str) -> dict[str, Verdict]:
        (tmp_path / folder).mkdir()
        numbers, settings = evaluated(tmp_path / folder, log, retain)
        return {key: verdict([numbers[key]], table.cell(row, key), settings, deterministic=True) for key in numbers}

    for row, log, left in (("target", full, {"ks_statistic"}), ("oracle", retain, {"ks_statistic", "real_authors_truth_ratio"})):
        found = verdicts(row, log, row)
        assert {key for key in found if found[key].word == "no published value"} == left
        found = {key: one for key, one in found.items() if key not in left}
        assert len(found) == 15 - len(left) and {one.word for one in found.values()} == {"within"}, [
            one.sentence for one in found.values() if one.word != "within"
        ]

    edited = json.loads(gzip.decompress(full.read_bytes()))
    question = edited[TOP_LEVEL["forget"]]["rougeL_recall"]
    question["7"] = np.nextafter(question["7"], 0) - 0.01  # one question of 300, by a hundredth
    (tmp_path / "edited.json").write_text(json.dumps(edited), encoding="utf-8")
    found = verdicts("edited", tmp_path / "edited.json", "target")
    assert [key for key, one in found.items() if one.word == "differs"] == ["forget_rougeL_recall"]
    assert found["forget_rougeL_recall"].difference == approx(-0.01 / 300)


def test_logs_of_another_model_are_another_setting():
    settings = flat_settings({"model": {"name": "tiny"}, "split": "forget10"})
    found = verdict(
        [metric(0.63)], published_table("tofu/leaderboard_llama2-7b-chat_forget10").cell("target", "model_utility"), settings
    )
    assert found.word == "another setting" and "model.name=tiny and not llama2-7b-chat" in found.sentence
    assert compose_settings("evaluate").model.name == "tiny"  # what a log is said to be unless told otherwise
