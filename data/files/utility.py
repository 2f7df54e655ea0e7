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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.files.sources import FIXTURES
from data.files.truthfulqa import labelled
from utils.reading import FILLED, DataError, Kind, check_row, check_rows, list_of, one_of, read_json_lines


@dataclass(frozen=True)
class TaskFile:
    """file: below data_root. fields: of its rows; an answerKey is one of the labels of choices."""

    file: str
    fields: Mapping[str, Kind]

    @property
    def split(self) -> str:
        """The split that the file is named after."""
        return "validation" if "validation" in self.file else "test"


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
    check_rows(where, rows, task.fields)
    if "answerKey" in task.fields:
        for number, row in enumerate(rows, start=1):
            check_row(f"{where}, row {number}", row, {"answerKey": one_of(*row["choices"]["label"])})
    return rows


def existing(data_root: str, files: Sequence[str]) -> Path:
    """The first of the files that is there. Raises DataError naming all of them."""
    for file in files:
        if (root(data_root) / file).is_file():
            return root(data_root) / file
    raise DataError(
        f"data_root={data_root}: {root(data_root)} has no {' and no '.join(files)}; use data_root=hub, or put it there"
    )


def _choices(value: object) -> bool:
    lists = [value.get(name) for name in ("text", "label")] if isinstance(value, dict) else [None]
    return all(found and list_of(FILLED).fits(found) for found in lists) and len({*map(len, lists)}) == 1


_LABEL = {"label": one_of("0", "1")}
_CHOICES = {"choices": Kind(_choices, "lists of texts `text` and `label`, as many of one as of the other"), "answerKey": FILLED}
_ENDINGS = {"endings": list_of(FILLED, 4), "label": one_of("0", "1", "2", "3")}
_GAP = {"sentence": Kind(lambda value: isinstance(value, str) and value.count("_") == 1, "a sentence with one _ as the gap")}
_OPTIONS = {"option1": FILLED, "option2": FILLED, "answer": one_of("1", "2")}


def _filled(*fields: str) -> dict[str, Kind]:
    return dict.fromkeys(fields, FILLED)


_TRUTHFULQA = {"question": FILLED, "mc1_targets": labelled(true_first=True), "mc2_targets": labelled()}
TASK_FILES: dict[str, TaskFile] = {
    "boolq": TaskFile("boolq/validation.jsonl", _filled("question", "passage") | _LABEL),
    "rte": TaskFile("rte/validation.jsonl", _filled("sentence1", "sentence2") | _LABEL),
    "hellaswag": TaskFile("hellaswag/validation.jsonl", _filled("activity_label", "ctx_a") | _ENDINGS),
    "winogrande": TaskFile("winogrande/winogrande_xl_validation.jsonl", _GAP | _OPTIONS),
    "arc_challenge": TaskFile("arc/ARC-Challenge_test.jsonl", _filled("question") | _CHOICES),
    "arc_easy": TaskFile("arc/ARC-Easy_test.jsonl", _filled("question") | _CHOICES),
    "openbookqa": TaskFile("openbookqa/test.jsonl", _filled("question_stem") | _CHOICES),
    "piqa": TaskFile("piqa/validation.jsonl", _filled("goal", "sol1", "sol2") | _LABEL),
    "truthfulqa_mc1": TaskFile("truthfulqa/multiple_choice_validation.jsonl", _TRUTHFULQA),
    "truthfulqa_mc2": TaskFile("truthfulqa/multiple_choice_validation.jsonl", _TRUTHFULQA),
    "wikitext": TaskFile("wikitext/wikitext-2-raw-v1_test_pages.jsonl", _filled("page")),
}
