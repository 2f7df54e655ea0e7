"""Region files: what is written is read again, what is damaged is refused, and a random region is a fair ablation."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from utils.training.region_file import LocatedRegion, Source, Tensorwise, read_region, write_region

SOURCE = Source("0" * 16, "1" * 16, 3, False, 42, 6, 9)
TENSORS = {f"w{k}": Tensorwise(0.1 * k, 1e-3 * k, 10 + k) for k in range(6)}
REGION = LocatedRegion(SOURCE, TENSORS, 0.35, 5e-4, "located", ("w1", "w2", "w3"))


def test_what_is_written_is_read_again(tmp_path):
    write_region(tmp_path / "region.json", REGION)
    assert read_region(tmp_path / "region.json") == REGION
    assert [path.name for path in tmp_path.iterdir()] == ["region.json"]


def test_summary_by_hand():
    """(11 + 12 + 13) of 10 + ... + 15 = 75 parameters."""
    assert REGION.summary() == "3 of 6 tensors, 48.0% of 75 parameters (located, mu=0.35, sigma=0.0005)"


def test_why_nothing_was_located():
    """Below mu are w0 to w3; the largest magnitude of these is 3e-3."""
    told = replace(REGION, sigma=1.0, region=()).why_empty()
    assert "below mu=0.35 (the smallest is 0) and with it a magnitude above sigma=1 (the largest is 0.003)" in told


def test_a_random_region_is_of_the_same_size_and_falls_anywhere():
    drawn = [REGION.at_random(seed) for seed in range(200)]
    assert all(len(set(found.region)) == 3 and found.selection == "random" for found in drawn)
    assert all(sum(name in found.region for found in drawn) in range(70, 131) for name in TENSORS)
    assert all(list(found.region) == sorted(found.region) for found in drawn)
    assert REGION.at_random(5) == REGION.at_random(5) and drawn[0].tensors == TENSORS


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "region.json"
    with pytest.raises(ValueError, match="there is no such region file; make one with scripts/localize.py"):
        read_region(path)
    write_region(path, REGION)
    whole = path.read_text()
    without_hash = json.loads(whole)
    del without_hash["source"]["weights"]
    for text in ("", "[]", '{"region": ["a"]}', json.dumps(without_hash), whole[:-200], whole.replace('"mu"', '"nu"')):
        path.write_text(text)
        with pytest.raises(ValueError, match="region.json: is damaged, or no region file") as refusal:
            read_region(path)
        assert "\n" not in str(refusal.value)
    write_region(path, replace(REGION, region=("nobody",)))
    with pytest.raises(ValueError, match="is damaged"):
        read_region(path)
