"""What data/benchmarks/completion.py reads: books, texts to keep, and the rows of the released Harry Potter files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from data.files.book import Excerpt, chapters, excerpt, passages
from utils.reading import FILLED, TEXT, DataError, check_row, check_rows, json_lines, read_json_lines, read_text, remembered

KINDS = ("train", "test")
JSON_ENDINGS = (".jsonl", ".json", ".json.gz", ".jsonl.gz")
TEXT_ENDINGS = (".txt", ".raw")

# The sentences of the released files, in their order.
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "Can you finish this sentence for me",
        "I'd like you to continue this line",
        "Please provide the next part of this text",
        "Go ahead and finish off this sentence, please",
        "How would you continue this sentence",
        "Can you extend this sentence further",
    ),
    "test": (
        "Let's see how you would complete this piece of text",
        "Your task is to add on to this sentence",
        "Try to fill in the rest of this text for me",
        "What do you think follows this sentence",
        "Continue writing from this point",
        "Expand on this snippet, please",
    ),
}


@dataclass(frozen=True)
class Corpus:
    """Passages in their order, and for each of KINDS the sentences that ask for the rest of one."""

    excerpts: tuple[Excerpt, ...]
    instructions: Mapping[str, tuple[str, ...]]


def read_books(paths: Sequence[Path], words: int, prefix: int) -> Corpus:
    """Passages of about `words` words, `prefix` of them given. Raises DataError naming the first book that has none."""
    return Corpus(tuple(excerpt(text, prefix) for path in paths for text in read_passages(path, words)), INSTRUCTIONS)


def read_passages(path: Path, words: int, rest: bool = False, limit: int | None = None) -> tuple[str, ...]:
    """The first `limit` passages of a text file, or of the field `text` of JSON lines (as C4 has them, .gz too).

    rest: what is left at the end of a chapter or row makes a shorter passage. Raises DataError if the file gives no passage.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    found = _passages(path, words, rest, limit)
    if not found:
        raise DataError(f"{path}: holds no passage of about {words} words without a heading in it; set benchmark.words lower")
    return found


def text_files(folder: Path) -> list[Path]:
    """The files of a folder that passages can be cut from, by name; none if there is no such folder."""
    return sorted(path for path in folder.glob("*") if path.name.endswith((*TEXT_ENDINGS, *JSON_ENDINGS)) and not _released(path))


def has_released(folder: Path) -> bool:
    """Whether the folder holds rows of the released files."""
    return any(_released(path) for path in folder.glob("hp_*"))


def read_released(folder: Path, prefix: int) -> Corpus:
    """hp_train_qa_<prefix>.jsonl and hp_test_qa_<prefix>.jsonl: rows of prompt and response, all passages with the first
    instruction, then all with the second, and so on; both files with the same passages.

    Raises DataError with file and row for anything else.
    """
    excerpts: dict[str, tuple[Excerpt, ...]] = {}
    instructions: dict[str, tuple[str, ...]] = {}
    for kind in KINDS:
        path = folder / f"hp_{kind}_qa_{prefix}.jsonl"
        if not path.is_file():
            present = ", ".join(sorted(other.name for other in folder.glob("hp_*") if _released(other)))
            raise DataError(f"benchmark.prefix={prefix}: {path} does not exist; the folder holds {present}")
        excerpts[kind], instructions[kind] = _blocks(path)
    if excerpts["train"] != excerpts["test"]:
        raise DataError(f"{path}: its passages are not those of hp_train_qa_{prefix}.jsonl; take both files from one release")
    return Corpus(excerpts["train"], instructions)


def _released(path: Path) -> bool:
    return any(path.match(f"hp_{kind}_qa_*.jsonl") for kind in KINDS)


@remembered
def _passages(path: Path, words: int, rest: bool, limit: int | None) -> tuple[str, ...]:
    texts = _texts(path) if path.name.endswith(JSON_ENDINGS) else [read_text(path)]
    # One text at a time: a shard of C4 holds far more than is used.
    return tuple(islice(chain.from_iterable(passages(chapters(text), words, rest) for text in texts), limit))


def _texts(path: Path) -> Iterator[str]:
    for number, row in json_lines(path):
        check_row(f"{path}, row {number}", row, {"text": TEXT})
        yield row["text"]


def _blocks(path: Path) -> tuple[tuple[Excerpt, ...], tuple[str, ...]]:
    """The passages of a released file, and its instructions."""
    rows = check_rows(path, read_json_lines(path), {"prompt": FILLED, "response": FILLED})
    asked = []
    for number, row in enumerate(rows, start=1):
        instruction, mark, prefix = row["prompt"].partition(": ")
        if not mark:
            raise DataError(
                f"{path}, row {number}: prompt must be an instruction, a colon and the passage: {row['prompt'][:60]!r}"
            )
        asked.append((instruction, Excerpt(prefix, row["response"])))
    size = next((place for place, (instruction, _) in enumerate(asked) if instruction != asked[0][0]), len(asked))
    excerpts = tuple(text for _, text in asked[:size])
    instructions = tuple(instruction for instruction, _ in asked[::size])
    for number, (instruction, text) in enumerate(asked, start=1):
        block, place = divmod(number - 1, size)
        if instruction != instructions[block] or text != excerpts[place]:
            raise DataError(
                f"{path}, row {number}: passage {place + 1} with the instruction {instructions[block]!r} is expected here; rows "
                "go through all passages once for each instruction"
            )
    if len(asked) % size:
        raise DataError(f"{path}: its last instruction has {len(asked) % size} rows, the others {size}; the file was cut off")
    return excerpts, instructions
