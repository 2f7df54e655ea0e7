"""Metrics as a table of the values behind them, and back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.utils.tables.measured import number
from utils.items import metric as item_metric
from utils.items.metric import Metric, ks_distance, measured
from utils.tables.numbers import from_table, to_table


def two_groups() -> Metric:
    samples = {"first": np.array([0.1, 0.5, 0.2]), "second": np.array([0.3, 0.9])}
    items = {"first": [("forget", 0), ("forget", 1), ("forget", 2)], "second": [("forget", 0), ("forget", 1)]}
    return measured(samples, "distance", ks_distance, items=items, resamples=5).clustered(
        lambda task, index: f"{task} {index // 2}"
    )


def again(metrics: dict[str, Metric], tmp_path) -> dict[str, Metric]:
    table, about = to_table(metrics)
    table.to_parquet(tmp_path / "numbers.parquet")
    return from_table(
        pd.read_parquet(tmp_path / "numbers.parquet"), about, {name: one.to_json() for name, one in metrics.items()}
    )


def test_numbers_come_back_with_what_they_were_computed_from(tmp_path):
    columns = measured({"a": np.array([[1.0, 2.0], [3.0, 5.0]])}, "of columns", largest, resamples=5)
    metrics = {"plain": number(0.3), "ks": two_groups(), "columns": columns}
    found = again(metrics, tmp_path)
    assert list(found) == list(metrics) and found == metrics
    for name, metric in metrics.items():
        one, other = metric.evidence, found[name].evidence
        assert one is not None and other is not None and one.statistic is other.statistic
        assert all(np.array_equal(one.samples[group], other.samples[group]) for group in one.samples)
        assert {group: one.labels(group) for group in one.samples} == {group: other.labels(group) for group in other.samples}
        assert {group: list(subjects) for group, subjects in one.clusters.items()} == dict(other.clusters)


def test_a_statistic_without_a_name_leaves_the_value_alone(tmp_path):
    closed = measured({"a": [1.0, 2.0]}, "of texts", lambda samples: float(samples["a"].max()), resamples=5)
    found = again({"closed": closed, "plain": number(0.3)}, tmp_path)
    assert found["closed"] == closed and found["closed"].evidence is None and found["plain"].evidence is not None


def test_an_edited_value_shows_in_the_number():
    table, about = to_table({"plain": number(0.3)})
    table.at[0, "values"] = [9.0]
    assert from_table(table, about, {"plain": number(0.3).to_json()})["plain"].value != number(0.3).value


@pytest.mark.parametrize("name", ["os:system", "utils.items.metric:no_such"])
def test_a_statistic_that_is_none_of_this_project_is_refused(name):
    table, about = to_table({"plain": number(0.3)})
    about["plain"]["statistic"] = name
    with pytest.raises(ValueError, match=f"{name}: "):
        from_table(table, about, {"plain": number(0.3).to_json()})


def largest(samples) -> float:
    return float(samples["a"].max())


largest.__module__ = "utils.items.metric"  # as if it were the project's
item_metric.largest = largest
