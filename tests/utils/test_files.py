"""The project's own files: whole or absent, and read back as they were."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from utils.files import read_json, read_rows, write_json, write_rows

ROWS = [{"text": "one\u2028two\x85three ō"}, {"step": 2}]


def test_files_are_whole_or_absent(tmp_path):
    write_json(tmp_path / "a.json", {"answer": "ō", "path": Path("x")})
    assert read_json(tmp_path / "a.json") == {"answer": "ō", "path": "x"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "b.json") is None
    shutil.copy(tmp_path / "a.json", tmp_path / "c.json")
    (tmp_path / "c.json").write_bytes(b"\xff")
    assert read_json(tmp_path / "c.json") is None


def test_rows_are_read_back_as_they_were(tmp_path):
    write_rows(tmp_path / "rows.jsonl", ROWS)
    assert read_rows(tmp_path / "rows.jsonl") == read_rows(tmp_path / "rows.jsonl", appended=True) == ROWS
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none.jsonl")
    assert read_rows(tmp_path / "none.jsonl", appended=True) == []


def test_half_a_line_is_no_error_only_where_lines_are_appended(tmp_path):
    path = tmp_path / "log.jsonl"
    write_rows(path, ROWS)
    with path.open("ab") as file:
        file.write('{"text": "ō'.encode()[:-1])  # cut off within a letter
    assert read_rows(path, appended=True) == ROWS
    with pytest.raises(ValueError):
        read_rows(path)
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')  # who went on wrote behind it
    assert read_rows(path, appended=True) == [{"step": 1}, {"step": 3}]
    with pytest.raises(ValueError, match=r"log.jsonl, line 2: damaged \(Unterminated string.*make the file again"):
        read_rows(path)
