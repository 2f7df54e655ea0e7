"""What all benchmarks share: splits, how many rows, what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_benchmark_document import FILES, benchmark
from utils.items.benchmark import joined, limited


def test_splits_are_joined_and_full_stands_for_its_parts():
    valid = ("full", "forget", "retain", "holdout")
    assert joined("holdout", valid) == ["holdout"] and joined("full", valid) == ["full"]
    assert joined("holdout+full", valid, full=("forget", "retain")) == ["holdout", "forget", "retain"]
    with pytest.raises(ValueError, match="split=retian: write one of full, forget, retain, holdout; did you mean retain?"):
        joined("forget+retian", valid)
    with pytest.raises(ValueError, match="split=7: write one of"):
        joined(7, valid)


@pytest.mark.parametrize(("most", "kept"), [("all", "abc"), (None, "abc"), (2, "ab"), (9, "abc")])
def test_the_first_so_many(most, kept):
    assert limited("abc", most) == kept


@pytest.mark.parametrize("name", [name for name in FILES["benchmark"] if name not in ("tofu", "muse")])
def test_logs_of_other_code_are_refused_where_none_are_read(name):
    with pytest.raises(ValueError, match=f"from_logs=a.json: benchmark={name} reads no logs of other code; evaluate the model"):
        benchmark(name).from_logs(Path("a.json"), None, "none", 100)


@pytest.mark.parametrize("name", FILES["benchmark"])
def test_only_forget_splits_are_forgotten(name):
    made = benchmark(name)
    for ask in (made.check_forget_split, made.requests):
        with pytest.raises(ValueError, match=f"split=nothing: write .*{made.split}"):
            ask("nothing")
