"""The user's own files: every format that is read, what a row may look like, and one sentence for what cannot be read."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from data.files import own, sources
from data.files.own import OwnRow, check_fields, passages, read_own
from tests.runs import REAL
from utils.items.rows import QA, Text
from utils.reading import DataError, files_read
from utils.tokens.chat import Turn

PAIRS = [{"prompt": "Who came?", "response": "Ann."}, {"prompt": "When?", "response": 'At\nnoon, "sharp".'}]
ASKED = [QA("Who came?", "Ann."), QA("When?", 'At\nnoon, "sharp".')]


def read(path: Path | str, words: int = 20, **fields: str) -> tuple[OwnRow, ...]:
    return read_own("benchmark.forget", str(path), fields, words)


def pairs(path: Path | str, **fields: str) -> list[QA]:
    return [row.pair for row in read(path, **fields)]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


FILES = {
    "a.jsonl": lines(PAIRS),
    "a.ndjson": "\ufeff" + lines(PAIRS).replace("\n{", "\r\n\n{"),
    "lines.json": lines(PAIRS),
    "list.json": json.dumps(PAIRS, indent=1),
    "within.json": json.dumps({"version": 2, "data": PAIRS}),
    "a.csv": 'prompt,response\nWho came?,Ann.\nWhen?,"At\nnoon, ""sharp""."\n',
    "semicolon.csv": 'id;prompt;response\n1;Who came?;Ann.\n\n2;When?;"At\nnoon, ""sharp""."\n',
    "a.tsv": 'prompt\tresponse\nWho came?\tAnn.\nWhen?\t"At\nnoon, ""sharp""."\n',
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_pairs(tmp_path, name):
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    assert pairs(tmp_path / name) == ASKED


def test_parquet_and_packed_lines_too(tmp_path):
    pd.DataFrame(PAIRS).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(PAIRS).encode()))
    assert pairs(tmp_path / "a.parquet") == pairs(tmp_path / "a.jsonl.gz") == ASKED


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}]
LAST = [{"role": "user", "content": "Who came?"}, {"role": "assistant", "content": "Ann."}]
BEFORE = (Turn("system", "Be brief."), Turn("user", "Hi."), Turn("assistant", "Yes?"))
SHAREGPT = [{"from": "human", "value": "Who came?"}, {"from": "gpt", "value": "Ann."}]
ROWS = {
    "messages": ({"messages": [*CHAT, *LAST]}, QA("Who came?", "Ann.", before=BEFORE)),
    "parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Who came?"}]}, LAST[1]]},
        QA("Who came?", "Ann."),
    ),
    "sharegpt": ({"conversations": SHAREGPT, "system": "Be brief."}, QA("Who came?", "Ann.", before=BEFORE[:1])),
    "turns of prompt and completion": ({"prompt": LAST[:1], "completion": LAST[1:]}, QA("Who came?", "Ann.")),
    "alpaca": ({"instruction": "Name them.", "input": "Ann, Bo", "output": "Both."}, QA("Name them.\nAnn, Bo", "Both.")),
    "alpaca with a past": (
        {"instruction": "Who came?", "input": "", "output": "Ann.", "system": "Be brief.", "history": [["Hi.", "Yes?"]]},
        QA("Who came?", "Ann.", before=BEFORE),
    ),
    "text": ({"text": "Ann came at noon."}, Text("", "Ann came at noon.")),
    "other fields beside": ({"id": 3, "question": "Who came?", "answer": "Ann.", "tags": ["x"]}, QA("Who came?", "Ann.")),
}


@pytest.mark.parametrize("name", ROWS)
def test_usual_forms_are_known(tmp_path, name):
    row, expected = ROWS[name]
    (tmp_path / "a.jsonl").write_text(lines([row]))
    assert pairs(tmp_path / "a.jsonl") == [expected]


def test_fields_may_be_named(tmp_path):
    row = {"question": "not this", "frage": "Who came?", "antwort": "Ann.", "falsch": ["Bo.", "Cy."], "paraphrase": "Who was it?"}
    (tmp_path / "a.jsonl").write_text(lines([row]))
    (found,) = read(tmp_path / "a.jsonl", question="frage", answer="antwort", perturbed_answer="falsch")
    assert found.pair == QA("Who came?", "Ann.")
    assert (found.perturbed_answer, found.paraphrased_question) == (("Bo.", "Cy."), "Who was it?")
    (tmp_path / "b.jsonl").write_text(lines([{"body": "Running.", "question": "Q", "answer": "A"}]))
    assert pairs(tmp_path / "b.jsonl", text="body") == [Text("", "Running.")]


def test_a_folder_of_texts_is_cut_into_passages(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "2.txt").write_text("One two three. " * 20)
    (tmp_path / "sub" / "10.md").write_text("Short.")
    (tmp_path / ".hidden").write_text("x")
    found = read(tmp_path, words=12)
    assert [row.pair.answer for row in found] == ["One two three. One two three. One two three. One two three.", "Short."]
    assert all(isinstance(row.pair, Text) for row in found)  # five passages alike count once


def test_passages_lose_nothing_and_end_with_sentences():
    text = "\n\n".join(f"In {year} it rained for {year % 7} days. Nobody minded, not even the cat." for year in range(1900, 1930))
    found = passages(text, 30)
    assert " ".join(" ".join(found).split()) == " ".join(text.split())
    assert all(piece.endswith(".") for piece in found) and all(20 < len(piece.split()) <= 38 for piece in found[:-1])
    assert passages("word " * 36, 30) == [("word " * 36).strip()]  # six words are no passage of their own
    assert [len(piece.split()) for piece in passages("word " * 45, 30)] == [30, 15]
    assert passages("one", 30) == ["one"]


def test_what_was_understood_is_said_once(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text(lines([*PAIRS, PAIRS[0]]))
    with caplog.at_level(logging.INFO), files_read() as first:
        read(tmp_path / "a.jsonl")
        assert len(read(tmp_path / "a.jsonl")) == 2
    (said,) = caplog.messages
    assert "2 pairs (question: prompt, answer: response); 1 more say the same again, the first: Who came? -> Ann." in said
    with files_read() as second:
        read(tmp_path / "a.jsonl")
    assert first == second and list(first) == [f"{tmp_path.name}/a.jsonl"]


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Ann came.")
    assert pairs(path) == [Text("", "Ann came.")]
    path.write_text("Bo came too.")
    assert pairs(path) == [Text("", "Bo came too.")]


def test_a_data_set_on_the_hub(tmp_path, monkeypatch):
    asked = []

    def rows(*where: str) -> list[dict]:
        asked.append(where[:4])
        if where[2] == "gone":
            raise DataError("no") from ConnectionError("offline")
        return PAIRS

    monkeypatch.setattr(own, "hub_rows", rows)
    assert pairs("hub:me/mine:train") == pairs("hub:me/mine@v1:small:train") == ASKED
    assert asked == [("me/mine", None, "train", "main"), ("me/mine", "small", "train", "v1")]
    with pytest.raises(
        DataError, match=r"^benchmark.forget=hub:me/mine:gone: cannot be fetched \(ConnectionError\); check the name"
    ):
        read("hub:me/mine:gone")
    with pytest.raises(DataError, match="write hub:OWNER/NAME:SPLIT"):
        read("hub:mine")
    assert sources.hub_rows is not rows


BAD = {
    "empty": ("a.jsonl", "", "a.jsonl: holds no rows"),
    "empty table": ("a.csv", "prompt,response\n", "a.csv: holds no rows"),
    "nothing at all": ("a.csv", "", "a.csv: holds no rows"),
    "blank text": ("a.txt", " \n", "a.txt, row 1: field text must be a text that is not blank"),
    "not json": ("a.json", "prompt: x", "a.json, line 1: not JSON"),
    "cut off": ("a.jsonl", '{"prompt": "x"', "a.jsonl, row 1: not JSON"),
    "a number": (
        "a.jsonl",
        lines([{"question": "x", "answer": 5}]),
        "row 1: field answer must be a text that is not blank, not 5",
    ),
    "a blank answer": (
        "a.jsonl",
        lines([*PAIRS, {"prompt": "x", "response": " "}]),
        "row 3: field response must be a text that is",
    ),
    "an empty cell": ("a.csv", "prompt,response\nx,\n", "row 1: field response must be a text that is not blank, not ''"),
    "another form": ("a.jsonl", lines([*PAIRS, {"messages": LAST}]), "row 3: field prompt is missing; the row has messages"),
    "no known field": ("a.jsonl", lines([{"x": "1", "y": "2"}]), "row 1: benchmark.forget holds x, y, of which none is known"),
    "a loose quote": ("a.csv", 'prompt,response\n"x,y\n', "unexpected end of data; check its quotes"),
    "too many cells": ("a.csv", "prompt,response\nx,y,z\n", "row 1: 3 columns, where the first line names 2; check its quotes"),
    "no turns": ("a.jsonl", lines([{"messages": []}]), "row 1: field messages must be a list of turns"),
    "a role": (
        "a.jsonl",
        lines([{"messages": [{"role": "boss", "content": "x"}]}]),
        "row 1: turn 1 of messages must have a role",
    ),
    "no answer": (
        "a.jsonl",
        lines([{"messages": LAST[:1]}]),
        "must end with a turn of the user and one of the assistant, not user",
    ),
    "a true wrong answer": (
        "a.jsonl",
        lines([{"question": "x", "answer": "y", "perturbed_answer": ["y"]}]),
        "row 1: field perturbed_answer holds the true answer",
    ),
    "an unknown ending": ("a.docx", "x", "ends in none of .txt, .md"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_sentence(tmp_path, name):
    file, content, said = BAD[name]
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError) as error:
        read(tmp_path / file)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_bad_places_are_one_sentence(tmp_path):
    (tmp_path / "mixed").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed" / "a.txt").write_text("x")
    (tmp_path / "mixed" / "b.pdf").write_text("x")
    (tmp_path / "a.jsonl").write_text(lines(PAIRS))
    for source, said in {
        tmp_path / "gone.jsonl": "there is no such file or folder",
        tmp_path / "mixed": "holds b.pdf; a folder is read as running text, of .txt and .md files alone",
        tmp_path / "empty": "is empty; a folder is read as running text",
    }.items():
        with pytest.raises(DataError, match=said):
            read(source)
    with pytest.raises(DataError, match="benchmark.fields.question=promt: there is no such field; did you mean prompt?"):
        read(tmp_path / "a.jsonl", question="promt")
    with pytest.raises(ValueError, match="benchmark.fields.questoin: there is no such field; did you mean question?"):
        check_fields({"questoin": "x"})


READ_AS_THEY_ARE = {"data_bom", "data_crlf", "data_dup", "data_nul", "data_rtl_emoji", "data_u2028"}


@pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED")
def test_files_that_broke_others_are_read_or_refused_in_one_sentence():
    read_well = set()
    for case in sorted((REAL / "cases" / "data").iterdir()):
        file = case / "tofu" / "forget10.json"
        try:
            read_well |= {case.name} if read(file) else set()
        except DataError as error:
            assert str(error).startswith(f"{file}, row 1: ") and "\n" not in str(error)
    assert read_well == READ_AS_THEY_ARE
