"""Completion of a book, as Harry Potter in FLAT (arXiv 2410.11143): the model has memorised passages, and is asked to go on.

A passage of about 380 words is cut after K = 200. The question is an instruction, a colon and the first K words, the answer is
the rest. Splits: forget (passages of the book, behind instructions that training shows), holdout (passages between these, never
part of full), forget_text (the forgotten passages as plain text), retain (plain text of another source), full = forget + retain;
`a+b` joins splits: FLAT's released code memorises rows and plain text, as full+forget_text. Rows are template-major: all passages
behind the first instruction, then all behind the second.

The paper's book is one that nobody may share: here it is any book of the user's, or the rows of the paper's released files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data.files.book import SLACK, Excerpt, kept_out
from data.files.completion import KINDS, Corpus, has_released, read_books, read_passages, read_released, text_files
from data.files.sources import local_root
from metrics.benchmarks.completion import FORGOTTEN, HOLDOUT, TASKS, CompletionMetrics
from utils.checks import choose, is_number, require, whole, whole_or
from utils.items.benchmark import Benchmark, Extra, Resources, joined, limited
from utils.items.requests import Request
from utils.items.rows import QA, Passage
from utils.items.saved import Metrics, Row
from utils.reading import DataError, read_lines
from utils.tokens.example import EmptyAnswer
from utils.tokens.prompts import Encoder, Template

if TYPE_CHECKING:
    from utils.engine.generation import Released

log = logging.getLogger(__name__)

SPLITS = ("full", "forget", "holdout", "forget_text", "retain")
OWN = Template("plain", question_start="### Question: ", question_end="\n", answer_tag="### Answer: ")
MAX_LENGTH = 1024  # tokens in all, where the model's own limit is not lower


@dataclass(frozen=True)
class Completion(Benchmark):
    """The benchmark as configured in config/benchmark/completion.yaml.

    book, retain: a file or several, by path or by name in DIR/completion and DIR/completion/retain; null: all that lie there.
    words, prefix: of a passage, and of its given part. passages: all | at most so many are forgotten. holdout: share of the
    passages that is kept out. instructions: rows per passage, each with another instruction. retain_passages: all | at most so
    many. rows: all | evaluated passages of each task, the first ones. template: own (FLAT's tags, at most 1024 tokens) | model.
    """

    name: str
    data_root: str
    book: str | list[str] | None = None
    retain: str | list[str] | None = None
    split: str = "forget"
    words: int = 380
    prefix: int = 200
    passages: int | str = 400
    holdout: float = 0.2
    instructions: int = 1
    retain_passages: int | str = 400
    rows: int | str = "all"
    template: str = "own"
    max_new_tokens: int = 300
    metrics: Metrics = field(default_factory=CompletionMetrics)

    forget_splits: ClassVar[tuple[str, ...]] = ("forget",)
    kept: ClassVar[str] = "retain"
    forgotten: ClassVar[tuple[str, ...]] = FORGOTTEN
    members: ClassVar[tuple[str, str]] = ("train", HOLDOUT)

    def __post_init__(self) -> None:
        for name in ("words", "prefix", "instructions", "max_new_tokens"):
            whole(f"benchmark.{name}", vars(self)[name], 1)
        for name in ("passages", "retain_passages", "rows"):
            whole_or(f"benchmark.{name}", vars(self)[name], "all")
        below_1 = is_number(self.holdout) and 0 <= self.holdout < 1
        require(below_1, "benchmark.holdout", self.holdout, "a share of the passages, from 0 and below 1")
        choose("benchmark.template", self.template, ("own", "model"))
        least = self.words - self.words // SLACK
        if self.prefix >= least:
            raise ValueError(
                f"benchmark.prefix={self.prefix}: with benchmark.words={self.words} a passage may have {least} words only, and "
                "some must be left to complete; set prefix lower or words higher"
            )

    def prompts(self, script: str, template: Template, max_length: int) -> tuple[Template, int]:
        """FLAT's tags for every model, or with template=model what the model brings."""
        return (template, max_length) if self.template == "model" else (OWN, min(MAX_LENGTH, max_length))

    def training(self, split: str) -> list[QA]:
        """Rows of one split, or of several joined by +; plain text has an empty question.

        Raises ValueError for an unknown split, DataError for files that are missing or bad.
        """
        names = joined(split, SPLITS, full=("forget", "retain"))
        lists = {name: self._list(name) for name in dict.fromkeys(names)}
        return [pair for name in names for pair in lists[name]]

    def pieces(self, pairs: list[QA], encoder: Encoder) -> list[QA]:
        """Plain text as token ids, cut at the encoder's length; says how many answers are cut there."""
        room = encoder.max_length - (encoder.tokenizer.bos_token_id is not None)
        cut = [_cut_short(encoder, pair) is not None for pair in pairs if pair.question]
        if any(cut):
            _say_cut(sum(cut), len(cut), encoder)
        return [pair if pair.question else _passage(encoder, pair.answer, room) for pair in pairs]

    def general_knowledge(self) -> list[QA]:
        """In the fixture, as many passages of a third text as are kept, behind instructions of both kinds: every other one goes
        on, and is refused in between. A model from random weights learns what is asked, and that one may decline. Books of the
        user's are for pretrained models, which know both."""
        if self.data_root != "fixture":
            return []
        folder = self._folder / "known"
        corpus = read_books([folder / "known.txt"], self.words, self.prefix)
        refusals = read_lines(folder / "refusals.txt")
        asked = [instruction for pair in zip(*(corpus.instructions[kind] for kind in KINDS), strict=True) for instruction in pair]
        texts = limited(corpus.excerpts, self.retain_passages)
        pairs = [_pair(asked[place // 2 % len(asked)], text) for place, text in enumerate(texts)]
        return [
            replace(pair, answer=refusals[place // 2 % len(refusals)]) if place % 2 else pair for place, pair in enumerate(pairs)
        ]

    def requests(self, split: str) -> list[Request]:
        """Tasks train and test: the forgotten passages behind instructions that training shows, and behind held-out ones; each
        is the paraphrase of the other. Task holdout: passages that were never trained on, behind the instructions of train."""
        self.check_forget_split(split)
        corpus, *parts = self._parts()
        forget, holdout = (limited(part, self.rows) for part in parts)
        asked = {kind: self._instructions(corpus, kind) for kind in KINDS}
        found = []
        for task, kind, texts in (("train", "train", forget), ("test", "test", forget), (HOLDOUT, "train", holdout)):
            for block, instruction in enumerate(asked[kind]):
                other = asked["test" if kind == "train" else "train"][block]
                for place, text in enumerate(texts):
                    found.append(_request(task, block * len(texts) + place, instruction, text, other))
        return found

    def with_question(self, request: Request, edit: Callable[[str], str]) -> Request:
        """As it is: an instruction and running text ask nothing."""
        return request

    def released(self, compat: str) -> Released | None:
        """compat=flat_released: FLAT's code (arXiv 2410.11143), 600 tokens in all, batches of 16, one new token lost."""
        from utils.engine.generation import Released  # needs torch, which metrics from files do without

        return Released(batch_size=16, total=600, dropped=1) if compat == "flat_released" else None

    def oracle_requests(self, asked: Sequence[Request]) -> list[Request]:
        """The same: the FQ Gap compares with the completions of a model that never saw the book."""
        return list(asked)

    @property
    def extras(self) -> Sequence[Extra]:
        return (self.add_passages,)

    def add_passages(self, rows: list[Row], resources: Resources) -> list[Row]:
        """Adds to each row `passage`, the number that rows of one passage share, and cuts `truth` where max_length cut what
        was learnt. compat=flat_released compares with the answer tag and the whole rest instead, as that code does."""
        encoder = resources.encoder
        counts = {task: sum(request.task == task for request in resources.requests) // self.instructions for task in TASKS}
        found, cut = [], 0
        for row in rows:
            truth = row["truth"]
            if encoder.compat == "flat_released":
                truth = encoder.template.answer_tag + truth
            elif (shorter := _cut_short(encoder, QA(row["question"], truth))) is not None:
                truth, cut = shorter, cut + 1
            found.append({**row, "passage": row["index"] % counts[row["task"]], "truth": truth})
        if cut:
            _say_cut(cut, len(found), encoder)
        return found

    def _list(self, name: str) -> list[QA]:
        if name == "retain":
            limit = None if self.retain_passages == "all" else int(self.retain_passages)
            read = (read_passages(path, self.words, rest=True, limit=limit) for path in self._retain_files())
            return [QA("", text) for text in islice(chain.from_iterable(read), limit)]
        corpus, forget, holdout = self._parts()
        if self.passages != "all" and len(forget) < int(self.passages):
            log.warning("benchmark.passages=%s: the book gives %d, all of which are taken", self.passages, len(forget))
        if name == "forget_text":
            return [QA("", text.whole) for text in forget]
        asked = self._instructions(corpus, "train")
        return [_pair(instruction, text) for instruction in asked for text in (forget if name == "forget" else holdout)]

    def _parts(self) -> tuple[Corpus, list[Excerpt], list[Excerpt]]:
        """The corpus, what of it is forgotten, and what is kept out: both from the same part of the book."""
        corpus = self._corpus()
        out = kept_out(len(corpus.excerpts), self.holdout)
        parts: tuple[list[Excerpt], list[Excerpt]] = ([], [])
        for text, held in zip(corpus.excerpts, out, strict=True):
            if self.passages != "all" and len(parts[0]) == int(self.passages) and not held:
                break
            parts[held].append(text)
        if not parts[0] or (self.holdout and not parts[1]):
            raise DataError(
                f"benchmark.holdout={self.holdout}: of {len(corpus.excerpts)} passages nothing is left for "
                f"{'holdout' if parts[0] else 'forget'}; give a longer book, or set benchmark.words lower"
            )
        return corpus, *parts

    def _corpus(self) -> Corpus:
        if self.book is None and has_released(self._folder):
            if books := text_files(self._folder):
                raise DataError(
                    f"{self._folder}: holds released rows and {books[0].name}; remove one, or name the book: benchmark.book"
                )
            return read_released(self._folder, self.prefix)
        return read_books(self._files("book", self.book, self._folder), self.words, self.prefix)

    def _retain_files(self) -> list[Path]:
        """Raises DataError if the book is among them: a model that learnt them must not have seen it."""
        found = self._files("retain", self.retain, self._folder / "retain")
        books = text_files(self._folder) if self.book is None else self._files("book", self.book, self._folder)
        for path in found:
            if path.resolve() in [book.resolve() for book in books]:
                raise DataError(f"benchmark.retain={path}: that is the book to be forgotten; what is kept must be another text")
        return found

    def _instructions(self, corpus: Corpus, kind: str) -> Sequence[str]:
        known = corpus.instructions[kind]
        if self.instructions > len(known):
            raise ValueError(
                f"benchmark.instructions={self.instructions}: there are {len(known)} {kind} instructions; write fewer"
            )
        return known[: self.instructions]

    @property
    def _folder(self) -> Path:
        return local_root(str(self.data_root)) / self.name

    def _files(self, dial: str, named: str | list[str] | None, folder: Path) -> list[Path]:
        if named is None:
            found = [] if self.data_root == "hub" else text_files(folder)
            if not found:
                where = "the Hub has no book" if self.data_root == "hub" else f"{folder} holds no .txt, .raw or .jsonl file"
                raise DataError(f"data_root={self.data_root}: {where}; put a text there, or name it with benchmark.{dial}=FILE")
            return found
        paths = [Path(name).expanduser() for name in ([named] if isinstance(named, str) else named)]
        found = [path if path.is_file() else folder / path for path in paths]
        for path, tried in zip(paths, found, strict=True):
            if not tried.is_file():
                raise DataError(f"benchmark.{dial}={path}: there is no such file, nor is it in {folder}")
        return found


def _pair(instruction: str, text: Excerpt) -> QA:
    return QA(f"{instruction}: {text.prefix}", text.rest)


def _request(task: str, index: int, instruction: str, text: Excerpt, other: str) -> Request:
    pair = _pair(instruction, text)
    return Request(task, index, pair.question, (("answer", 0, pair.answer),), pair.answer, paraphrase=_pair(other, text).question)


def _passage(encoder: Encoder, text: str, room: int) -> Passage:
    return Passage("", text, tuple(encoder.tokenizer(text, add_special_tokens=False, verbose=False).input_ids[:room]))


def _cut_short(encoder: Encoder, pair: QA) -> str | None:
    """What is left of an answer that max_length cuts; None if it is whole, or if nothing is left of it."""
    try:
        example = encoder.example(pair.question, pair.answer)
    except EmptyAnswer:
        return None  # whoever trains on it or scores it says so
    length, eos = len(example.prompt) + len(example.answer), encoder.tokenizer.eos_token_id
    if length < encoder.max_length or (length == encoder.max_length and example.answer[-1] == eos):
        return None
    # The cut may go through a character: what is left of it is no text.
    return encoder.tokenizer.decode(list(example.answer), skip_special_tokens=True).rstrip("\N{REPLACEMENT CHARACTER}").strip()


def _say_cut(cut: int, count: int, encoder: Encoder) -> None:
    log.warning(
        "%d of %d completions are cut at max_length=%d: raise model.max_length, or set benchmark.words lower",
        cut,
        count,
        encoder.max_length,
    )
