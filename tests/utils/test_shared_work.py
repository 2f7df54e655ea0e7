"""What was computed once is not computed again."""

from __future__ import annotations

import pytest

from utils.shared_work import kept_json, kept_rows


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


def test_what_fails_leaves_nothing(tmp_path):
    def compute() -> list[dict]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_rows(tmp_path / "parts" / "task.jsonl", compute)
    assert not (tmp_path / "parts").exists()
