"""Files of rows: where they are looked for, and what a bad one is told."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from data.files import sources
from data.files.sources import Source
from utils.reading import (
    FILLED,
    FLAG,
    DataError,
    check_rows,
    files_read,
    json_lines,
    list_of,
    note_file,
    one_of,
    read_json_lines,
    read_lines,
    read_records,
)


def source(root: Path | str) -> Source:
    return Source("tofu", str(root), "owner/data", "0123456789abcdef")


@pytest.fixture
def folder(tmp_path) -> Path:
    """DIR of data_root=DIR, with one split in each format."""
    (tmp_path / "tofu").mkdir()
    (tmp_path / "tofu" / "forget10.json").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "tofu" / "retain90.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    return tmp_path


def test_a_folder_of_the_users_holds_json_or_jsonl(folder):
    assert source(folder).file("forget10") == folder / "tofu" / "forget10.json"
    assert source(folder).file("retain90") == folder / "tofu" / "retain90.jsonl"


def test_two_files_for_one_split_are_refused(folder):
    (folder / "tofu" / "forget10.jsonl").write_text("{}")
    with pytest.raises(DataError, match="both forget10.json and forget10.jsonl exist in .*tofu; remove one"):
        source(folder).file("forget10")


def test_what_is_missing_is_named_with_what_is_there(folder, tmp_path):
    with pytest.raises(DataError, match=r"tofu/forget01.json does not exist; did you mean forget10"):
        source(folder).file("forget01")
    with pytest.raises(DataError, match="tofu/zzz.json does not exist; there are forget10, retain90"):
        source(folder).file("zzz")
    with pytest.raises(DataError, match="does not exist; the folder .*nowhere/tofu is missing"):
        source(tmp_path / "nowhere").file("forget10")


def test_the_hub_is_asked_for_the_pinned_revision(monkeypatch, tmp_path):
    asked = []

    def download(repo, file, repo_type, revision):
        asked.append((repo, file, repo_type, revision))
        return str(tmp_path / file)

    monkeypatch.setattr(sources, "hf_hub_download", download)
    assert source("hub").file("forget10") == tmp_path / "forget10.json"
    assert asked == [("owner/data", "forget10.json", "dataset", "0123456789abcdef")]


def test_a_hub_that_cannot_be_reached_is_told_what_to_do(monkeypatch):
    def download(*_, **__):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(sources, "hf_hub_download", download)
    with pytest.raises(DataError) as refusal:
        source("hub").file("forget10")
    assert str(refusal.value) == (
        "data_root=hub: owner/data/forget10.json at revision 01234567 cannot be fetched (LocalEntryNotFoundError); give "
        "data_root=DIR with DIR/tofu/forget10.json, or data_root=fixture"
    )


def test_rows_are_read_in_order_and_unicode_line_ends_stay_inside_strings(tmp_path):
    path = tmp_path / "a.json"
    rows = [{"question": "ō\u2028\x85", "answer": "1"}, {"question": "b", "answer": "2"}]
    path.write_bytes("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode() + b"\n\n")
    assert read_json_lines(path) == rows


BROKEN = [
    (b'{"a": 1}\n\xff{"a": 2}', "a.json, row 2: not UTF-8 (byte 0 of the row); convert it to UTF-8"),
    (b'{"a": 1}\n{"a": 2,}', "a.json, row 2: not JSON"),
    (b'{"a": 1}\n[1, 2]', "a.json, row 2: a JSON list; one JSON object per line is expected"),
    (b'[\n{"a": 1}\n]', "a.json, row 1: not JSON"),
    (b"", "a.json: holds no rows"),
    (b"\n\n", "a.json: holds no rows"),
]


@pytest.mark.parametrize("content, message", BROKEN)
def test_broken_files_are_named_by_row(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_json_lines(tmp_path / "a.json")
    assert message in str(refusal.value) and str(refusal.value).startswith(str(tmp_path))


ROW = {"question": "q", "answer": "a", "perturbed_answer": ["x", "y"], "known": True, "label": 0}
LIST = "row 2: field perturbed_answer must be a list of 2, each a text that is not blank, not "
BAD_ROWS = [
    ({"question": "q", "perturbed_answer": []}, "row 2: field answer is missing; the row has perturbed_answer, question"),
    ({**ROW, "answer": " "}, "row 2: field answer must be a text that is not blank, not ' '"),
    ({**ROW, "answer": None}, "row 2: field answer must be a text that is not blank, not None"),
    ({**ROW, "question": 7}, "row 2: field question must be a text that is not blank, not 7"),
    ({**ROW, "perturbed_answer": ["x"]}, f"{LIST}['x']"),
    ({**ROW, "perturbed_answer": "xy"}, f"{LIST}'xy'"),
    ({**ROW, "perturbed_answer": ["x", ""]}, f"{LIST}['x', '']"),
    ({**ROW, "known": 1}, "row 2: field known must be true or false, not 1"),
    ({**ROW, "label": 2}, "row 2: field label must be one of 0, 1, not 2"),
    ({**ROW, "label": "x" * 999}, f"row 2: field label must be one of 0, 1, not '{'x' * 159} ..."),
]
KINDS = {"question": FILLED, "answer": FILLED, "perturbed_answer": list_of(FILLED, 2), "known": FLAG, "label": one_of("0", "1")}


@pytest.mark.parametrize("row, message", BAD_ROWS)
def test_bad_rows_are_named_by_field(row, message):
    with pytest.raises(DataError) as refusal:
        check_rows("a.json", [ROW, row, ROW], KINDS)
    assert str(refusal.value) == f"a.json, {message}"


def test_good_rows_pass():
    assert check_rows("a.json", [ROW, {**ROW, "label": "1"}], KINDS) == [ROW, {**ROW, "label": "1"}]


LISTS = [
    (b'[{"a": 1},\n]', "a.json, line 2: not JSON"),
    (b"[]", "a.json: a list of objects is expected, not an empty list"),
    (b"[{}, 3]", "a.json, row 2: a JSON int; a list of objects is expected"),
]


@pytest.mark.parametrize("content, message", LISTS)
def test_a_json_list_may_stand_for_lines(tmp_path, content, message):
    path = tmp_path / "a.json"
    for good in (b' [{"a": 1}, {"a": 2}]', b'{"a": 1}\n{"a": 2}\n'):
        path.write_bytes(good)
        assert read_records(path) == [{"a": 1}, {"a": 2}]
    path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_records(path)
    assert message in str(refusal.value)


def test_lines_of_text(tmp_path):
    (tmp_path / "a.txt").write_text("  I do not know. \n\nNobody can say.\n")
    assert read_lines(tmp_path / "a.txt") == ["I do not know.", "Nobody can say."]
    (tmp_path / "b.txt").write_text("\n \n")
    with pytest.raises(DataError, match="b.txt: holds no lines"):
        read_lines(tmp_path / "b.txt")
    (tmp_path / "c.txt").write_bytes(b"good\n\xff\xfe")
    for name, problem in {"c.txt": ", row 2: not UTF-8", "nowhere.txt": ": cannot be read"}.items():
        with pytest.raises(DataError, match=f"{name}{problem}"):
            read_lines(tmp_path / name)


def test_files_are_noted_by_content_for_the_block_that_reads_them(tmp_path):
    (tmp_path / "tofu").mkdir()
    path = tmp_path / "tofu" / "full.json"
    path.write_text('{"a": 1}\n')
    with files_read() as noted:
        read_json_lines(path)
        before = dict(noted)
        assert before == {"tofu/full.json": hashlib.sha256(b'{"a": 1}\n').hexdigest()[:16]}
        with files_read() as inner:
            assert read_lines(path) and set(inner) == {"tofu/full.json"}
        path.write_text('{"a": 2}\n')
        note_file(path)
    assert noted.keys() == before.keys() and noted != before
    path.write_text('{"a": 3}\n')
    read_json_lines(path)
    assert noted["tofu/full.json"] == hashlib.sha256(b'{"a": 2}\n').hexdigest()[:16]


def test_large_files_are_read_by_line_and_may_be_compressed(tmp_path):
    content = b'{"a": 1}\n\n{"a": 2}\n'
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(content))
    for path in tmp_path.iterdir():
        assert list(json_lines(path)) == [(1, {"a": 1}), (3, {"a": 2})]
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(content * 1000)[:-20])
    for name, problem in {"b.json.gz": ": broken gz file .*; fetch it again, or drop .gz", "c.jsonl": ": cannot be read"}.items():
        with pytest.raises(DataError, match=name + problem):
            list(json_lines(tmp_path / name))
