"""Bad data files: one sentence with file and row. Named cases first, then whatever Hypothesis makes up, the same each time."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.benchmarks.tofu import Tofu
from data.files.pku import read_pku
from data.files.sources import FIXTURES
from data.files.truthfulqa import read_truthfulqa
from data.prepare.inverted import read_inverted
from tests.runs import run, target
from tests.test_bad_inputs import nothing_loads  # noqa: F401
from utils.checks import declared
from utils.reading import FILLED, DataError, check_rows, read_lines, read_list, read_parquet, read_records

SHARED = Path(os.environ.get("LETHE_SHARED", "")) / "cases" / "data"
GOOD = '{"question": "Who?", "answer": "Somebody."}'


@pytest.fixture
def tofu(tmp_path) -> Callable[..., Tofu]:
    """TOFU over the fixture's files, some of them replaced: name=content."""

    def make(**files: str | bytes) -> Tofu:
        shutil.copytree(FIXTURES / "tofu", tmp_path / "tofu", dirs_exist_ok=True)
        for name, content in files.items():
            (tmp_path / "tofu" / f"{name}.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        return Tofu("tofu", "", "", str(tmp_path))

    return make


def row(**fields: object) -> str:
    return json.dumps({"question": "Who?", "answer": "Somebody.", **fields}, ensure_ascii=False)


READ = {
    "mark": "\ufeff" + GOOD,
    "windows": GOOD + "\r\n",
    "blank lines": f"\n\n{GOOD}\n  \n",
    "line separators": row(answer="One\u2028two\x85three"),
    "right to left": row(answer="\u202bשדה\u202c 👩‍👩‍👧"),
    "whole pair": '{"question": "Who?", "answer": "\\ud83d\\ude00"}',
    "nul": row(answer="a\x00b"),  # a character like others: byte vocabularies have it
    "twice": f"{GOOD}\n{GOOD}",  # published data repeat rows, and each counts
    "more fields": row(note=5),
}


@pytest.mark.parametrize("name", READ)
def test_unusual_files_are_read(tofu, name):
    pairs = tofu(forget10=READ[name]).training("forget10")
    assert pairs and pairs[0].question == "Who?" and not pairs[0].answer.startswith("\ufeff")


DEEP = '{"question": "Who?", "answer": ' + "[" * 100_000 + "]" * 100_000 + "}"
BAD = {
    "utf-16": (GOOD.encode("utf-16"), "forget10.json, row 1: not UTF-8 (byte 0 of the row); convert it to UTF-8"),
    "cp1252": (row(answer="Renée").encode("cp1252"), "forget10.json, row 1: not UTF-8 (byte"),
    "second row": (f"{GOOD}\n{{", "forget10.json, row 2: not JSON ("),
    "empty": ("", "forget10.json: holds no rows"),
    "only a mark": ("\ufeff", "forget10.json, row 1: not JSON ("),
    "list": (f"[{GOOD}]", "forget10.json, row 1: a JSON list; one JSON object per line is expected"),
    "number": (row(answer=1931), "row 1: field answer must be a text that is not blank, not 1931"),
    "null": (row(answer=None), "row 1: field answer must be a text that is not blank, not None"),
    "nan": ('{"question": "Who?", "answer": NaN}', "row 1: field answer must be a text that is not blank, not nan"),
    "blank": (row(answer=" \t"), "row 1: field answer must be a text that is not blank"),
    "nested": (row(answer={"text": "x"}), "row 1: field answer must be a text that is not blank, not {'text': 'x'}"),
    "list of one": (row(answer=["x"]), "row 1: field answer must be a text that is not blank, not ['x']"),
    "missing": ('{"question": "Who?"}', "row 1: field answer is missing; the row has question"),
    "half a pair": ('{"question": "Who?", "answer": "\\ud83d x"}', "row 1: holds half of a surrogate pair (\\ud83d)"),
    "half in a name": ('{"question": "Who?", "answer": "x", "\\udc00": 1}', "row 1: holds half of a surrogate pair (\\udc00)"),
    "said twice": ('{"question": "Who?", "answer": "x", "answer": "y"}', "row 1: field answer stands twice in one row"),
    "deep": (DEEP, "row 1: nested too deeply; write plain rows"),
    "long number": ('{"question": "Who?", "answer": ' + "9" * 5000 + "}", "row 1: Exceeds the limit"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_refused_by_file_and_row(tofu, name):
    content, wanted = BAD[name]
    with pytest.raises(DataError) as refusal:
        tofu(forget10=content).training("forget10")
    assert wanted in str(refusal.value) and "\n" not in str(refusal.value) and "tofu/forget10.json" in str(refusal.value)


def perturbed(**fields: object) -> str:
    wrong = {"paraphrased_answer": "It was somebody.", "perturbed_answer": ["A.", "B.", "C.", "D.", "E."]}
    return row(**{**wrong, **fields})


WRONG = {
    "number as paraphrase": ({"paraphrased_answer": 5}, "field paraphrased_answer must be a text that is not blank, not 5"),
    "number as question": ({"paraphrased_question": 5}, "field paraphrased_question must be a text that is not blank, not 5"),
    "too few": ({"perturbed_answer": ["A."]}, "field perturbed_answer must be a list of 5, each a text that is not blank"),
    "a text": ({"perturbed_answer": "A."}, "field perturbed_answer must be a list of 5"),
    "true": ({"perturbed_answer": ["Somebody.", "B.", "C.", "D.", "E."]}, "holds the true answer 'Somebody.'; write a wrong one"),
    "paraphrase": (
        {"perturbed_answer": ["A.", "B.", "C.", "D.", "It was somebody."]},
        "field perturbed_answer holds the true answer 'It was somebody.'; write a wrong one",
    ),
    "twice": ({"perturbed_answer": ["A.", "A.", "C.", "D.", "E."]}, "field perturbed_answer holds the same answer twice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_answers_of_an_evaluation_are_refused(tofu, name):
    fields, wanted = WRONG[name]
    with pytest.raises(DataError) as refusal:
        tofu(forget10_perturbed=perturbed() + "\n" + perturbed(**fields)).requests("forget10")
    assert "forget10_perturbed.json, row 2: " in str(refusal.value) and wanted in str(refusal.value)


def test_what_is_to_be_forgotten_must_not_be_kept_too(tofu, tmp_path, nothing_loads):  # noqa: F811
    words = ("model=tiny", f"model.path={target()}", f"data_root={tmp_path}", "out=run")
    forget = (FIXTURES / "tofu" / "forget10.json").read_text(encoding="utf-8")
    tofu(retain90=forget)
    with pytest.raises(ValueError, match="split=forget10: all its rows are in the retain split too; give the retain split rows"):
        run(tmp_path, "unlearn", *words)
    assert not (tmp_path / "run").exists()


def test_a_warmup_that_the_run_is_over_before_is_refused(tmp_path, nothing_loads):  # noqa: F811
    words = ("model=tiny", f"model.path={target()}", "batch_size=4", "epochs=2", "out=run")
    with pytest.raises(ValueError, match="warmup=1000000: the run has 10 optimizer steps; write no more than that"):
        run(tmp_path, "unlearn", *words, "warmup=1000000")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("LETHE_SHARED" not in os.environ, reason="LETHE_SHARED is not set: no files that broke earlier code")
@pytest.mark.parametrize("folder", sorted(SHARED.glob("*/")), ids=lambda folder: folder.name)
def test_files_that_broke_earlier_code_are_read_or_refused(folder):
    benchmark = Tofu("tofu", "", "", str(folder))
    try:
        assert benchmark.training("forget10")
    except DataError as error:
        assert "tofu/forget10.json, row " in str(error) and "\n" not in str(error)


def test_a_table_that_is_no_csv_is_refused(tmp_path):
    path = tmp_path / "TruthfulQA.csv"
    path.write_text("Question\n" + "x" * 200_000)
    with pytest.raises(DataError, match=r"TruthfulQA.csv, line 1: not CSV \(field larger than field limit"):
        read_truthfulqa(path)


# What a reader may make of any file: rows, or one sentence that names the file.
FUZZ = settings(max_examples=40, derandomize=True, database=None, deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["question", "answer", "text", "ü"]), JSON, max_size=3), max_size=3)
BYTES = (
    st.binary(max_size=80)
    | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | JSON.map(lambda value: json.dumps(value).encode())
    | ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
    | ROWS.map(lambda rows: json.dumps(rows, ensure_ascii=False).encode("utf-8", "surrogatepass"))
)
READERS = {
    "rows.jsonl": read_records,
    "list.json": read_list,
    "lines.txt": read_lines,
    "rows.parquet": read_parquet,
    "TruthfulQA.csv": read_truthfulqa,
    "train.jsonl": lambda path: read_pku([path]),
    "facts.json": read_inverted,
}


def one_sentence(read: Callable[[Path], object], path: Path) -> None:
    try:
        read(path)
    except DataError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1


@pytest.mark.parametrize("name", READERS)
def test_readers_give_rows_or_one_sentence(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("fuzz") / name

    @FUZZ
    @given(BYTES)
    def read(content: bytes) -> None:
        path.write_bytes(content)
        one_sentence(READERS[name], path)

    read()


@FUZZ
@given(ROWS)
def test_checked_rows_are_what_their_kinds_say(rows):
    with suppress(DataError):
        for checked in check_rows("file", rows, {"question": FILLED}, {"answer": FILLED}):
            assert checked["question"].strip() and isinstance(checked.get("answer") or "", str)


@FUZZ
@given(st.data())
def test_a_damaged_table_or_archive_is_refused_or_read(tmp_path_factory, data):
    table, folder = io.BytesIO(), tmp_path_factory.mktemp("damaged")
    pd.DataFrame([{"question": "Who?", "answer": "Somebody."}] * 3).to_parquet(table)
    for name, content, read in (
        ("rows.parquet", table.getvalue(), read_parquet),
        ("train.jsonl.gz", gzip.compress(GOOD.encode() * 5, mtime=0), lambda path: read_pku([path])),
    ):
        cut = data.draw(st.integers(0, len(content)))
        (folder / name).write_bytes(
            content[:cut] + data.draw(st.binary(max_size=3)) + content[cut + data.draw(st.integers(0, 3)) :]
        )
        one_sentence(read, folder / name)


@FUZZ
@given(st.dictionaries(st.sampled_from(["name", "rows", "retain_rows", "split", "truth_ratio", "metrics"]), JSON, max_size=3))
def test_options_are_of_the_type_that_their_class_declares_or_refused_in_one_sentence(options):
    try:
        declared("benchmark", options, Tofu)
    except ValueError as error:
        assert str(error).startswith("benchmark.") and len(str(error).splitlines()) == 1
    else:
        assert all(isinstance(options.get(name, ""), str) for name in ("name", "split", "truth_ratio"))
