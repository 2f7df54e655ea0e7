"""Language generation as MEOW measures it (arXiv 2409.11844, released code): short texts of WikiText and CC-News, continued from
their first 32 tokens.

Evaluation only. Prompts are token ids, cut from the ids of the whole text: a cut text may have others when it is tokenised. So
there are no requests: an extra continues the prompts, each for as many tokens as its text has left, at least one, and greedily
(the released code left sampling to the checkpoint). Texts are measured and continued without outer blanks. The released code
draws from the training splits; a folder may hold the test split of WikiText instead: metrics.json says which.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from data.files.sources import hub_rows
from data.files.utility import existing
from metrics.benchmarks.nlg import CONTINUED, MAUVE, SCORED, NlgMetrics, scored_pairs
from utils.checks import choose, flag, several, whole, whole_or
from utils.distributed import is_main
from utils.draws import generator
from utils.items.benchmark import EvaluationOnly, Extra, Resources
from utils.items.requests import Request
from utils.items.saved import Metrics, Row
from utils.reading import TEXT, DataError, check_rows, read_json_lines, read_text
from utils.shared_work import kept_rows
from utils.tokens.prompts import Template

CORPORA = ("wikitext", "cc_news")
FILES = {"wikitext": ("wikitext/wiki.train.raw", "wikitext/wiki.test.raw"), "cc_news": ("cc_news/train.jsonl",)}
SHORTEST, LONGEST = 100, 200  # characters, both excluded
PROMPT = 32  # tokens


@dataclass(frozen=True)
class Nlg(EvaluationOnly):
    """The benchmark as configured in config/benchmark/nlg.yaml, which says what each option means.

    Raises ValueError for an option that is none, or for mauve=true without the package.
    """

    name: str
    wikitext_hub: str
    wikitext_revision: str
    cc_news_hub: str
    cc_news_revision: str
    data_root: str
    split: str = EvaluationOnly.SPLIT
    corpora: Sequence[str] = CORPORA
    rows: int | str = 5000
    seed: int = 42
    scored: str = "continuation"
    mauve: bool = False
    metrics: Metrics = field(default_factory=NlgMetrics)

    max_new_tokens: ClassVar[int] = 1  # of requests, and there are none; a text's own length is its limit

    def __post_init__(self) -> None:
        several("benchmark.corpora", self.corpora, CORPORA)
        whole_or("benchmark.rows", self.rows, "all", words="texts; released code: 5000")
        whole("benchmark.seed", self.seed)
        choose("benchmark.scored", self.scored, SCORED)
        flag("benchmark.mauve", self.mauve)
        if self.mauve and importlib.util.find_spec("mauve") is None:
            raise ValueError(
                "benchmark.mauve=true: the package is not installed; pip install mauve-text, or leave benchmark.mauve out"
            )

    def prompts(self, script: str, template: Template, max_length: int) -> tuple[Template, int]:
        """Bare text: no tags, no chat template."""
        return Template("plain", eos=False), max_length

    def requests(self, split: str) -> list[Request]:
        """None: prompts are token ids, which no request has. The texts are read here, before a model is loaded."""
        self.check_forget_split(split)
        _ = self.texts
        return []

    @cached_property
    def texts(self) -> list[str]:
        """The texts to continue: of all that are neither too short nor too long, `rows` drawn by `seed`."""
        known = [text for name in self.corpora for text in self._read(name) if SHORTEST < len(text) < LONGEST]
        if not known:
            raise DataError(
                f"data_root={self.data_root}: no text of {', '.join(self.corpora)} has more than {SHORTEST} and fewer than "
                f"{LONGEST} characters"
            )
        count = len(known) if self.rows == "all" else min(int(self.rows), len(known))
        return generator("nlg", self.seed).sample(known, count)

    @property
    def extras(self) -> Sequence[Extra]:
        """The continuations, and with mauve=true a row that holds its value."""
        return (self.add_continuations, *([self.add_mauve] if self.mauve else []))

    def add_continuations(self, rows: list[Row], resources: Resources) -> list[Row]:
        """Adds one row per text: question (the prompt's text), generation and truth (what follows it, said and given), output
        and text (all of it, said and given, output with special tokens)."""
        source = " + ".join(self._split(name) for name in self.corpora)
        compute = partial(continued, resources, self.texts, source)
        return rows + kept_rows(resources.folder / "parts" / f"{CONTINUED}.jsonl", compute)

    def add_mauve(self, rows: list[Row], resources: Resources) -> list[Row]:
        """Adds a row with MAUVE of the others."""
        return rows + kept_rows(resources.folder / "parts" / f"{MAUVE}.jsonl", partial(_mauve, rows, self.scored))

    def _split(self, name: str) -> str:
        """The corpus and the split that is drawn from."""
        if self.data_root == "hub":
            return f"{'wikitext-103' if name == 'wikitext' else name} train"
        return f"{name} {self._file(name).name.split('.')[1] if name == 'wikitext' else 'train'}"

    def _file(self, name: str) -> Path:
        try:
            return existing(self.data_root, FILES[name])
        except DataError as error:
            raise DataError(f"{error}, or leave {name} out of benchmark.corpora") from error

    def _read(self, name: str) -> Iterable[str]:
        """Texts without outer blanks."""
        if self.data_root == "hub":
            hub, configuration, revision = {
                "wikitext": (self.wikitext_hub, "wikitext-103-raw-v1", self.wikitext_revision),
                "cc_news": (self.cc_news_hub, None, self.cc_news_revision),
            }[name]
            return _texts(hub, hub_rows(hub, configuration, "train", revision, FILES[name][0]))
        path = self._file(name)
        if name == "wikitext":
            return (line.strip() for line in read_text(path).split("\n"))
        return _texts(path, read_json_lines(path))


def continued(resources: Resources, texts: Sequence[str], corpora: str) -> list[Row]:
    """One row per text, by index, on every process."""
    from utils.evaluation.scoring import continue_greedily  # needs torch, which metrics from files do without

    engine, encoder, decode = resources.engine, resources.encoder, resources.encoder.tokenizer.decode
    ids = [encoder.generation_prompt(text) for text in texts]
    prompts = [whole[:PROMPT] for whole in ids]
    # Texts that have as much left are in one batch.
    lengths, rooms = [len(whole) for whole in ids], [max(1, len(whole) - PROMPT) for whole in ids]
    said = continue_greedily(engine, encoder, prompts, lengths, rooms, resources.generation_batch_size)
    return [
        {
            "task": CONTINUED,
            "index": index,
            "question": decode(prompts[index], skip_special_tokens=True),
            "generation": decode(said[index], skip_special_tokens=True),
            "truth": decode(ids[index][PROMPT:], skip_special_tokens=True),
            "output": decode([*prompts[index], *said[index]]),
            "text": text,
            "corpora": corpora,
        }
        for index, text in enumerate(texts)
    ]


def _texts(where: Path | str, rows: Sequence[dict]) -> Iterable[str]:
    """The field `text` of every row, which may be empty. Raises DataError naming the first row without it."""
    return (row["text"].strip() for row in check_rows(where, rows, {"text": TEXT}))


def _mauve(rows: Sequence[Row], scored: str) -> list[Row]:
    """MAUVE with the released settings and the package's own features. The main process asks; the others read its file."""
    if not is_main():
        return []
    import torch
    from mauve import compute_mauve  # optional; both are slow to import

    pairs = [pair for pair in scored_pairs(rows, scored) if pair[0].strip()]  # an empty text has no features
    if not pairs:
        return []
    value = compute_mauve(
        p_text=[given for _, given in pairs],
        q_text=[said for said, _ in pairs],
        mauve_scaling_factor=2,
        max_text_length=256,
        device_id=torch.cuda.current_device() if torch.cuda.is_available() else -1,
        verbose=False,
    )
    return [{"task": MAUVE, "index": 0, "scored": scored, "value": float(value.mauve), "n": len(pairs)}]
