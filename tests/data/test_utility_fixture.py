"""The committed fixture of the zero-shot tasks: it is what its script writes, in the layouts that are read, and true."""

from __future__ import annotations

import pytest

from data.sources import FIXTURES
from data.utility_files import TASK_FILES, task_rows
from scripts.fixture_files import write_files
from scripts.make_utility_fixture import NUMBERS, TOWNS, build_files

FOLDER = FIXTURES / "utility"


def test_script_reproduces_the_committed_files_byte_by_byte(tmp_path):
    write_files(build_files(), tmp_path)
    ours = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    committed = {path.relative_to(FOLDER): path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    assert ours == committed and len(ours) == 13
    assert build_files(seed=1) != build_files()


@pytest.mark.parametrize("task", TASK_FILES)
def test_every_task_has_a_handful_of_rows(task):
    assert 3 <= len(task_rows("fixture", task)) <= 8


def test_sums_are_right_and_labels_letters_or_digits():
    keys = set()
    for task in ("arc_challenge", "arc_easy"):
        for row in task_rows("fixture", task):
            a, b = (NUMBERS.index(word.strip("?")) for word in row["question"].split()[2::2])
            choices = row["choices"]
            assert choices["text"][choices["label"].index(row["answerKey"])] == NUMBERS[a + b] and len(set(choices["text"])) == 4
            keys |= set(choices["label"])
    assert keys == set("ABCD1234")


def test_both_labels_occur_wherever_there_are_two():
    for task, field in (("boolq", "label"), ("rte", "label"), ("piqa", "label"), ("winogrande", "answer")):
        assert len({row[field] for row in task_rows("fixture", task)}) == 2, task


def test_statements_follow_from_the_passage_or_do_not():
    for asked, told in zip(task_rows("fixture", "boolq"), task_rows("fixture", "rte"), strict=True):
        stone = asked["question"].split()[-1]
        assert asked["label"] == int(f"made of {stone} " in asked["passage"]) == 1 - told["label"]


def test_articles_are_about_invented_towns_and_written_as_in_wikitext():
    pages = [row["page"] for row in task_rows("fixture", "wikitext")]
    assert [page.split()[1] for page in pages] == list(TOWNS[:3])
    assert all(" @,@ " in page and " @-@ " in page and " = = History = = " in page for page in pages)
    assert (FOLDER / "wikitext/wiki.test.raw").read_text(encoding="utf-8") == "".join(pages)
