"""Probes: the same evaluation, asked in another way. `probe=` names one; the benchmark's own metrics are then computed under it.

    paraphrase   questions in other words
    prefix       words in front of the question, or the first words of every answer given away
    sample       answers drawn at random instead of the most likely ones

A model may have unlearned one wording only, or only to begin an answer: then it fails where it was trained to fail and knows the
rest. Tasks keep their names. The retain oracle is asked in the same way, so that what compares with it still does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from utils.checks import choose, is_number, is_whole, require, whole
from utils.draws import draw
from utils.engine.sampling import Sampling
from utils.items.benchmark import Benchmark
from utils.items.probe import Probe
from utils.items.requests import Request, beginning

Source = Literal["auto", "data", "wordings"]
SLOT = "{question}"


@dataclass(frozen=True)
class Paraphrase(Probe):
    """Questions in other words; answers as they are.

    source: data (the paraphrase that comes with the data; every question must have one) | wordings (one of the sentences below) |
    auto (the data's where there is one). wordings: sentences with {question} in them, in the language of the data. Which one a
    question gets is a pure function of seed, task and index. Raises ValueError for other values.
    """

    wordings: Sequence[str]
    source: Source = "auto"
    seed: int = 0
    name: str = "paraphrase"

    lacks: ClassVar[str] = "asks no question that could be put in other words"

    def __post_init__(self) -> None:
        choose("probe.source", self.source, get_args(Source))
        bad = [wording for wording in self.wordings if not isinstance(wording, str) or SLOT not in wording or wording == SLOT]
        listed = not isinstance(self.wordings, str) and len(self.wordings) > 0 and not bad
        require(listed, "probe.wordings", self.wordings, f"a list of sentences with {SLOT} where the question belongs")
        whole("probe.seed", self.seed)

    def request(self, request: Request, benchmark: Benchmark) -> Request:
        """Raises ValueError for source=data and a question without a paraphrase."""
        if request.paraphrase is not None and self.source != "wordings":
            return replace(request, question=request.paraphrase)
        wording = self.wordings[draw(self.seed, 0, request.index, f"wording/{request.task}", len(self.wordings))]
        reworded = benchmark.with_question(request, lambda question: wording.replace(SLOT, question))
        if self.source == "data" and reworded != request:
            raise ValueError(
                f"probe.source=data: the data of benchmark={benchmark.name} hold no paraphrase of row {request.index + 1} of "
                f"task {request.task}; use probe.source=auto or wordings"
            )
        return reworded


@dataclass(frozen=True)
class Prefix(Probe):
    """A push in front of the question, or a beginning of the answer that is not to be found out any more.

    push: words in front of each question, a blank between them; "" for none. given: how much of every answer stands in the prompt
    already: a number of words from 1, or a share of its words below 1 (rounded down, but one at least); 0 for nothing. One word
    is always left. What is given is neither scored nor generated, and the generation is compared with what is left: each scored
    answer, true or false, begins with its own words, the model's own answer with those of the true one. Words are what stands
    between white space. Raises ValueError for other values, and where nothing would change.
    """

    given: float = 0.5
    push: str = ""
    name: str = "prefix"

    lacks: ClassVar[str] = "has no question to push and no answer of two words or more to begin"

    def __post_init__(self) -> None:
        count = is_whole(self.given) or is_number(self.given) and 0 <= self.given < 1
        require(count, "probe.given", self.given, "a whole number of words from 0, or a share of them below 1")
        require(isinstance(self.push, str), "probe.push", self.push, "the words in front of the question, or an empty text")
        if not self.given and not self.push.strip():
            raise ValueError("probe.given=0 and probe.push='': nothing would change; set one of them, or use probe=none")

    def request(self, request: Request, benchmark: Benchmark) -> Request:
        if self.push.strip():
            request = benchmark.with_question(request, lambda question: f"{self.push.strip()} {question}")
        texts = [text for _, _, text in request.answers] + [request.truth or ""]
        begins = any(beginning(text, self.given) for text in texts)
        return replace(request, given=self.given) if begins else request


@dataclass(frozen=True)
class Sample(Probe):
    """One answer drawn at random in place of the most likely one; scores of given answers stay as they are.

    temperature, top_p, seed: `Sampling` says what they mean. Raises ValueError for values that are none.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    name: str = "sample"

    lacks: ClassVar[str] = "asks for no answer of the model's own that could be sampled"

    def __post_init__(self) -> None:
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.seed)

    def request(self, request: Request, benchmark: Benchmark) -> Request:
        """Leaves alone what is sampled already, and what asks for no answer."""
        sampled = request.truth is None or request.sampling is not None
        return request if sampled else replace(request, sampling=self.sampling)
