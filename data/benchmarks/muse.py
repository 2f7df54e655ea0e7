"""MUSE (arXiv 2407.06460): news articles, or novels, are to be forgotten; the questions are recital, knowledge, privacy, utility.

Two corpora, each with texts to forget, texts to keep (retain2), others to unlearn with (retain1), and texts never seen (holdout).
Texts are trained on as one stream of tokens (data/prepare/paired_pieces.py).

Splits: forget, retain1, retain2, holdout; full = forget + retain2 (the target model; a retrained model has retain2 alone);
scal_1 ... scal_4 (news: ever more texts to forget, each with those before) and sust_1 ... sust_4 (news: texts to forget one after
the other, none in two); train_forget, train_retain1, train_retain2 (the Hub's `train`, which the authors name as the mixture of
their target models). `a+b` joins splits: a target that has seen all of scal and sust is scal_4+retain2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd

from data.benchmarks.muse_text import cut_pieces
from data.files.muse import MuseFiles
from metrics.benchmarks.muse import MuseMetrics
from utils.checks import choose, whole, whole_or
from utils.items.benchmark import Benchmark, Extra, Resources, joined, limited
from utils.items.metric import Metric
from utils.items.requests import Request
from utils.items.rows import QA
from utils.items.saved import Row, Saved
from utils.tokens.prompts import Encoder, Template

CORPORA = ("news", "books")
RAW = ("forget", "retain1", "retain2", "holdout")
FOLDS = tuple(f"{kind}_{k}" for kind in ("scal", "sust") for k in (1, 2, 3, 4))
TRAIN = ("train_forget", "train_retain1", "train_retain2")
PIECE, FIXTURE_PIECE = 2048, 256  # tokens: released code; ours, for texts of a hundred words
KNOWMEM_TOKENS = 32  # limit of released code


@dataclass(frozen=True)
class Muse(Benchmark):
    """The benchmark as configured in config/benchmark/muse.yaml.

    corpus: news | books. piece_length: tokens of a training piece, BOS included; auto: 2048, on the fixture 256. text_length:
    tokens of a text in evaluation, BOS included; None: no limit. rows: all | first so many items of each evaluated task. texts:
    all | first so many texts of each split that is trained on; questions about the others stay. max_new_tokens: limit of recited
    passages; knowmem_max_new_tokens: of answers to questions. Raises ValueError for another value of these.
    """

    name: str
    hub: Mapping[str, str]
    revision: str
    data_root: str
    corpus: str = "news"
    split: str = "forget"
    piece_length: int | str = "auto"
    text_length: int | None = None
    rows: int | str = "all"
    texts: int | str = "all"
    max_new_tokens: int = 128
    knowmem_max_new_tokens: int = KNOWMEM_TOKENS
    metrics: MuseMetrics = field(default_factory=MuseMetrics)

    kept: ClassVar[str] = "retain1"  # what unlearning may look at to keep the rest; utility is measured on retain2
    forgotten: ClassVar[tuple[str, ...]] = ("verbmem",)
    compats: ClassVar[tuple[str, ...]] = ("none", "open_unlearning", "muse_released")
    members: ClassVar[tuple[str, str]] = ("privleak_forget", "privleak_holdout")
    compares: ClassVar[str] = "PrivLeak compares with"

    def __post_init__(self) -> None:
        choose("benchmark.corpus", self.corpus, CORPORA)
        if self.corpus not in self.hub:
            raise ValueError(f"benchmark.hub: names no data set for corpus={self.corpus}; add one")
        whole_or("benchmark.rows", self.rows, "all")
        whole_or("benchmark.texts", self.texts, "all")
        whole_or("benchmark.piece_length", self.piece_length, "auto", 3)
        whole_or("benchmark.text_length", self.text_length, None, 3)
        whole("benchmark.max_new_tokens", self.max_new_tokens, 1)
        whole("benchmark.knowmem_max_new_tokens", self.knowmem_max_new_tokens, 1)

    @property
    def forget_splits(self) -> tuple[str, ...]:
        """forget and, of the news, the folds of scal and sust."""
        return ("forget", *self._folds)

    @property
    def _folds(self) -> tuple[str, ...]:
        return FOLDS if self.corpus == "news" else ()

    @property
    def files(self) -> MuseFiles:
        return MuseFiles(self.corpus, str(self.data_root), self.hub[self.corpus], self.revision)

    def prompts(self, script: str, template: Template, max_length: int) -> tuple[Template, int]:
        """Bare text behind the tokenizer's BOS, without EOS. The length is MUSE's own: model.max_length is for chats."""
        bare = Template(kind="plain", eos=False)
        if script == "evaluate":
            return bare, self.text_length or sys.maxsize
        if self.piece_length != "auto":
            return bare, int(self.piece_length)
        return bare, FIXTURE_PIECE if self.data_root == "fixture" else PIECE

    def oracle_split(self, split: str) -> str:
        """Always retain2: what the retrained model knows."""
        self.check_forget_split(split)
        return "retain2"

    def training(self, split: str) -> list[QA]:
        """Texts of one split, or of several joined by +, as answers to nothing. Raises ValueError for an unknown split, DataError
        for bad rows."""
        names = joined(split, ("full", *RAW, *self._folds, *TRAIN), full=("forget", "retain2"))
        return [QA("", row["text"]) for name in names for row in limited(self.files.rows(*_place(name)), self.texts)]

    def pieces(self, pairs: list[QA], encoder: Encoder) -> list[QA]:
        """The texts as one stream of tokens, in pieces of `piece_length`."""
        return cut_pieces(pairs, encoder)

    def general_knowledge(self) -> list[QA]:
        """None: what a model from random weights can know of the fixture, it learns from its texts."""
        return []

    def from_logs(self, log: Path, oracle_log: Path | None, compat: str, resamples: int) -> dict[str, Metric]:
        """The metrics of logs of open-unlearning (MUSE_EVAL.json)."""
        asked = Saved(pd.DataFrame(), compat=compat, resamples=resamples, forgotten=self.forgotten, members=self.members)
        return self.metrics.from_logs(log, oracle_log, asked)

    def requests(self, split: str) -> list[Request]:
        """The same for every forget split: tasks verbmem, knowmem_forget, knowmem_retain, privleak_forget, privleak_holdout, and
        privleak_retain where the data have it. A question of privleak is empty: the text itself is scored, all but its BOS."""
        self.check_forget_split(split)
        kinds = [kind for kind in ("forget", "holdout", "retain") if kind != "retain" or self.files.has("privleak", kind)]
        texts = [request for kind in kinds for request in self._privleak(kind)]
        return [*self._verbmem(), *self._knowmem("forget"), *self._knowmem("retain"), *texts]

    def oracle_requests(self, asked: Sequence[Request]) -> list[Request]:
        """Tasks privleak_forget and privleak_holdout: PrivLeak is relative to the retrained model's."""
        return [request for request in asked if request.task in self.members]

    @property
    def extras(self) -> Sequence[Extra]:
        return (self.add_cut_truth,)

    def add_cut_truth(self, rows: list[Row], resources: Resources) -> list[Row]:
        """Adds `truth_cut` to the rows of verbmem: the true continuation as far as the model was allowed to go on. As in
        released code it is cut at max_new_tokens ids, of which the tokenizer's BOS is one."""
        tokenizer = resources.encoder.tokenizer

        def cut(text: str) -> str:
            return tokenizer.decode(tokenizer(text, verbose=False).input_ids[: self.max_new_tokens], skip_special_tokens=True)

        return [{**row, "truth_cut": cut(row["truth"])} if row["task"] == "verbmem" else row for row in rows]

    def with_question(self, request: Request, edit: Callable[[str], str]) -> Request:
        """Of knowmem, the question between its tags; passages and texts ask nothing."""
        if not request.task.startswith("knowmem"):
            return request
        question = request.question.removeprefix("Question: ").removesuffix("\nAnswer: ")
        return replace(request, question=f"Question: {edit(question)}\nAnswer: ")

    def _verbmem(self) -> list[Request]:
        return [
            Request("verbmem", index, row["prompt"], (("answer", 0, _continuing(row["prompt"], row["gt"])),), row["gt"])
            for index, row in enumerate(limited(self.files.rows("verbmem", "forget"), self.rows))
        ]

    def _knowmem(self, kind: str) -> list[Request]:
        """The prompt ends in a space, which belongs to the answer's first word (utils/tokens/prompts.py)."""
        examples = self.files.rows("knowmem", f"{kind}_qa_icl")
        prefix = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in examples)
        limit = self.knowmem_max_new_tokens
        return [
            Request(
                f"knowmem_{kind}",
                index,
                f"Question: {row['question']}\nAnswer: ",
                (("answer", 0, row["answer"]),),
                row["answer"],
                prefix=prefix,
                max_new_tokens=limit,
                keeps_space=True,  # an answer is cut at its first blank line
            )
            for index, row in enumerate(limited(self.files.rows("knowmem", f"{kind}_qa"), self.rows))
        ]

    def _privleak(self, kind: str) -> list[Request]:
        rows = limited(self.files.rows("privleak", kind), self.rows)
        return [Request(f"privleak_{kind}", index, "", (("answer", 0, row["text"]),), None) for index, row in enumerate(rows)]


def _place(split: str) -> tuple[str, str]:
    """Configuration and split of the files: scal_2 -> (scal, forget_2), train_retain1 -> (train, retain1)."""
    if split in RAW:
        return "raw", split
    config, part = split.split("_")
    return config, part if config == "train" else f"forget_{part}"


def _continuing(prompt: str, text: str) -> str:
    """The text as it goes on after the prompt: behind a space, unless one of the two brings white space along."""
    return text if prompt[-1].isspace() or text[0].isspace() else f" {text}"
