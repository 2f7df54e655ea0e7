"""Language understanding as MEOW measures it (arXiv 2409.11844, released code): questions with four solved examples before them,
answered by generation.

    Here are 4 examples of questions with their answers.
    [INST]
    What is two plus two?
    [/INST]
    Choices:
    A: three
    B: four
    Answer: B
    ... three more, then the question in the same layout, up to its "Answer:"

Evaluation only. ARC draws examples for every question anew, PIQA takes the first ones of the pool, as in the released code. There
the pool is the training split and ARC is asked its validation split; a folder may hold less: metrics.json says what was asked.
form=meow leaves out the line break after an example and reads outputs as that code did (metrics/benchmarks/nlu.py). The
wording of its header and the blank before an answer are not known; both are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

from data.files.sources import hub_rows
from data.files.utility import TASK_FILES, checked, existing, read_task, root
from metrics.benchmarks.nlu import FORMS, TASKS, NluMetrics
from utils.checks import choose, several, whole, whole_or
from utils.draws import generator
from utils.items.benchmark import EvaluationOnly, Extra, Resources, limited
from utils.items.requests import Request
from utils.items.saved import Metrics, Row
from utils.reading import DataError
from utils.shared_work import kept_rows
from utils.tokens.prompts import Template

# task -> files that hold the evaluated split, of which the first that exists is taken, and the file to draw examples from
FILES = {
    "arc_challenge": (("arc/ARC-Challenge_validation.jsonl", "arc/ARC-Challenge_test.jsonl"), "arc/ARC-Challenge_train.jsonl"),
    "arc_easy": (("arc/ARC-Easy_validation.jsonl", "arc/ARC-Easy_test.jsonl"), "arc/ARC-Easy_train.jsonl"),
    "piqa": (("piqa/validation.jsonl",), "piqa/train.jsonl"),
}
CONFIGURATIONS = {"arc_challenge": "ARC-Challenge", "arc_easy": "ARC-Easy", "piqa": None}


class Item(NamedTuple):
    """A question with labelled choices; answer is the label of the right one."""

    question: str
    labels: tuple[str, ...]
    choices: tuple[str, ...]
    answer: str


class Material(NamedTuple):
    """items: what is evaluated, of `split`. pool: where examples come from; None: from the items themselves."""

    items: list[Item]
    split: str
    pool: list[Item] | None


@dataclass(frozen=True)
class Nlu(EvaluationOnly):
    """The benchmark as configured in config/benchmark/nlu.yaml, which says what each option means.

    Raises ValueError for an option that is none.
    """

    name: str
    arc_hub: str
    arc_revision: str
    piqa_hub: str
    piqa_revision: str
    data_root: str
    split: str = EvaluationOnly.SPLIT
    tasks: Sequence[str] = TASKS
    rows: int | str = "all"
    shots: int = 4
    seed: int = 42
    form: str = "paper"
    max_new_tokens: int = 128
    compat: str = "none"
    metrics: Metrics = field(default_factory=NluMetrics)

    def __post_init__(self) -> None:
        several("benchmark.tasks", self.tasks, TASKS)
        choose("benchmark.form", self.form, FORMS)
        whole_or("benchmark.rows", self.rows, "all")
        whole("benchmark.shots", self.shots, 1)
        whole("benchmark.seed", self.seed)
        whole("benchmark.max_new_tokens", self.max_new_tokens, 1)
        if self.compat != "none":
            raise ValueError(
                f"compat={self.compat}: says how other benchmarks write and cut prompts, and nlu has its own; use compat=none"
            )

    def prompts(self, script: str, template: Template, max_length: int) -> tuple[Template, int]:
        """The prompts are written out whole: no tags, no chat template."""
        return Template("plain", eos=False), max_length

    def requests(self, split: str) -> list[Request]:
        """Every question behind its examples, to be answered by generation; the truth is the label of the right choice.

        form=meow: none, an extra asks; a request's answer comes without special tokens and outer blanks. The data are read
        all the same, before a model is loaded.
        """
        self.check_forget_split(split)
        asked = [request for task in self.tasks for request in self.questions(task)]
        return asked if self.form == "paper" else []

    def questions(self, task: str) -> list[Request]:
        """The requests of one task."""
        items = limited(self._material[task].items, self.rows)
        return [Request(task, index, self.prompt(task, index), (), item.answer) for index, item in enumerate(items)]

    def prompt(self, task: str, index: int) -> str:
        """Header, examples and question `index` of a task."""
        between = "" if self.form == "meow" else "\n"
        solved = [f"{_layout(item)} {item.answer}{between}" for item in self.examples(task, index)]
        return _header(self.shots) + "".join(solved) + _layout(self._material[task].items[index])

    def examples(self, task: str, index: int) -> list[Item]:
        """The solved examples before question `index`, never the question itself; the same in every run with the same seed."""
        material = self._material[task]
        others = material.items[:index] + material.items[index + 1 :]
        pool = others if material.pool is None else material.pool
        if task == "piqa":
            return pool[: self.shots]
        return generator("nlu", self.seed, task, index).sample(pool, self.shots)

    @property
    def extras(self) -> Sequence[Extra]:
        return (*([self.add_answers] if self.form == "meow" else []), self.add_labels)

    def add_answers(self, rows: list[Row], resources: Resources) -> list[Row]:
        """form=meow: makes the rows, task by task, with `output` besides (`decoded_together`)."""
        for task in self.tasks:
            answer = partial(decoded_together, resources, self.questions(task), self.max_new_tokens)
            rows = rows + kept_rows(resources.folder / "parts" / f"{task}_meow.jsonl", answer)
        return rows

    def add_labels(self, rows: list[Row], resources: Resources) -> list[Row]:
        """Adds to every row `form`, `labels` (of the question's choices) and `asked` (split and examples)."""
        return [{**row, **self._about(row["task"], row["index"])} for row in rows]

    def _about(self, task: str, index: int) -> Row:
        material = self._material[task]
        pool = "the evaluated questions but the one asked" if material.pool is None else "the training split"
        drawn = "the first" if task == "piqa" else "drawn for each question"
        asked = f"{material.split} split, {self.shots} examples from {pool}, {drawn}"
        return {"form": self.form, "labels": list(material.items[index].labels), "asked": asked}

    @cached_property
    def _material(self) -> dict[str, Material]:
        return {task: self._read(task) for task in self.tasks}

    def _read(self, task: str) -> Material:
        where, split, rows, pool = self._hub(task) if self.data_root == "hub" else self._local(task)
        enough = len(rows) - 1 if pool is None else len(pool)
        if enough < self.shots:
            raise DataError(f"{where}: benchmark.shots={self.shots} examples are needed, but there are {enough} to draw from")
        return Material([_item(row) for row in rows], split, None if pool is None else [_item(row) for row in pool])

    def _hub(self, task: str) -> tuple[str, str, list[dict], list[dict]]:
        """Where the rows come from, their split, the rows, and those to draw examples from."""
        hub, revision = (self.piqa_hub, self.piqa_revision) if task == "piqa" else (self.arc_hub, self.arc_revision)
        evaluated, train = FILES[task]

        def rows(split: str, local: str) -> list[dict]:
            found = hub_rows(hub, CONFIGURATIONS[task], split, revision, local)
            return checked(f"{hub}, {split}", found, TASK_FILES[task])

        return hub, "validation", rows("validation", evaluated[0]), rows("train", train)

    def _local(self, task: str) -> tuple[str, str, list[dict], list[dict] | None]:
        """As `_hub`; None instead of rows to draw from, if the training file is not there."""
        evaluated, train = FILES[task]
        path, drawn_from = existing(self.data_root, evaluated), root(self.data_root) / train
        pool = read_task(drawn_from, TASK_FILES[task]) if drawn_from.is_file() else None
        return str(path), path.stem.rpartition("_")[2], read_task(path, TASK_FILES[task]), pool


def decoded_together(resources: Resources, requests: Sequence[Request], max_new_tokens: int) -> list[Row]:
    """The model's greedy answers as the released code saw them: one row per request, by index, on every process.

    output: the ids of prompt and answer decoded together, with special tokens, less the prompt's text wherever it occurs; where
    the vocabulary does not give the text back exactly, the prompt stays in it, as it did there.
    """
    from utils.evaluation.scoring import continue_greedily  # needs torch, which metrics from files do without

    engine, encoder, decode = resources.engine, resources.encoder, resources.encoder.tokenizer.decode
    prompts = [encoder.generation_prompt(request.question) for request in requests]
    lengths, limits = [len(prompt) for prompt in prompts], [max_new_tokens] * len(prompts)
    said = continue_greedily(engine, encoder, prompts, lengths, limits, resources.generation_batch_size)
    return [
        {
            "task": request.task,
            "index": request.index,
            "question": request.question,
            "generation": decode(ids, skip_special_tokens=True).strip(),
            "truth": request.truth,
            "output": decode([*prompt, *ids]).replace(request.question, ""),
        }
        for request, prompt, ids in zip(requests, prompts, said, strict=True)
    ]


def _item(row: dict) -> Item:
    """ARC's rows as they are; PIQA's solutions are labelled 0 and 1."""
    if "goal" in row:
        return Item(row["goal"], ("0", "1"), (row["sol1"], row["sol2"]), str(row["label"]))
    return Item(row["question"], tuple(row["choices"]["label"]), tuple(row["choices"]["text"]), row["answerKey"])


def _header(shots: int) -> str:
    what = "is 1 example of a question with its answer" if shots == 1 else f"are {shots} examples of questions with their answers"
    return f"Here {what}.\n"


def _layout(item: Item) -> str:
    choices = "".join(f"{label}: {text}\n" for label, text in zip(item.labels, item.choices, strict=True))
    return f"[INST]\n{item.question}\n[/INST]\nChoices:\n{choices}Answer:"
