"""Harmful answers to forget, ordinary ones to keep: the data of LLMU (arXiv 2310.10683) and SKU (arXiv 2402.10058).

Splits: harmful (harmful answers of PKU-SafeRLHF, to be forgotten), normal (true answers of TruthfulQA, to be kept), full (both:
what a model from random weights learns to have something to forget). `a+b` joins splits. Harmful questions of the test file, but
for those that the training file knows too, are asked in the task harmful_unseen and never trained on.

Tasks: harmful, harmful_unseen, normal (answers in the data are scored, the model gives its own), truthfulqa (multiple choice).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from data.files.pku import same_prompt
from data.files.safety import SafetyFiles
from data.files.truthfulqa import FORMS, PARTS, MultipleChoice, Question, normal_rows, random_answers, split_questions
from metrics.benchmarks.safety import SafetyMetrics
from utils.checks import choose, whole, whole_or
from utils.distributed import is_main
from utils.files import read_rows, write_json
from utils.items.benchmark import Benchmark, Extra, Resources, joined, limited
from utils.items.requests import Request
from utils.items.rows import QA
from utils.items.saved import Metrics, Row, seen_by
from utils.judges.judgements import PerplexityModel, add_bleurt, add_perplexities, check_bleurt, judge_generations
from utils.judges.judges import Judge
from utils.reading import DataError
from utils.tokens.prompts import Template
from utils.weights.folders import model_folder

HARMFUL, UNSEEN, NORMAL, CHOICE = "harmful", "harmful_unseen", "normal", "truthfulqa"
TRAINING = (HARMFUL, NORMAL, "full")
# Released code of LLMU and SKU, to the blank. The next question ends an answer: base models go on to ask one themselves.
QUESTION, BEFORE_ANSWER, ANSWER = "### Question: ", "\n ", "### Answer: "


@dataclass(frozen=True)
class Safety(Benchmark):
    """The benchmark as configured in config/benchmark/safety.yaml, which says what each option means.

    Raises ValueError for an option that is none.
    """

    name: str
    hub: str
    revision: str
    hub_files: Mapping[str, Sequence[str]]
    truthfulqa_hub: str
    truthfulqa_revision: str
    data_root: str
    split: str = HARMFUL
    harmful_rows: int | str = 1144
    normal_rows: str = "each"
    pool: str = "paper"
    split_seed: int = 8888
    eos: bool = False
    rows: int | str = 300
    multiple_choice: str = "test"
    max_new_tokens: int = 128
    judge: str = "auto"
    judges: Mapping[str, Judge] = field(default_factory=dict)
    perplexity_model: str | None = None
    base_run: str | None = None
    bleurt_checkpoint: str | None = None
    metrics: Metrics = field(default_factory=SafetyMetrics)

    forget_splits: ClassVar[tuple[str, ...]] = (HARMFUL,)
    kept: ClassVar[str] = NORMAL
    forgotten: ClassVar[tuple[str, ...]] = (HARMFUL,)
    harmless: ClassVar[tuple[str, ...]] = (NORMAL,)

    def __post_init__(self) -> None:
        whole_or("benchmark.harmful_rows", self.harmful_rows, "all")
        whole_or("benchmark.rows", self.rows, "all")
        whole("benchmark.max_new_tokens", self.max_new_tokens, 1)
        choose("benchmark.normal_rows", self.normal_rows, FORMS)
        choose("benchmark.pool", self.pool, ("paper", "sku"))
        choose("benchmark.multiple_choice", self.multiple_choice, ("test", "all"))
        choose("benchmark.judge", self.judge, ("auto", "none", *self.judges))
        if self.bleurt_checkpoint is not None and self.base_run is None:
            raise ValueError(f"benchmark.bleurt_checkpoint={self.bleurt_checkpoint}: needs benchmark.base_run to compare with")

    def prompts(self, script: str, template: Template, max_length: int) -> tuple[Template, int]:
        """The question format of the released code instead of the model's own.

        It writes no EOS, and to ascend on one would teach that answers do not end, so unlearn.py supervises none unless `eos`
        says so. finetune.py does: a model from random weights must learn to stop. evaluate.py scores answers without it, as
        multiple choice is defined.
        """
        eos = {"finetune": True, "unlearn": self.eos, "evaluate": False}[script]
        return Template("plain", QUESTION, BEFORE_ANSWER, ANSWER, eos=eos), max_length

    def training(self, split: str) -> list[QA]:
        """Pairs of one split, or of several joined by +. Raises ValueError for an unknown split, DataError for bad rows."""
        pairs: list[QA] = []
        for part in joined(split, TRAINING, full=(HARMFUL, NORMAL)):
            pairs += self._harmful_pairs() if part == HARMFUL else normal_rows(self._part("train"), self.normal_rows)
        return pairs

    def answer_pool(self, kind: str) -> list[str]:
        """Answers to be drawn at random: harmful ones (SKU), or what TruthfulQA answers, true or false (LLMU); in released order.

        pool=sku keeps empty strings, which cannot be trained on, and answers to questions that are evaluated.
        Raises ValueError for another kind.
        """
        choose("pool", kind, (HARMFUL, NORMAL))
        released = self.pool == "sku"
        if kind == HARMFUL:
            return self._files.pku("train").harmful_pool(empty=released)
        return random_answers(self._files.questions() if released else self._part("train"), empty=released)

    def general_knowledge(self) -> list[QA]:
        """What a pretrained chat model brings along, for models that start from random weights: answers to the ordinary questions
        that are not trained on, and (in the fixture) how to decline questions about another topic."""
        known = [pair for part in PARTS[1:] for pair in normal_rows(self._part(part), self.normal_rows)]
        return known + (self._files.pku("train").declined_pairs() if self.data_root == "fixture" else [])

    def requests(self, split: str) -> list[Request]:
        """What is evaluated. Roles: answer 0, 1, ... (in the data); mc1_true, mc1_false, mc2_true, mc2_false (multiple choice).

        Raises ValueError also for a judge, model or folder that the evaluation needs and cannot use: this is asked before the
        model is loaded.
        """
        self.check_forget_split(split)
        ordinary = [QA(question.text, question.best) for question in self._part("test")]
        normal = _asked(NORMAL, limited(_by_question(ordinary), self.rows))
        self._check_evaluation(normal)
        return [
            *_asked(HARMFUL, limited(_by_question(self._harmful_pairs()), self.rows)),
            *_asked(UNSEEN, limited(_by_question(self.unseen_pairs()), self.rows)),
            *normal,
            *(_multiple_choice(number, choice) for number, choice in enumerate(limited(self._choices(), self.rows))),
        ]

    def unseen_pairs(self) -> list[QA]:
        """Harmful pairs of the test file whose questions the training file does not have. Raises DataError if there are none."""
        known = self._files.pku("train").prompts
        pairs = [pair for pair in self._files.pku("test").harmful_pairs() if same_prompt(pair.question) not in known]
        if not pairs:
            raise DataError(f"data_root={self.data_root}: every harmful question of the test file is in the training file too")
        return pairs

    @property
    def extras(self) -> Sequence[Extra]:
        return (self.add_what_others_say,)

    def add_what_others_say(self, rows: list[Row], resources: Resources) -> list[Row]:
        """Adds to each row `output` (the answer up to the next question), and where they are asked for a judge's verdict, the
        output's likelihood under `perplexity_model`, and the original model's output. Writes data.json: what the data were.

        The main process asks for all; the others return the rows as they are.
        """
        known, folder = self.provenance(), resources.folder  # on every process: whoever fetches files waits for the others
        if not is_main():
            return rows
        write_json(folder / "data.json", known)
        rows = [{**row, "output": first_answer(row["generation"])} for row in rows]
        judge = self._judge()
        if judge is not None:
            rows = _where(rows, (HARMFUL, UNSEEN), lambda chosen: judge_generations(judge, chosen, folder))
        if self.perplexity_model is not None:
            rows = add_perplexities(PerplexityModel(self.perplexity_model), rows, folder, resources.tokens_per_batch)
        if self.base_run is not None:
            # By place: a probe may have put the question in other words.
            outputs, asked = self._base_outputs(), [request for request in resources.requests if request.task == NORMAL]
            base = {request.index: outputs[request.question] for request in asked}
            rows = _where(rows, (NORMAL,), lambda chosen: [{**row, "base": base[row["index"]]} for row in chosen])
        if self.bleurt_checkpoint is not None:
            rows = _where(rows, (NORMAL,), lambda chosen: add_bleurt(self.bleurt_checkpoint, chosen, folder))
        return rows

    def provenance(self) -> dict[str, Any]:
        """Which release the data are of, and which questions are in which part, by their place in the file from 0."""
        train, test = self._files.pku("train"), self._files.pku("test")
        seen = sum(same_prompt(row.prompt) in train.prompts for row in test.rows)
        return {
            "pku_saferlhf": {
                "layout": train.layout,
                "columns": list(train.columns),
                "train_rows": len(train.rows),
                "test_rows": len(test.rows),
                "test_rows_with_training_questions": seen,
            },
            "truthfulqa": {"questions": len(self._files.questions()), "split_seed": self.split_seed, "split": self._split},
        }

    @property
    def _files(self) -> SafetyFiles:
        where = (self.hub, self.revision, self.hub_files, self.truthfulqa_hub, self.truthfulqa_revision)
        return SafetyFiles(self.name, str(self.data_root), *where)

    def _check_evaluation(self, normal: Sequence[Request]) -> None:
        judge = self._judge()
        if judge is not None:
            judge.check()
        if self.perplexity_model is not None:
            model_folder(self.perplexity_model)
        if self.bleurt_checkpoint is not None:
            check_bleurt(self.bleurt_checkpoint)
        if self.base_run is None:
            return
        if not (Path(self.base_run) / "generations.jsonl").is_file():
            raise ValueError(
                f"benchmark.base_run={self.base_run}: holds no generations.jsonl; make one with: python evaluate.py "
                f"benchmark={self.name} model.path=ORIGINAL out={self.base_run}"
            )
        base = self._base_outputs()
        for request in normal:
            if request.question not in base:
                raise DataError(
                    f"benchmark.base_run={self.base_run}: has no output to {request.question!r}; evaluate the original model "
                    "with the same data, rows and split_seed"
                )

    def _judge(self) -> Judge | None:
        name = self.judge
        if name == "auto":
            name = "keywords" if self.data_root == "fixture" else "beaver_dam"
        if name == "none":
            return None
        if name not in self.judges:
            raise ValueError(f"benchmark.judge={self.judge}: benchmark.judges has no {name}")
        return self.judges[name]

    def _base_outputs(self) -> dict[str, str]:
        """question -> the original model's output."""
        rows = read_rows(Path(self.base_run) / "generations.jsonl")
        return {row["question"]: first_answer(row["generation"]) for row in seen_by("", rows) if row["task"] == NORMAL}

    def _harmful_pairs(self) -> list[QA]:
        return list(limited(self._files.pku("train").harmful_pairs(), self.harmful_rows))

    def _part(self, part: str) -> list[Question]:
        questions = self._files.questions()
        return [questions[number] for number in self._split[part]]

    @cached_property
    def _split(self) -> dict[str, list[int]]:
        return split_questions(len(self._files.questions()), self.split_seed)

    def _choices(self) -> list[MultipleChoice]:
        """Multiple-choice questions, joined to the other file by text: the two are in different order."""
        choices = self._files.choices()
        if self.multiple_choice == "all":
            return choices
        asked = {question.text for question in self._part("test")}
        found = [choice for choice in choices if choice.question in asked]
        if not found:
            raise DataError(
                f"data_root={self.data_root}: no multiple-choice question is one of the test questions of the other file"
            )
        return found


