"""run.json's word for what an evaluation saved."""

from __future__ import annotations

import pandas as pd
import pytest

from utils.evaluation.results import GENERATIONS, ORACLE, SCORES, ResultsError, check, describe
from utils.files import write_json, write_parquet


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "null").mkdir()
    for name in (SCORES, ORACLE, "null/1.parquet"):
        write_parquet(pd.DataFrame({"logp": [0.5, 1.5]}), tmp_path / name)
    (tmp_path / GENERATIONS).write_text("{}\n{}\n{}\n")
    write_json(tmp_path / "run.json", {"results": describe(tmp_path)})
    return tmp_path


def test_each_file_is_described(folder):
    assert {name: known["rows"] for name, known in describe(folder).items()} == {
        **dict.fromkeys((SCORES, ORACLE, "null/1.parquet"), 2),
        GENERATIONS: 3,
    }
    check(folder)


def test_only_what_is_asked_for_must_be_as_it_was(folder):
    (folder / GENERATIONS).write_text("{}\n")
    check(folder, SCORES, ORACLE)
    for names in ((), (GENERATIONS,), (SCORES, GENERATIONS)):
        with pytest.raises(ResultsError, match="generations.jsonl is damaged .1 of 3 rows are left.; run the evaluation again"):
            check(folder, *names)
    (folder / GENERATIONS).write_text("[]\n[]\n[]\n")
    with pytest.raises(ResultsError, match="generations.jsonl is damaged .other content than was saved."):
        check(folder)
