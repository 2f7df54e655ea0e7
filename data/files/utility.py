"""The files of the zero-shot tasks and of WikiText below data_root, in the fields that the data sets have on the Hub.

boolq/validation.jsonl                       question, passage, label (SuperGLUE's form, 0: no, 1: yes)
rte/validation.jsonl                         sentence1, sentence2, label (0: entailment)
hellaswag/validation.jsonl                   activity_label, ctx_a, ctx_b, endings (4), label
winogrande/winogrande_xl_validation.jsonl    sentence with one _, option1, option2, answer ("1" or "2")
arc/ARC-Challenge_test.jsonl, ARC-Easy_...   question, choices {text, label}, answerKey
openbookqa/test.jsonl                        question_stem, choices {text, label}, answerKey
piqa/validation.jsonl                        goal, sol1, sol2, label (0: sol1)
truthfulqa/multiple_choice_validation.jsonl  question, mc1_targets and mc2_targets {choices, labels}
wikitext/wikitext-2-raw-v1_test_pages.jsonl  page (one article)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.files.sources import FIXTURES, check_rows
from utils.distributed import main_first
from utils.reading import DataError, read_json_lines


@dataclass(frozen=True)
class TaskFile:
    """file: below data_root. split: the one it holds. texts: fields that hold text. wrong(row): what is wrong with it, or ""."""

    file: str
    split: str
    texts: tuple[str, ...]
    wrong: Callable[[dict], str]


def root(data_root: str) -> Path:
    """The folder of the files: the fixture's, or the user's."""
    return FIXTURES / "utility" if data_root == "fixture" else Path(data_root).expanduser()


def task_rows(data_root: str, task: str) -> list[dict]:
    """The rows of one of TASK_FILES. Raises DataError naming file and row."""
    return read_task(existing(data_root, [TASK_FILES[task].file]), TASK_FILES[task])


def read_task(path: Path, task: TaskFile) -> list[dict]:
    """The rows of a file in the layout of `task`, whatever split it holds. Raises DataError naming file and row."""
    return checked(path, read_json_lines(path), task)


def checked(where: Path | str, rows: list[dict], task: TaskFile) -> list[dict]:
    """The rows, if they are in the layout of `task`. Raises DataError naming `where` and row."""
    check_rows(where, rows, task.texts, {})
    for number, row in enumerate(rows, start=1):
        if problem := task.wrong(row):
            raise DataError(f"{where}, row {number}: {problem}")
    return rows


def hub_rows(hub: str, configuration: str | None, split: str, revision: str, local: str) -> list[dict]:
    """The rows of one split of a data set on the Hub. Raises DataError, naming the file `local` that may stand for it."""
    from datasets import load_dataset  # slow to import, and not needed for local files

    try:
        with main_first():
            return list(load_dataset(hub, configuration, split=split, revision=revision))
    except (OSError, ValueError) as error:
        raise DataError(
            f"data_root=hub: {hub}, {split}, at revision {revision[:8]} cannot be fetched ({type(error).__name__}); give "
            f"data_root=DIR with DIR/{local}, or data_root=fixture"
        ) from error


def existing(data_root: str, files: Sequence[str]) -> Path:
    """The first of the files that is there. Raises DataError naming all of them."""
    for file in files:
        if (root(data_root) / file).is_file():
            return root(data_root) / file
    raise DataError(
        f"data_root={data_root}: {root(data_root)} has no {' and no '.join(files)}; use data_root=hub, or put it there"
    )


def _one_of(field: str, *valid: str) -> Callable[[dict], str]:
    """Labels are numbers in some data sets and their digits in others; both are taken."""

    def wrong(row: dict) -> str:
        value = row.get(field)
        return "" if str(value) in valid else f"{field} is {value!r}, but must be one of {', '.join(valid)}"

    return wrong


def _hellaswag(row: dict) -> str:
    endings = row.get("endings")
    if not _texts(endings) or len(endings) != 4:
        return f"endings must be 4 texts, got {endings!r}"
    return _one_of("label", "0", "1", "2", "3")(row)


def _winogrande(row: dict) -> str:
    if row["sentence"].count("_") != 1:
        return f"sentence needs one _ as the gap: {row['sentence']!r}"
    return _one_of("answer", "1", "2")(row)


def _labelled_choices(row: dict) -> str:
    choices = row.get("choices")
    if not isinstance(choices, dict) or not _texts(choices.get("text")) or not _texts(choices.get("label")):
        return f"choices must hold lists of texts `text` and `label`, got {choices!r}"
    if len(choices["text"]) != len(choices["label"]):
        return f"choices has {len(choices['text'])} texts and {len(choices['label'])} labels"
    return _one_of("answerKey", *choices["label"])(row)


def _truthfulqa(row: dict) -> str:
    for field in ("mc1_targets", "mc2_targets"):
        targets = row.get(field)
        if not isinstance(targets, dict) or not _texts(targets.get("choices")) or not isinstance(targets.get("labels"), list):
            return f"{field} must hold lists `choices` and `labels`, got {targets!r}"
        if len(targets["choices"]) != len(targets["labels"]) or 1 not in targets["labels"]:
            return f"{field} needs one label per choice, at least one of them 1"
    labels = row["mc1_targets"]["labels"]
    return (
        "" if labels[0] == 1 and sum(labels) == 1 else "mc1_targets must have the one true choice first: the harness expects it"
    )


def _texts(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) and value.strip() for value in values)


def _nothing(row: dict) -> str:
    return ""


_ARC = (("question", "answerKey"), _labelled_choices)
_TRUTHFULQA = TaskFile("truthfulqa/multiple_choice_validation.jsonl", "validation", ("question",), _truthfulqa)
TASK_FILES: dict[str, TaskFile] = {
    "boolq": TaskFile("boolq/validation.jsonl", "validation", ("question", "passage"), _one_of("label", "0", "1")),
    "rte": TaskFile("rte/validation.jsonl", "validation", ("sentence1", "sentence2"), _one_of("label", "0", "1")),
    "hellaswag": TaskFile("hellaswag/validation.jsonl", "validation", ("activity_label", "ctx_a"), _hellaswag),
    "winogrande": TaskFile(
        "winogrande/winogrande_xl_validation.jsonl", "validation", ("sentence", "option1", "option2"), _winogrande
    ),
    "arc_challenge": TaskFile("arc/ARC-Challenge_test.jsonl", "test", *_ARC),
    "arc_easy": TaskFile("arc/ARC-Easy_test.jsonl", "test", *_ARC),
    "openbookqa": TaskFile("openbookqa/test.jsonl", "test", ("question_stem", "answerKey"), _labelled_choices),
    "piqa": TaskFile("piqa/validation.jsonl", "validation", ("goal", "sol1", "sol2"), _one_of("label", "0", "1")),
    "truthfulqa_mc1": _TRUTHFULQA,
    "truthfulqa_mc2": _TRUTHFULQA,
    "wikitext": TaskFile("wikitext/wikitext-2-raw-v1_test_pages.jsonl", "test", ("page",), _nothing),
}
