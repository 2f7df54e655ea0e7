"""docs/papers.md: its tables are what scripts/dev/papers.py makes of config/ and docs/results."""

from __future__ import annotations

import pandas as pd
import pytest

from scripts.dev import papers
from utils.runs.recipes import recipes
from utils.studies.study import studies

TEXT = papers.PAGE.read_text("utf-8")


def test_the_page_is_as_the_files_are():
    assert papers.page(TEXT) == TEXT, "write it again with: python -m scripts.dev.papers"


def test_the_page_has_every_recipe_and_every_study_once():
    for command in (*(f"| `{name}` |" for name in recipes()), *(f"| `python scripts/study.py {name}` |" for name in studies())):
        assert TEXT.count(command) == 1, command


def test_every_folder_of_studies_is_a_paper_or_a_model_of_a_laptop():
    assert {name.split("/")[0] for name in studies() if "/" in name} == {*papers.PAPERS, "tiny", "smollm2"}


def test_a_claim_stands_there_once_for_all_its_studies():
    claims = [line for line in TEXT.splitlines() if line[:1].isdigit()]
    assert len({claim.split(". ", 1)[1] for claim in claims}) == len(claims)


def test_what_nobody_ran_has_no_number(tmp_path):
    assert papers.measured("knowundo/table_2", tmp_path) == papers.NOT_RUN


def test_what_was_run_is_counted_by_verdict(tmp_path):
    (tmp_path / "one").mkdir()
    kinds, verdicts = ["seed", "aggregate", "aggregate", "aggregate", "aggregate"], [None, "within", "differs", "within", None]
    pd.DataFrame({"kind": kinds, "verdict": verdicts}).to_parquet(tmp_path / "one" / "numbers.parquet")
    assert papers.measured("one", tmp_path) == "[4 numbers](results/one/table.md): 1 differs, 2 within"


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="write <!-- recipes --> and <!-- end of recipes --> around the table"):
        papers.page("# Published settings\n")