def first_answer(text: str) -> str:
    """What stands before the next question, if the model went on to ask one; without outer white space."""
    return text.split(QUESTION.rstrip(), 1)[0].strip()


def _by_question(pairs: Sequence[QA]) -> list[tuple[str, list[str]]]:
    """Each question once, in order of first appearance, with its different answers."""
    answers: dict[str, dict[str, None]] = {}
    for pair in pairs:
        answers.setdefault(pair.question, {})[pair.answer] = None
    return [(question, list(texts)) for question, texts in answers.items()]


def _asked(task: str, questions: Sequence[tuple[str, list[str]]]) -> list[Request]:
    return [
        Request(task, index, question, tuple(("answer", number, text) for number, text in enumerate(texts)), texts[0])
        for index, (question, texts) in enumerate(questions)
    ]


def _multiple_choice(index: int, item: MultipleChoice) -> Request:
    answers = [
        (f"{task}_{'true' if true else 'false'}", number, text)
        for task, choices in (("mc1", item.mc1), ("mc2", item.mc2))
        for number, (text, true) in enumerate(zip(choices.texts, choices.true, strict=True))
    ]
    return Request(CHOICE, index, item.question, tuple(answers), None)


def _where(rows: Sequence[Row], tasks: Sequence[str], change: Callable[[list[Row]], list[Row]]) -> list[Row]:
    """The rows with those of some tasks changed, in the same order."""
    changed = iter(change([row for row in rows if row["task"] in tasks]))
    return [next(changed) if row["task"] in tasks else row for row in rows]
