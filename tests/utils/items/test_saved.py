"""Who sees which rows of an evaluation's files."""

from __future__ import annotations

import pandas as pd

from utils.items.saved import Saved

PLACES = [("forget", ""), ("forget", "leak"), ("retain", ""), ("forget", "other")]
SAVED = Saved(
    pd.DataFrame([{"task": task, "asked_by": asker, "logp": [number]} for number, (task, asker) in enumerate(PLACES)]),
    [{"task": task, "asked_by": asker, "index": number} for number, (task, asker) in enumerate(PLACES)],
    resamples=7,
)


def test_a_measure_sees_the_benchmarks_rows_and_its_own():
    for asker, places in (("", [0, 2]), ("leak", [0, 1, 2]), ("fluency", [0, 2])):
        seen = SAVED.seen_by(asker)
        assert seen.scores["logp"].tolist() == [[place] for place in places] and seen.resamples == 7
        assert [row["index"] for row in seen.generations] == places
    assert [row["index"] for row in SAVED.seen_by("leak").rows("forget")] == [0, 1]
