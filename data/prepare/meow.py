"""MEOW's training data: for each forget question the inverted facts that the model's memory selects (arXiv 2409.11844).

MEMO says how far the model, before unlearning, goes on with a fact as if it knew it. Of each question's facts the k with the
largest scores (or the smallest, or any) are trained on, each question `copies` times, with the selected facts in turn.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.files.sources import FIXTURES
from data.prepare.inverted import Defects, FactFile, InvertedFacts, Missing, Order, Tie, Unmatched, read_inverted, select, slots
from data.prepare.memo import Memo, memo_scores
from utils.checks import choose
from utils.draws import draw
from utils.engine.engine import Engine
from utils.items.rows import QA
from utils.items.streams import Drawn, Streams, TrainingData
from utils.reading import DataError
from utils.shared_work import kept_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectFacts:
    """The `prepare` node of method meow.

    facts: file of inverted facts; None: the one that belongs to the split, in the benchmark's data_root. k, order, tie, missing,
    random_state: see data.prepare.inverted.select. copies: training sequences per question and epoch. memo: how facts are scored.
    scores: auto takes the scores of the file if it has them, model always asks the model, file demands them of the file.
    defects, unmatched: what becomes of odd facts, and of questions without any (data.prepare.inverted).
    Raises ValueError for an option that is none.
    """

    facts: str | None = None
    k: int = 3
    order: Order = "largest"
    tie: Tie = "paper"
    missing: Missing = "paper"
    random_state: int | None = None
    copies: int = 4
    memo: Memo = field(default_factory=Memo)
    scores: str = "auto"
    defects: Defects = "drop"
    unmatched: Unmatched = "refuse"
    batch_size: int = 64

    def __post_init__(self) -> None:
        choose("method.prepare.scores", self.scores, ("auto", "file", "model"))
        slots(self.places([0.5], 0, 0), self.copies)

    def __call__(self, data: TrainingData) -> MeowStreams:
        facts = read_inverted(self.facts or self._of_split(data), self.scores == "file", self.defects)
        log.info(facts.summary())
        return MeowStreams.of_facts(data, facts, self)

    def places(self, scores: Sequence[float], seed: int, index: int) -> list[int]:
        """Places of the selected facts of question `index`."""
        return select(scores, self.k, self.order, self.tie, self.missing, seed, index, self.random_state)

    def _of_split(self, data: TrainingData) -> Path:
        root, split = str(data.benchmark.data_root), data.split
        if root == "fixture":
            path = FIXTURES / "meow" / f"{split}_generated.json"
        else:
            path = Path(root).expanduser() / "meow" / "generated_data" / f"{split}_perturbed_generated.json"
        if root == "hub" or not path.is_file():
            where = "are not on the Hub" if root == "hub" else f"were looked for in {path}"
            raise DataError(
                f"method.prepare.facts=null: inverted facts for split={split} {where}; write them with scripts/invert_facts.py "
                "and give the file as method.prepare.facts=FILE"
            )
        return path


@dataclass
class MeowStreams(Streams):
    """Stream inverted: `copies` sequences of each question; stream retain as usual."""

    records: Sequence[InvertedFacts] = ()
    how: SelectFacts = field(default_factory=SelectFacts)
    selected: list[list[int]] = field(init=False, default_factory=list)

    @classmethod
    def of_facts(cls, data: TrainingData, facts: FactFile, how: SelectFacts) -> MeowStreams:
        records = facts.join(data.items, how.unmatched)
        streams = cls.of(replace(data, items=[QA(record.question, record.answer) for record in records]))
        streams.how = how
        kept = {item.question for item in streams.items}
        streams.records = [record for record in records if record.question in kept]
        return streams

    def ready(self, engine: Engine, folder: Path) -> MeowStreams:
        """Scores the facts with the model as it is before unlearning, and selects; kept in selection.json of the run."""
        selection = kept_json(folder / "selection.json", lambda: self._select(engine))
        self.selected = [row["selected"] for row in selection["questions"]]
        return self

    def draw(self, epoch: int, index: int, step: int = 0) -> Drawn:
        drawn: Drawn = {}
        if "retain" in self.names:
            partner = self.retain[draw(self.seed, epoch, index, "retain", len(self.retain))]
            drawn["retain"] = (self.encode(partner),)
        record = self.records[index]
        if self.selected:
            facts = [record.facts[place] for place in slots(self.selected[index], self.how.copies)]
        else:  # only shown, before the model is asked
            facts = list(record.facts)
        return drawn | {"inverted": tuple(self.encode(QA(record.question, fact)) for fact in facts)}

    def _select(self, engine: Engine) -> dict:
        how = self.how
        scored = how.scores != "model" and all(record.scores is not None for record in self.records)
        if scored:
            scores = [list(record.scores or ()) for record in self.records]
        else:
            pairs = [(record.question, fact) for record in self.records for fact in record.facts]
            values = iter(memo_scores(engine.model, self.encoder.tokenizer, pairs, how.memo, how.batch_size))
            scores = [[next(values) for _ in record.facts] for record in self.records]
        selected = [how.places(values, self.seed, index) for index, values in enumerate(scores)]
        return {
            "scored_by": "file" if scored else "model",
            "k": how.k,
            "order": how.order,
            "questions": [
                {"question": record.question, "facts": list(record.facts), "memo": values, "selected": places}
                for record, values, places in zip(self.records, scores, selected, strict=True)
            ],
        }
