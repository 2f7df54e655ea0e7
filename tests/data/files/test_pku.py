"""PKU-SafeRLHF: both layouts, the order of pairs and pool, bad files named by row."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from data.files.pku import read_pku, same_prompt
from utils.items.rows import QA
from utils.reading import DataError, files_read

OLD = {"better_response_id": 0, "safer_response_id": 0}
NEW = {"prompt_source": "x", "response_0_source": "y", "response_0_severity_level": 1, "better_response_id": 0}


def row(prompt: str, safe: tuple[bool, bool], number: int = 0, **more) -> dict:
    return {
        "prompt": prompt,
        "response_0": f"{prompt}{number} first",
        "response_1": f"{prompt}{number} second",
        "is_response_0_safe": safe[0],
        "is_response_1_safe": safe[1],
        **more,
    }


ROWS = [
    row("a", (False, False), **OLD),
    row("b", (True, True), **OLD),
    row("c", (True, False), **OLD),
    row("a", (False, True), 2, **OLD),
]


def write(path: Path, rows: list[dict]) -> Path:
    text = "".join(json.dumps(r) + "\n" for r in rows)
    path.write_bytes(lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())
    return path


def test_a_row_gives_no_one_or_two_pairs_answer_0_first(tmp_path):
    data = read_pku([write(tmp_path / "train.jsonl", ROWS)])
    assert data.harmful_pairs() == [QA("a", "a0 first"), QA("a", "a0 second"), QA("c", "c0 second"), QA("a", "a2 first")]
    assert data.declined_pairs() == [QA("b", "b0 first"), QA("b", "b0 second")]


def test_the_pool_holds_all_first_answers_then_all_second_ones(tmp_path):
    data = read_pku([write(tmp_path / "train.jsonl", ROWS)])
    assert data.harmful_pool() == ["a0 first", "a2 first", "a0 second", "c0 second"]


def test_blank_harmful_answers_are_left_out_unless_asked_for(tmp_path):
    data = read_pku([write(tmp_path / "train.jsonl", [{**ROWS[0], "response_1": " "}])])
    assert (len(data.harmful_pairs()), len(data.harmful_pairs(empty=True))) == (1, 2)
    assert (data.harmful_pool(), data.harmful_pool(empty=True)) == (["a0 first"], ["a0 first", " "])


def test_layouts_are_told_apart_and_give_the_same_pairs(tmp_path):
    old = read_pku([write(tmp_path / "old.jsonl", ROWS)])
    new = read_pku([write(tmp_path / "new.jsonl", [{**{k: v for k, v in r.items() if k not in OLD}, **NEW} for r in ROWS])])
    assert (old.layout, new.layout) == ("2023", "current")
    assert old.rows == new.rows and "response_0_severity_level" in new.columns


def test_published_files_are_compressed(tmp_path):
    plain, packed = write(tmp_path / "train.jsonl", ROWS), write(tmp_path / "train.jsonl.xz", ROWS)
    read_pku([packed])
    with files_read() as noted:
        assert read_pku([packed]) == read_pku([plain])
    assert set(noted) == {f"{tmp_path.name}/train.jsonl", f"{tmp_path.name}/train.jsonl.xz"}


def test_files_of_one_release_are_joined_and_of_two_refused(tmp_path):
    parts = [write(tmp_path / "1.jsonl", ROWS[:1]), write(tmp_path / "2.jsonl", ROWS[1:])]
    assert read_pku(parts).rows == read_pku([write(tmp_path / "all.jsonl", ROWS)]).rows
    other = write(tmp_path / "3.jsonl", [row("z", (False, True), **NEW)])
    with pytest.raises(DataError, match="3.jsonl: its columns differ from those of .*1.jsonl; files of two releases"):
        read_pku([parts[0], other])


def test_an_edited_file_is_read_anew(tmp_path):
    path = write(tmp_path / "train.jsonl", ROWS)
    assert len(read_pku([path]).rows) == 4
    write(path, ROWS[:1])
    assert len(read_pku([path]).rows) == 1


def test_prompts_are_the_same_but_for_case_and_white_space(tmp_path):
    assert same_prompt(" How  do\nI?") == same_prompt("how do i?") != same_prompt("how do I")
    assert read_pku([write(tmp_path / "train.jsonl", ROWS)]).prompts == {"a", "b", "c"}


BAD = [
    ({"is_response_0_safe": None}, "row 2: field is_response_0_safe is missing"),
    ({"is_response_1_safe": 0}, "row 2: field is_response_1_safe must be true or false, not 0"),
    ({"prompt": "  "}, "row 2: field prompt must be a text that is not blank"),
    ({"response_1": 7}, "row 2: field response_1 must be a text, not 7"),
    ({"extra": "x"}, "row 2: its columns differ from those of row 1"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_bad_rows_are_named(tmp_path, change, sentence):
    bad = {key: value for key, value in {**ROWS[1], **change}.items() if value is not None}
    with pytest.raises(DataError) as refusal:
        read_pku([write(tmp_path / "train.jsonl", [ROWS[0], bad])])
    assert f"train.jsonl, {sentence}" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b"", "a.jsonl: holds no rows"),
        ("a.jsonl", b"\n[1]\n", "a.jsonl, row 2: a JSON list"),
        ("a.jsonl", b"{'a'}\n", "a.jsonl, row 1: not JSON"),
        ("a.jsonl", b"\xff\xfe", "a.jsonl, row 1: not UTF-8"),
        ("a.jsonl.xz", b"{}", "a.jsonl.xz: broken xz file"),
        ("a.jsonl.xz", lzma.compress(b"{}" * 1000)[:-20], "a.jsonl.xz: broken xz file"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_pku([tmp_path / name])
    assert sentence in str(refusal.value)
