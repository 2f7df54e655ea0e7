"""Equal tuning: the same number of trials for every row, one rule among them, parts of the subjects kept aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from utils.items.metric import Metric, measured
from utils.studies.cells import own_settings
from utils.studies.study import Study
from utils.studies.tuning import Part, Tune, choose_trial, crossfitted, folds_of, joined, restricted

SPACE = {"lr": [1e-5, 2e-5, 4e-5, 8e-5]}
RULE = {"near": ("prob", "rouge"), "kept": "utility"}
ALL = Part({})


def study(tune: Mapping[str, Any] | None, **content: Any) -> Study:
    models = {"target": {"split": "full"}, "oracle": {"split": "retain90"}}
    rows = {"npo": {"lr": 2e-5}, "ga": {"lr": 7e-5}, "flat_kl": {}, "log": {"evaluate": {"from_logs": "x"}}}
    common = {"model": "tiny", "benchmark": "tofu"}
    return Study("a", "A study", common=common, tune=tune, **({"models": models, "rows": rows, "seeds": [0, 1]} | content))


def tune(**content: Any) -> Tune:
    return Tune(**({"budget": 3, "space": SPACE, **RULE} | content))


def number(values: Sequence[float], subjects: Sequence[str] | None = None, statistic: Any = None) -> Metric:
    made = measured({"forget": np.array(values)}, "a mean", *([statistic] if statistic else []), resamples=10)
    names = subjects or [f"author {place // 2}" for place in range(len(values))]
    assert made.evidence is not None
    return replace(made, evidence=replace(made.evidence, clusters={"forget": names}))


def trial(prob: float, rouge: float, utility: float) -> dict[str, Metric]:
    return {"prob": number([prob] * 4), "rouge": number([rouge] * 4), "utility": number([utility] * 4)}


ORACLE, TARGET = trial(0.2, 0.4, 0.9), trial(0.9, 0.9, 1.0)


def chosen(*trials: dict[str, Metric], **content: Any) -> int:
    return choose_trial(tune(**content), {place: [one] for place, one in enumerate(trials)}, ORACLE, TARGET, ALL).chosen.trial


@pytest.mark.parametrize("search", ["random", "grid"])
def test_every_row_gets_as_many_trials_its_own_setting_first(search):
    made = study({"budget": 4 if search == "grid" else 3, "space": SPACE, "search": search})
    tuned = Tune.of(made)
    assert tuned is not None
    for name in ("npo", "ga"):
        if search == "grid" and name == "ga":
            continue  # whose own setting lies beside the grid
        entry = made.entries[name]
        trials = tuned.trials(entry)
        tried = [one.get("lr", entry.settings["lr"]) for one in trials]
        assert trials[0] == {} and len({*tried}) == len(tried) == tuned.budget
        assert {*tried[1:]} <= {*SPACE["lr"]}
    assert tuned.tunes(made.entries["npo"]) and not tuned.tunes(made.entries["log"]) and not tuned.tunes(made.entries["target"])


def test_random_search_is_the_same_each_time_and_another_with_another_draw():
    entry, space = study(None).entries["npo"], {"lr": [n * 1e-6 for n in range(1, 30)]}
    drawn = [tune(budget=9, space=space, draw=draw).trials(entry) for draw in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_setting_that_the_files_give_is_no_second_trial():
    """flat_kl says no rate of its own; the one that its files give is tried once, as the published one."""
    made = study(None)
    own = own_settings(made.entries["flat_kl"], ["lr"])["lr"]
    trials = tune(budget=2, space={"lr": [own, 3e-5]}).trials(made.entries["flat_kl"])
    assert trials == [{}, {"lr": 3e-5}]


@pytest.mark.parametrize(
    "content, said",
    [
        ({"budget": 6}, "tune.budget=6: write at most 4, which are all that tune.space holds"),
        ({"budget": 3, "search": "grid"}, "tune.budget=3: write 4 for the whole grid and npo's own setting"),
    ],
)
def test_a_budget_that_does_not_fit_the_space(content, said):
    with pytest.raises(ValueError) as error:
        tune(**content).trials(study(None).entries["npo"])
    assert str(error.value) == said


def test_the_nearest_of_those_that_keep_enough():
    assert chosen(trial(0.9, 0.9, 1.0), trial(0.3, 0.5, 0.95), trial(0.2, 0.4, 0.94)) == 1  # 0.94 < 95 % of 1.0
    assert chosen(trial(0.9, 0.9, 1.0), trial(0.3, 0.5, 0.95), trial(0.2, 0.4, 0.94), share=0.9) == 2
    # Below the oracle is as far as above it: (0.1 + 0.2) / 2 against (0.2 + 0.2) / 2.
    assert chosen(trial(0.0, 0.2, 1.0), trial(0.1, 0.6, 1.0)) == 1


def test_among_equals_the_earlier_one():
    assert chosen(trial(0.9, 0.9, 1.0), trial(0.3, 0.5, 1.0), trial(0.1, 0.3, 1.0)) == 1
    assert chosen(trial(0.3, 0.5, 1.0), trial(0.3 - 1e-12, 0.5, 1.0)) == 0


def test_where_none_keeps_enough_the_one_that_keeps_most():
    found = choose_trial(
        tune(), {0: [trial(0.2, 0.4, 0.5)], 1: [trial(0.9, 0.9, 0.8)], 4: [trial(0.2, 0.4, 0.8)]}, ORACLE, TARGET, ALL
    )
    assert found.chosen.trial == 1 and found.chosen.kept == pytest.approx(0.8) and not found.chosen.admissible
    assert [(one.trial, one.distance) for one in found.judged] == [(0, 0.0), (1, pytest.approx(0.6)), (4, 0.0)]


def test_what_is_undefined_is_not_chosen():
    undefined = trial(0.2, 0.4, 1.0)
    undefined["prob"] = replace(undefined["prob"], value=float("nan"))
    assert chosen(undefined, trial(0.9, 0.9, 1.0)) == 1
    lost = trial(0.2, 0.4, 0.5)
    lost["utility"] = replace(lost["utility"], value=float("nan"))
    assert chosen(lost, trial(0.9, 0.9, 0.1)) == 1


def test_seeds_of_a_trial_count_by_their_mean():
    two = {0: [trial(0.3, 0.5, 1.0)], 1: [trial(0.0, 0.2, 0.9), trial(0.4, 0.6, 1.0)]}
    assert choose_trial(tune(), two, ORACLE, TARGET, ALL).chosen.trial == 1  # 0.2 and 0.4 at 0.95


def test_a_metric_that_was_not_measured():
    with pytest.raises(ValueError, match="tune: the rule needs rogue, which was not measured; did you mean rouge"):
        chosen(trial(0.2, 0.4, 1.0), near=("rogue",))


def test_parts_are_disjoint_balanced_and_the_same_for_whoever_asks():
    names = [f"author {place}" for place in range(20)] + [f"forget/{place}" for place in range(5)]
    folds = folds_of({"prob": number(np.linspace(0, 1, 25), names)}, 3)
    assert {*folds} == {*names}
    for kind, count in (("author", 20), ("forget", 5)):
        sizes = [sum(fold == part for name, fold in folds.items() if name.startswith(kind)) for part in range(3)]
        assert sum(sizes) == count and max(sizes) - min(sizes) <= 1
    assert folds["author 9"] != folds["author 10"]  # in their natural order
    for fold in range(3):
        for name in names:
            assert (name in Part(folds, fold)) != (name in Part(folds, fold, inside=False))
            assert name in Part(folds)


def test_a_number_on_a_part_is_computed_from_its_subjects():
    whole = number([0.1, 0.3, 0.5, 0.7])
    folds = {"author 0": 0, "author 1": 1}
    assert restricted(whole, Part(folds, 0)).value == pytest.approx(0.2)
    assert restricted(whole, Part(folds, 0, inside=False)).value == pytest.approx(0.6)
    assert restricted(whole, Part(folds)) is whole
    assert restricted(whole, Part(folds, 2)) is None  # nobody is in that part
    assert restricted(replace(whole, evidence=None), Part(folds, 0)) is None


def test_a_rule_cannot_look_at_a_part_of_what_knows_no_subjects():
    blind = {**ORACLE, "prob": replace(ORACLE["prob"], evidence=None)}
    with pytest.raises(ValueError, match="tune: prob is not known per subject, .*; say tune.folds=1"):
        choose_trial(tune(), {0: [blind]}, ORACLE, TARGET, Part({"author 0": 0}, 0))


def median(samples: Mapping[str, np.ndarray]) -> float:
    return float(np.median(samples["forget"]))


@pytest.mark.parametrize("statistic", [None, median])
def test_the_parts_of_one_run_are_that_run(statistic):
    whole = number([0.1, 0.35, 0.5, 0.7, 0.2, 0.9], statistic=statistic)
    folds = folds_of({"prob": whole}, 2)
    again = joined([restricted(whole, Part(folds, fold)) for fold in range(2)])
    assert again.value == pytest.approx(whole.value, abs=1e-12) and again.n == whole.n
    assert crossfitted({0: {"prob": whole}, 1: {"prob": whole}}, folds)["prob"].value == pytest.approx(whole.value, abs=1e-12)


def test_each_part_is_answered_by_the_run_chosen_on_the_others():
    folds = {"author 0": 0, "author 1": 1}
    one, two = number([0.1, 0.3, 0.5, 0.7]), number([0.2, 0.4, 0.6, 1.0])
    found = crossfitted({0: {"prob": one, "alone": one}, 1: {"prob": two, "blind": replace(two, evidence=None)}}, folds)
    assert found["prob"].value == pytest.approx((0.1 + 0.3 + 0.6 + 1.0) / 4)
    assert {*found} == {"prob"}  # what one run lacks, or nothing is known of per subject, is left out
    by_hand = crossfitted(
        {
            0: {"prob": number([0.1, 0.3, 0.5, 0.7], statistic=median)},
            1: {"prob": number([0.2, 0.4, 0.6, 1.0], statistic=median)},
        },
        folds,
    )
    assert by_hand["prob"].value == pytest.approx(0.45)  # of 0.1, 0.3, 0.6, 1.0: not the mean of two medians


@pytest.mark.parametrize(
    "content, said",
    [
        ({"bugdet": 3}, "tune.bugdet=3: write one of its keys; did you mean budget?"),
        ({"space": SPACE}, "tune.budget=: write"),
        ({"budget": 3}, "tune.space=: write"),
        ({"budget": "many", "space": SPACE}, "tune.budget=many: write a whole number"),
        ({"budget": 0, "space": SPACE}, "tune.budget=0: write a whole number from 1"),
        ({"budget": 1, "space": {"lr": 1e-5}}, "tune.space=.*: write options, each a list"),
        ({"budget": 1, "space": {"lr": []}}, r"tune.space.lr=\[\]: write a list of values"),
        (
            {"budget": 1, "space": {"epochs": [1, 2]}},
            "tune.space=epochs: write what leaves the steps equal, or tune.equal=trials",
        ),
        ({"budget": 1, "space": SPACE, "search": "bayes"}, "tune.search=bayes: write one of grid, random"),
        ({"budget": 1, "space": SPACE, "share": 1.5}, "tune.share=1.5: write a number above 0 and up to 1"),
        ({"budget": 1, "space": SPACE, "near": "prob"}, "tune.near=prob: write a list"),
        ({"budget": 1, "space": SPACE, "near": []}, r"tune.near=\[\]: write metrics"),
        ({"budget": 1, "space": SPACE, "seeds": [1]}, r"tune.seeds=\[1\]: write seeds that the study does not report"),
        ({"budget": 1, "space": SPACE, "rows": ["nop"]}, "tune.rows=nop: write one of .*; did you mean npo"),
        ({"budget": 1, "space": SPACE, "evaluation": "asked"}, "tune.evaluation=asked: write plain"),
    ],
)
def test_a_wrong_tuning_is_one_sentence(content, said):
    with pytest.raises(ValueError, match=f"^{said}") as error:
        Tune.of(study(content))
    assert "\n" not in str(error.value)


def test_seeds_of_a_row_of_its_own_count_too():
    rows = {"npo": {"seeds": [1000]}}
    with pytest.raises(ValueError, match=r"tune.seeds=\[1000\]: write seeds that the study does not report"):
        Tune.of(study({"budget": 1, "space": SPACE, "seeds": [1000]}, rows=rows))


def test_the_rule_needs_a_target_and_an_oracle():
    with pytest.raises(ValueError, match="tune=rule: write a model with role oracle to go by"):
        Tune.of(study({"budget": 1, "space": SPACE}, models={"target": {"split": "full"}}))
    assert Tune.of(study(None)) is None


def test_numbers_that_hold_something_of_their_run_are_averaged_over_runs():
    """A statistic that looks items up in its own run's texts cannot be asked about another run's."""

    def of_texts(lengths: list[int]) -> Metric:
        subjects = ["author 1", "author 2"][: len(lengths)] or ["author 1"]
        found = measured(
            {"texts": np.arange(len(lengths))}, "length", lambda s: float(np.mean([lengths[int(i)] for i in s["texts"]]))
        )
        assert found.evidence is not None
        return replace(found, evidence=replace(found.evidence, clusters={"texts": subjects}))

    found = crossfitted({0: {"length": of_texts([4, 8])}, 1: {"length": of_texts([2])}}, {"author 1": 0, "author 2": 1})
    assert found["length"].value == 4.0 and found["length"].evidence is None
