"""A study's table, by hand: rows, spread, differences, who is best, who has collapsed, and what the caption says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pytest import approx

from data.benchmarks.tofu import Tofu
from metrics.benchmarks.tofu import TaskScores, tofu_metrics
from tests.utils.tables.measured import Said, cells
from utils.items.metric import Metric
from utils.report.columns import Column, read_display
from utils.tables.caption import caption
from utils.tables.measured import MeasuredCell
from utils.tables.statistics import holm, paired_t
from utils.tables.table import StudyColumn, StudyTable, TableCell, TableSpec, make_table, study_columns

ROUGE = Column("F-ROUGE", "rouge", "ROUGE of forgotten answers", "oracle")
UTILITY = Column("MU", "utility", "model utility", "high")
QUALITY = Column("FQ", "quality", "forget quality", "high", "p", statistic="ks", placement="null")
SPEC = TableSpec("Three methods", [StudyColumn(ROUGE), StudyColumn(UTILITY)], ["F-ROUGE", "MU"], "gd", resamples=50)
STUDY = [
    *cells("npo", "method", {"rouge": [0.30, 0.32, 0.37], "utility": [0.60, 0.62, 0.61]}, settings={"lr": 1e-4}),
    *cells("gd", "method", {"rouge": [0.20, 0.21, 0.19], "utility": [0.50, 0.55, 0.51]}),
    *cells("ga", "method", {"rouge": [0.02, 0.03, 0.02], "utility": [0.00, 0.01, 0.00]}),
    *cells("full", "target", {"rouge": [0.99], "utility": [0.63]}),
    *cells("retain", "oracle", {"rouge": [0.40, 0.42], "utility": [0.62, 0.63]}),
]


def cell(table: StudyTable, row: str, column: str, evaluation: str = "plain") -> TableCell | None:
    place = [(known.column.name, known.evaluation) for known in table.columns].index((column, evaluation))
    return next(found for found in table.rows if found.name == row).cells[place]


def best(table: StudyTable, column: str) -> set[str]:
    return {row.name for row in table.rows if (found := cell(table, row.name, column)) is not None and found.best}


def test_a_row_is_a_method_and_roles_come_in_their_order():
    table = make_table(STUDY, SPEC)
    assert [(row.name, row.role, row.seeds) for row in table.rows] == [
        ("full", "target", 1), ("retain", "oracle", 2), ("npo", "method", 3), ("gd", "method", 3), ("ga", "method", 3),
    ]  # fmt: skip
    found = cell(table, "npo", "F-ROUGE").spread
    assert (found.mean, found.sd, found.n) == (approx(0.33), approx(math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2)), 3)
    assert table.rows[2].settings == "lr 0.0001" and math.isnan(cell(table, "full", "MU").spread.sd)


def test_settings_that_differ_between_seeds_are_all_told():
    tuned = [replace(found, settings={"lr": rate}) for found, rate in zip(STUDY[:3], (1e-4, 2e-4, 1e-4), strict=True)]
    assert make_table(tuned, SPEC).rows[0].settings == "lr 0.0001 or lr 0.0002"


def test_best_is_nearest_to_the_oracle_and_only_methods_compete():
    assert best(make_table(STUDY, SPEC), "F-ROUGE") == {"npo"}  # 0.33 is 0.08 below the oracle's 0.41; ga's 0.02 is no feat
    assert best(make_table(STUDY, SPEC), "MU") == {"npo"}
    alone = [found for found in STUDY if found.role != "oracle"]
    assert best(make_table(alone, SPEC), "F-ROUGE") == set()


def test_equal_prints_share_the_place():
    close = [*cells("a", "method", {"utility": [0.60004]}), *cells("b", "method", {"utility": [0.60041]})]
    last = cells("c", "method", {"utility": [0.59]})
    assert best(make_table([*close, *last], SPEC), "MU") == {"a", "b"}
    assert best(make_table(close, SPEC), "MU") == set()  # nobody is better than anybody


def test_differences_are_paired_by_seed_and_corrected_over_methods():
    table = make_table(STUDY, SPEC)
    raw = {
        "npo": paired_t(dict(enumerate([0.20, 0.21, 0.19])), dict(enumerate([0.30, 0.32, 0.37]))),
        "ga": paired_t(dict(enumerate([0.20, 0.21, 0.19])), dict(enumerate([0.02, 0.03, 0.02]))),
    }
    corrected = holm({name: found.p for name, found in raw.items()})
    for name, expected in raw.items():
        found = cell(table, name, "F-ROUGE")
        assert (found.difference.mean, found.difference.ci95) == (approx(expected.mean), approx(expected.ci95))
        assert found.p_holm == approx(corrected[name]) and found.p_holm >= expected.p
        assert found.clustered.units == 2 and found.clustered.value == approx(expected.mean)
        # Items differ by the same amount in all runs: which author is drawn changes nothing.
        assert found.clustered.ci95 == approx((expected.mean, expected.mean))
    for row in ("gd", "full", "retain"):
        assert cell(table, row, "F-ROUGE").difference is None and cell(table, row, "F-ROUGE").clustered is None


def test_a_column_that_is_not_primary_is_not_tested():
    table = make_table(STUDY, replace(SPEC, primary=["MU"]))
    assert cell(table, "npo", "F-ROUGE").difference is None and cell(table, "npo", "MU").difference is not None


def test_what_cannot_be_compared_is_said():
    other = [replace(found, seed=found.seed + 5) for found in STUDY if found.row == "npo"]
    told = caption(make_table([found for found in STUDY if found.row != "npo"] + other, SPEC))
    assert "No difference of npo in MU: it has no seed in common with gd." in told
    bare = [replace(found, metrics={"utility": replace(found.metrics["utility"], evidence=None)}) for found in STUDY]
    assert "No interval over subjects of npo in MU: the metric keeps no values per question." in caption(make_table(bare, SPEC))
    failed = [found for found in STUDY if found.row != "gd"]
    assert any(note.startswith("No differences: no other method") for note in caption(make_table(failed, SPEC)))


def test_p_values_are_never_averaged():
    """Means of p would make of 1e-9 and 0.8 a pass; shown are their ends, and the mean of D, whose best is the least."""
    first = cells("a", "method", {"quality": [1e-9, 0.8], "ks": [0.5, 0.1], "null": [0.25, 0.75]})
    second = cells("b", "method", {"quality": [1e-3, 2e-3], "ks": [0.4, 0.4], "null": [0.25, 0.25]})
    spec = TableSpec("t", [StudyColumn(QUALITY)], ["FQ"], "b", resamples=5)
    table = make_table([*first, *second], spec)
    found = cell(table, "a", "FQ")
    assert found.spread.mean == approx(0.3) and found.p_values == approx((1e-9, 0.8)) and found.placements == (0.25, 0.75)
    assert best(table, "FQ") == {"a"} and found.difference.mean == approx(-0.1)
    bare = make_table(first, TableSpec("t", [StudyColumn(replace(QUALITY, statistic=None, placement=None))]))
    assert cell(bare, "a", "FQ").spread is None and cell(bare, "a", "FQ").p_values == approx((1e-9, 0.8))


def test_tofu_says_what_stands_for_its_p_value():
    (quality,) = (column for column in read_display("tofu").columns if column.is_p_value)
    assert (StudyColumn(quality).shown.metric, quality.placement) == ("ks_statistic", "forget_quality_null")
    assert StudyColumn(quality).shown.better == "low"


def test_the_collapsed_are_marked_and_never_best():
    """Repetition 0.9 against the oracle's 0.1; where only the target was asked, against the target's."""
    broken = [
        replace(found, metrics=found.metrics | cells("x", "method", {"fluency_rep3": [0.9]})[0].metrics) for found in STUDY[:3]
    ]
    fine = cells("retain", "oracle", {"fluency_rep3": [0.1], "rouge": [0.41], "utility": [0.6]})
    table = make_table([*broken, *STUDY[3:9], *fine], SPEC)
    marks = {row.name: row.collapsed for row in table.rows}
    assert marks == {"retain": "", "npo": "fluency_rep3 0.90 against 0.10", "gd": "", "ga": ""}
    assert best(table, "F-ROUGE") == {"gd"} and best(table, "MU") == {"gd"}
    told = " ".join(caption(table))
    assert "† collapsed" in told and "more than 0.25 above" in told and "npo (fluency_rep3 0.90 against 0.10)" in told
    target = [replace(found, role="target") for found in fine]
    assert make_table([*broken, *target], SPEC).rows[1].collapsed == "fluency_rep3 0.90 against 0.10"
    nobody = make_table(broken, SPEC)
    assert not nobody.rows[0].collapsed and "Nobody is marked as collapsed" in " ".join(caption(nobody))


def test_silence_on_one_task_counts_and_clean_answers_do_not():
    oracle = cells("o", "oracle", {"fluency_empty_forget": [0.0], "fluency_clean": [0.2], "fluency_words": [10.0]})
    silent = cells("a", "method", {"fluency_empty_forget": [0.5], "fluency_clean": [0.2]})
    clean = cells(
        "b", "method", {"fluency_empty_forget": [0.1], "harmful_rep3": [0.9], "fluency_clean": [0.9], "fluency_words": [90.0]}
    )
    table = make_table([*oracle, *silent, *clean], TableSpec("t", []))
    assert [bool(row.collapsed) for row in table.rows] == [False, True, False]


def test_probes_stand_beside_the_plain_evaluation():
    probed = cells("npo", "method", {"utility": [0.50, 0.40, 0.61]}, "paraphrase")
    table = make_table([*STUDY, *probed], replace(SPEC, primary=["MU"]))
    assert [(known.column.name, known.evaluation) for known in table.columns] == [
        ("F-ROUGE", "plain"), ("MU", "plain"), ("MU", "paraphrase"),
    ]  # fmt: skip
    found = cell(table, "npo", "MU", "paraphrase")
    assert found.drop.mean == approx((0.10 + 0.22 + 0.0) / 3) and cell(table, "gd", "MU", "paraphrase") is None
    assert cell(table, "npo", "MU").drop is None and found.verdict is None
    chosen = replace(SPEC, columns=[*SPEC.columns, StudyColumn(ROUGE, "paraphrase")])
    assert len(make_table([*STUDY, *probed], chosen).columns) == 3  # named by hand, so nothing is added


def test_the_published_value_stands_at_its_cell():
    said = Said("differs", "0.60", 0.01, "0.61 against 0.60 in paper/table-1, tolerance 0.005")
    table = make_table(STUDY, replace(SPEC, verdicts={("npo", "MU"): said}))
    assert cell(table, "npo", "MU").verdict is said and cell(table, "npo", "F-ROUGE").verdict is None
    assert f"Published, npo, MU: {said.sentence}." in caption(table)


def test_the_caption_says_what_the_numbers_cannot():
    told = " ".join(
        caption(make_table(STUDY, replace(SPEC, settings="Model tiny", left_out={"sku, seed 2": "diverged at step 4"})))
    )
    for words in (
        "Model tiny.",
        "With fewer than 5 seeds",
        "descriptive",
        "All seeds start from one target",
        "sku, seed 2: diverged",
    ):
        assert words in told, words
    five = [*cells("a", "method", {"utility": [0.1] * 5}), *cells("gd", "method", {"utility": [0.2] * 5})]
    told = " ".join(caption(make_table(five, replace(SPEC, shared_target=False))))
    assert "descriptive" not in told and "one target" not in told


def test_columns_of_a_study_file():
    declared = [ROUGE, UTILITY]
    entries = [
        "MU",
        "rouge",
        "mia_loss",
        {"metric": "utility", "evaluation": "paraphrase"},
        {"name": "Mine", "metric": "my_own", "better": "low"},
    ]
    found = study_columns(entries, declared, ["plain", "paraphrase"])
    assert found[:2] == [StudyColumn(UTILITY), StudyColumn(ROUGE)]
    assert found[2] == StudyColumn(Column("mia_loss", "mia_loss", scale="free"))
    assert found[3] == StudyColumn(UTILITY, "paraphrase")
    assert found[4] == StudyColumn(Column("Mine", "my_own", better="low", scale="free"))


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (3, r"columns\[0\]=3: write the name of a metric"),
        ({"scale": "log"}, r"columns\[0\]=.*: write the name of a metric"),
        ({"metric": "rouge", "beter": "low"}, r"columns\[0\]: there is no key beter; did you mean better\?"),
        (
            {"metric": "rouge", "evaluation": "pain"},
            r"columns\[0\].evaluation=pain: there is no such evaluation; did you mean plain\?",
        ),
        ({"metric": "rouge", "better": "more"}, r"columns\[0\].better=more: write one of high"),
    ],
)
def test_a_wrong_column_is_one_sentence(entry, sentence):
    with pytest.raises(ValueError, match=sentence):
        study_columns([entry], [ROUGE])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: replace(SPEC, primary=["MV"]), "primary=MV: there is no such column; there are F-ROUGE, MU"),
        (lambda: replace(SPEC, columns=[StudyColumn(UTILITY)] * 2), "two have the name MU in the evaluation plain"),
        (lambda: make_table([STUDY[0], STUDY[0]], SPEC), "row npo has seed 0 of evaluation plain twice, in runs/npo/0 and"),
        (lambda: make_table([STUDY[0], replace(STUDY[1], role="log")], SPEC), "row npo is a method, but a log in runs/npo/1"),
    ],
)
def test_what_is_no_table_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_the_declared_columns_of_a_benchmark_make_a_table():
    """TOFU's own numbers, with its oracle and its authors: ten questions each in the fixture, two authors to forget."""
    subject = Tofu("tofu", "owner/data", "0123456789", "fixture").subject

    def numbers(seed: int, shift: float) -> dict[str, Metric]:
        rng = np.random.default_rng(seed)

        def scores(n: int, wrong: int = 5) -> TaskScores:
            right = 1 + shift + rng.random(n)
            return TaskScores(right, right + 0.1, 2 + rng.random((n, wrong)), rng.random(n))

        tasks = {"retain": scores(20), "real_authors": scores(5, 3), "world_facts": scores(4, 3), "forget": scores(20)}
        retained = TaskScores(*(np.random.default_rng(99).random(shape) for shape in (20, 20, (20, 5), 20)))
        found = tofu_metrics(tasks, retained, resamples=2)
        return {name: metric.clustered(subject) for name, metric in found.items()}

    made = [
        MeasuredCell(row, "method", seed, "plain", Path(row), numbers(seed, shift), {})
        for row, shift in (("npo", 0.0), ("gd", 0.5))
        for seed in range(3)
    ]
    columns = study_columns([column.name for column in read_display("tofu").columns], read_display("tofu").columns)
    table = make_table(made, TableSpec("t", columns, ["FQ", "MU"], "gd", resamples=20))
    assert all(cell is not None for row in table.rows for cell in row.cells) and table.skipped == []
    assert cell(table, "npo", "FQ").clustered.units == 2  # the model's and the oracle's answers are drawn together
    assert cell(table, "npo", "MU").clustered.units == 2 + 5 + 4
    own = [made[seed].metrics["ks_statistic"].value for seed in range(3)]
    assert cell(table, "npo", "FQ").spread.mean == approx(sum(own) / 3)
