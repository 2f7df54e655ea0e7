"""What a plan costs: stages one after the other, each as long as its longest cell or its share of all places."""

from __future__ import annotations

from types import SimpleNamespace

from pytest import approx

from utils.studies.estimate import Cost, Costs


def test_stages_follow_each_other_and_share_their_places():
    costs = Costs(
        "H100", True, {"a": Cost(100.0), "b": Cost(60.0), "c": Cost(60.0), "d": Cost(60.0), "e": Cost(None)}, parallel=2
    )
    a, b, c, d, e = (SimpleNamespace(name=name, processes=1) for name in "abcde")
    assert costs.wall([a]) == 100.0  # one cell leaves the other place empty
    assert costs.wall([b, c, d]) == approx(90.0)
    words = costs.total([[a], [b, c, d], [e]])
    assert words.startswith("Together: 5 cells, 3 min with 2 at a time (0.1 H100 hours)") and words.endswith("1 unknown.")
