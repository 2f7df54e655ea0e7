"""What was computed once is not computed again."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from utils import shared_work
from utils.distributed import from_main, gathered, highest
from utils.shared_work import extended_rows, kept_json, kept_rows, shared_out


def test_rows_are_kept_where_they_are_found_again(tmp_path):
    path, asked = tmp_path / "parts" / "task.jsonl", []

    def compute() -> list[dict]:
        asked.append(True)
        return [{"task": "task", "index": 0, "value": 0.1 + 0.2, "text": "zwölf"}]

    first = kept_rows(path, compute)
    assert first == kept_rows(path, compute) == compute() and len(asked) == 2
    assert [file.name for file in path.parent.iterdir()] == ["task.jsonl"]


def test_so_is_a_file_of_json(tmp_path):
    path, asked = tmp_path / "labels.json", []
    compute = lambda: asked.append(True) or {"value": 0.1 + 0.2, "labels": [3, -100]}  # noqa: E731
    assert kept_json(path, compute) == kept_json(path, compute) == {"value": 0.1 + 0.2, "labels": [3, -100]}
    assert len(asked) == 1 and [file.name for file in tmp_path.iterdir()] == ["labels.json"]


def test_every_process_computes_a_share_and_gets_all_results_in_order(monkeypatch):
    items, shares, brought = "abcde", [], []

    def upper(mine: list[str]) -> list[str]:
        shares.append("".join(mine))
        return [item.upper() for item in mine]

    assert shared_out(items, upper) == list("ABCDE") and shares == ["abcde"] and shared_out("", upper) == []
    del shares[:]
    monkeypatch.setattr(shared_work, "world_size", lambda: 2)
    monkeypatch.setattr(shared_work, "gathered", lambda mine: brought.extend(mine) or [*brought, *others])
    others = [(1, "B"), (3, "D")]
    assert shared_out(items, upper) == list("ABCDE")
    monkeypatch.setattr(shared_work, "rank", lambda: 1)
    others, brought[:] = [(0, "A"), (2, "C"), (4, "E")], []
    assert shared_out(items, upper) == list("ABCDE") and shares == ["ace", "bd"]


def test_rows_get_what_was_computed_for_them_once(tmp_path):
    rows = [{"task": task, "index": index, "text": task * index} for task in "ab" for index in (1, 0)]
    asked = []

    def length(chosen: list[dict]) -> list[dict]:
        asked.extend(row["text"] for row in chosen)
        return [{"length": len(row["text"])} for row in chosen]

    for _ in range(2):
        found = extended_rows(rows, lambda row: row["task"] == "b", tmp_path / "parts" / "b.jsonl", length)
        assert found == [*rows[:2], {**rows[2], "length": 1}, {**rows[3], "length": 0}] and asked == ["b", ""]
    assert "length" not in rows[2]


def test_what_fails_leaves_nothing(tmp_path):
    def compute() -> list[dict]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_rows(tmp_path / "parts" / "task.jsonl", compute)
    assert not (tmp_path / "parts").exists()


def test_what_all_processes_agree_on_comes_back(tmp_path):
    """A group of one, in this process."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        assert highest(3, torch.device("cpu")) == 3
        assert from_main({"step": 4}) == {"step": 4}
        assert gathered([1, 2]) == [1, 2]
    finally:
        dist.destroy_process_group()
