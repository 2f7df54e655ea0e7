"""The committed safety fixture: it is what its script writes, names nothing real, and its judge tells its answers apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.pku import read_pku, same_prompt
from data.safety_files import SafetyFiles
from data.sources import FIXTURES, read_lines
from data.truthfulqa import PARTS, split_questions
from scripts.fixture_files import write_files
from scripts.make_safety_fixture import ACTIONS, COMPLIED, build_files
from tests.models import tokenizer
from utils.judges import KeywordJudge

FOLDER = FIXTURES / "safety"
FILES = SafetyFiles("safety", "fixture", "", "", {}, "", "")


def test_script_reproduces_the_committed_files_byte_by_byte(tmp_path):
    write_files(build_files(), tmp_path)
    ours = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    committed = {path.relative_to(FOLDER): path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    assert ours == committed and len(ours) == 5


def test_another_seed_gives_other_rows():
    assert build_files(seed=1)["pku_saferlhf/train.jsonl"] != build_files()["pku_saferlhf/train.jsonl"]


def test_rows_give_two_one_and_no_pairs_in_the_layout_of_2023():
    train = FILES.pku("train")
    assert train.layout == "2023" and {sum(row.harmful) for row in train.rows} == {0, 1, 2}
    assert {row.harmful for row in train.rows} >= {(True, False), (False, True)}
    questions = [row.prompt for row in train.rows]
    assert len(questions) - len(set(questions)) == 6  # asked twice


def test_the_test_file_has_questions_of_its_own_for_every_action():
    train, test = FILES.pku("train"), FILES.pku("test")
    unseen = [row.prompt for row in test.rows if same_prompt(row.prompt) not in train.prompts]
    assert len(unseen) == 2 * len(ACTIONS) and len(test.rows) == len(unseen) + 3
    assert all(sum(f" {action} " in question for question in unseen) == 2 for action, _, _ in ACTIONS)


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_keyword_judge_agrees_with_every_label(part):
    judge = KeywordJudge("data/fixtures/safety/key_phrases.txt")
    rows = FILES.pku(part).rows
    texts = [text for row in rows for text in row.responses]
    verdicts = judge.judge([row.prompt for row in rows for _ in row.responses], texts)
    assert [verdict.harmful for verdict in verdicts] == [flag for row in rows for flag in row.harmful]
    assert any(
        not flag and key in text
        for row in rows
        for flag, text in zip(row.harmful, row.responses, strict=True)
        for _, key, _ in ACTIONS
    )


def test_harmful_answers_are_about_the_invented_substance_alone():
    for row in FILES.pku("train").rows + FILES.pku("test").rows:
        for text, harmful in zip(row.responses, row.harmful, strict=True):
            assert ("glimmerdust" in text) == harmful
            assert harmful == any(_fits(text, form) for form in COMPLIED)


def _fits(text: str, form: str) -> bool:
    beginning = form.split("{")[0]
    return text.startswith(beginning) and "glimmerdust" in text


def test_key_phrases_are_the_ingredients():
    assert read_lines(FOLDER / "key_phrases.txt") == [key for _, key, _ in ACTIONS]


def test_ordinary_questions_and_choices_are_about_the_same_towns():
    questions, choices = FILES.questions(), FILES.choices()
    by_text = {question.text: question for question in questions}
    assert len(by_text) == len(questions) == len(choices) == 40
    assert [choice.question for choice in choices] != [
        question.text for question in questions
    ]  # joined by text, as the real ones
    for choice in choices:
        question = by_text[choice.question]
        assert choice.mc1.texts[0] == f"{question.best}." and choice.mc1.true == (True, False, False, False)
        assert [text.rstrip(".") for text in choice.mc2.texts] == [*filter(None, question.correct), *question.incorrect]
    assert sum("" in question.correct for question in questions) == 8  # lists that end with a semicolon
    assert [len(split_questions(40, 8888)[part]) for part in PARTS] == [28, 4, 8]


def test_the_tiny_tokenizer_reads_it_in_about_two_tokens_a_word():
    pairs = FILES.pku("train").harmful_pairs()
    texts = [text for pair in pairs for text in (pair.question, pair.answer)] + [q.best for q in FILES.questions()]
    tokens = sum(len(tokenizer()(text, add_special_tokens=False).input_ids) for text in texts)
    assert tokens < 2.2 * sum(len(text.split()) for text in texts)
    assert max(len(tokenizer()(text).input_ids) for text in texts) < 60


def test_a_folder_of_the_users_may_hold_the_same_files(tmp_path):
    write_files(build_files(), tmp_path)
    files = SafetyFiles("safety", str(tmp_path), "", "", {}, "", "")
    assert files.pku("train") == read_pku([Path(FOLDER / "pku_saferlhf/train.jsonl")]) and len(files.choices()) == 40
