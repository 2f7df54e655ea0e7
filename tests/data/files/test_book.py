"""Text and passages of a book, rows of the released files, the fixture, and real novels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.files.book import chapters, excerpt, kept_out, passages
from data.files.completion import INSTRUCTIONS
from data.files.sources import FIXTURES
from scripts.fixtures.completion import STORIES, build_files
from scripts.fixtures.files import write_files
from tests.data.benchmarks.test_completion import completion, story, with_real_data
from tests.models import tokenizer
from tests.runs import REAL
from utils.reading import DataError

BOOK = """\ufeffThe Project Gutenberg eBook of A Tale, by A. Writer

This eBook is for the use of anyone anywhere.

*** START OF THE PROJECT GUTENBERG EBOOK
A TALE ***

Produced by two
volunteers

[Illustration: a ship]

A TALE

by A. Writer

CONTENTS

 I. The Ship . . . 1
 II. The Storm . . . 9

CHAPTER I. The Ship

Once there was a _ship_ that
nobody had seen.

"I am here," said Part one of the crew.

       *       *       *       *       *

The ship was gone. [Illustration]

Chapter the Second

The Storm

I saw it.

THE END

*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***

Updated editions will replace the previous one.
"""


def test_only_the_authors_sentences_are_text():
    assert chapters(BOOK) == [
        'Once there was a ship that nobody had seen. "I am here," said Part one of the crew. The ship was gone.',
        "I saw it.",
    ]
    assert chapters(BOOK.replace("\n", "\r\n")) == chapters(BOOK)


def test_marks_of_the_nineties_are_known_too():
    begin = "Small print\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*"
    text = f"{begin}\n\nIt was so.\n\nEnd of Project Gutenberg's Etext"
    assert chapters(text) == ["It was so."]


HEADINGS = (
    *("CHAPTER IV", "Chapter 12.", "Chapter Twenty-One", "BOOK THE THIRD", "Letter 4", "XIV.", "7", "Epilogue", "FINIS"),
    *("PART TWO: The Voyage Out", "Chapter 3 The Sea", "A NOTE ON THE TEXT", " = Robert Boulter = "),
    " = = = Severe Tropical Storm Melor ( Viring ) and what it left behind = = = ",
)
TEXT = (
    *("Part one of the plan was simple.", '"NO!"', "I am.", "Yours, Frank", "Chapter one was never written by her.", "Book him!"),
    *("The end of the day came.", "Then it was = 1 ="),
)


@pytest.mark.parametrize("heading", HEADINGS)
def test_headings_divide_chapters(heading):
    assert chapters(f"One was here.\n\n{heading}\n\nTwo was here.") == ["One was here.", "Two was here."]


@pytest.mark.parametrize("line", TEXT)
def test_short_paragraphs_of_the_text_stay(line):
    assert chapters(f"One was here.\n\n{line}\n\nTwo was here.") == [f"One was here. {line} Two was here."]


def test_a_heading_has_twelve_words_at_most():
    twelve = "A NOTE ON THE TEXT OF THE BOOK THAT YOU HOLD NOW"
    for line, count in ((twelve, 2), (f"{twelve} AGAIN", 1)):
        assert len(chapters(f"One was here.\n\n{line}\n\nTwo was here.")) == count


def test_a_passage_ends_at_the_nearest_sentence_end():
    # Of 16 words 14 to 18 may be taken: sentences end after 10, 17 and 27 words, then there is none in reach.
    words = [f"w{n}" for n in range(60)]
    for place in (10, 17, 27):
        words[place - 1] += '."'
    found = passages([" ".join(words)], 16)
    assert [len(text.split()) for text in found] == [17, 16, 16]
    assert found[0].endswith('w16."') and found[1].startswith("w17") and " ".join(found) == " ".join(words[:49])


def test_an_abbreviation_ends_no_sentence():
    words = ["a"] * 14 + ["Mr.", "B", "said", "no."] + ["a"] * 14
    assert len(passages([" ".join(words)], 16)[0].split()) == 18


def test_no_passage_runs_over_the_end_of_a_chapter():
    texts = [story(5, "a"), story(2, "b"), story(9, "c")]
    assert passages(texts, 40) == [story(4, "a"), " ".join(story(8, "c").split()[:40]), " ".join(story(8, "c").split()[40:])]
    rest = passages(texts, 40, rest=True)
    assert len(rest) == 6 and rest[1] == " ".join(story(5, "a").split()[40:]) and rest[2] == story(2, "b")


def test_a_passage_is_cut_after_so_many_words():
    assert excerpt("one two three four", 3) == ("one two three", "four")
    assert excerpt("one two three four", 3).whole == "one two three four"


def test_every_fifth_passage_is_kept_out():
    assert [place for place, out in enumerate(kept_out(15, 0.2)) if out] == [2, 7, 12]
    assert sum(kept_out(500, 0.2)) == 100 and sum(kept_out(7, 0)) == 0
    assert [sum(kept_out(count, 0.3)) for count in (10, 100, 1000)] == [3, 30, 300]


def released(folder: Path, kinds: tuple[str, ...] = ("train", "test"), k: int = 50) -> list[dict]:
    """Rows as FLAT releases them: 3 passages, 2 instructions of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        rows = [
            {"prompt": f"{instruction}: p{n} begins , so : to say", "response": f"p{n} ends ."}
            for instruction in INSTRUCTIONS[kind][:2]
            for n in range(3)
        ]
        write_rows(folder / f"hp_{kind}_qa_{k}.jsonl", rows)
    return rows


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_released_rows_are_read_as_they_are(tmp_path):
    rows = released(tmp_path / "completion")
    benchmark = completion(tmp_path, prefix=50, words=380, holdout=0, instructions=2)
    assert [r.question for r in benchmark.requests("forget") if r.task == "test"] == [row["prompt"] for row in rows]
    assert [r.truth for r in benchmark.requests("forget") if r.task == "test"] == [row["response"] for row in rows]
    kept = completion(tmp_path, prefix=50, words=380, holdout=0.3)
    assert [pair.answer for pair in kept.training("forget")] == ["p0 ends .", "p2 ends ."]
    assert [pair.answer for pair in kept.training("holdout")] == ["p1 ends ."]


def damage(path: Path, row: int, **fields) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[row - 1] |= fields
    write_rows(path, rows)


def test_released_rows_that_are_none_are_named(tmp_path):
    folder = tmp_path / "completion"
    benchmark = completion(tmp_path, prefix=50, words=380)
    train, test = (folder / f"hp_{kind}_qa_50.jsonl" for kind in ("train", "test"))

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            benchmark.training("forget")
        released(folder)

    released(folder)
    damage(train, 5, response="else")
    refused("hp_train_qa_50.jsonl, row 5: passage 2 with the instruction .I'd like you to continue this line. is expected")
    damage(train, 2, prompt="no colon")
    refused("hp_train_qa_50.jsonl, row 2: prompt must be an instruction, a colon and the passage")
    damage(train, 3, response=" ")
    refused("hp_train_qa_50.jsonl, row 3: field response must be a text that is not blank")
    write_rows(test, [json.loads(line) for line in test.read_text().splitlines()][:5])
    refused("hp_test_qa_50.jsonl: its last instruction has 2 rows, the others 3")
    for row in (1, 4):
        damage(test, row, response="another book")
    refused("hp_test_qa_50.jsonl: its passages are not those of hp_train_qa_50.jsonl")
    test.unlink()
    refused("benchmark.prefix=50: .*hp_test_qa_50.jsonl does not exist; the folder holds hp_train_qa_50.jsonl")
    (folder / "book.txt").write_text(story(50))
    refused("holds released rows and book.txt; remove one, or name the book")


def test_the_fixture_is_what_its_script_writes(tmp_path):
    write_files(build_files(), tmp_path)
    folder = FIXTURES / "completion"
    names = {path.relative_to(root).as_posix() for root in (folder, tmp_path) for path in root.rglob("*") if path.is_file()}
    assert len(names) == 4
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert build_files(seed=1) != build_files()


def test_the_stories_share_no_passage_and_the_tokenizer_knows_most_words():
    texts = {name: chapters(text) for name, text in build_files().items() if name in STORIES}
    assert [len(found) for found in texts.values()] == [6, 6, 6]
    pieces = [piece for found in texts.values() for piece in passages(found, 40)]
    assert len(set(pieces)) == len(pieces) and not any("Chapter" in piece or "{" in piece for piece in pieces)
    tokens = sum(len(tokenizer()(piece, add_special_tokens=False).input_ids) for piece in pieces)
    assert tokens < 1.5 * sum(len(piece.split()) for piece in pieces)


@with_real_data
@pytest.mark.parametrize(("book", "count", "parts"), [("persuasion", 213, 24), ("northanger_abbey", 190, 33), ("emma", 392, 57)])
def test_real_novels_give_passages_like_the_released_ones(book, count, parts):
    """Released: 306 to 427 words, 378.5 on average."""
    path = REAL / "data/public_domain_text" / f"austen_{book}.txt"
    assert len(chapters(path.read_text(encoding="utf-8"))) == parts
    texts = [completion("hub", book=str(path), holdout=0, words=380, prefix=200, passages="all").training("forget_text")]
    sizes = [len(pair.answer.split()) for pair in texts[0]]
    assert len(sizes) == count and 333 <= min(sizes) and max(sizes) <= 427 and 375 < sum(sizes) / count < 382
    assert not [pair for pair in texts[0] if "chapter " in pair.answer.lower()[:40] or "by Jane Austen" in pair.answer]
