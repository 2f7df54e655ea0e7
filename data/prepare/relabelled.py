"""KnowUnDo's other labels: the model reads a forget question with its answer and learns to predict something else at each token.

    random labels       uniform over the vocabulary, drawn once
    adversarial labels  the token that the original model finds likeliest, the true one left out

Question tokens are supervised as well, all but the first token of the text, which nothing predicts. Source: arXiv 2407.01920,
released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm

from utils.checks import choose
from utils.distributed import is_main
from utils.draws import dice
from utils.engine.batches import by_length
from utils.engine.engine import Engine, evaluating
from utils.items.streams import Drawn, Streams, TrainingData
from utils.shared_work import kept_json
from utils.tokens.example import IGNORED, Example
from utils.tokens.rendering import special_ids

TOKENS_PER_BATCH = 4096


@dataclass
class RelabelledStreams(Streams):
    """Stream relabelled: question and answer as one text; labels: what is to be predicted in place of each token but the first.

    Without labels (adversarial ones, before the model is loaded) the text's own tokens are.
    """

    labels: Sequence[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if tuple(self.names) != ("relabelled",):
            raise ValueError(f"method.prepare: makes the stream relabelled alone; the loss reads {', '.join(self.names)}")

    def text(self, index: int) -> Example:
        """Item `index` with every token but the first as its answer."""
        item = self.items[index]
        example = self.encode(item)
        ids = example.prompt + example.answer
        return Example(ids[:1], ids[1:])

    def draw(self, epoch: int, index: int, step: int = 0) -> Drawn:
        text = self.text(index)
        return {"relabelled": (replace(text, labels=self.labels[index]) if self.labels else text,)}


@dataclass(frozen=True)
class RandomLabels:
    """The `prepare` node of random_label. PAD, EOS, BOS and UNK keep their own id; where PAD is drawn, nothing is supervised."""

    def __call__(self, data: TrainingData) -> RelabelledStreams:
        streams = RelabelledStreams.of(data)
        streams.labels = [self._draw(streams, index) for index in range(len(streams))]
        return streams

    def _draw(self, streams: RelabelledStreams, index: int) -> tuple[int, ...]:
        tokenizer, chance = streams.encoder.tokenizer, dice(streams.seed, 0, index, "random label")
        special, drawn = special_ids(tokenizer), {streams.encoder.pad_id: IGNORED}
        labels = []
        for token in streams.text(index).answer:
            label = chance.randrange(tokenizer.vocab_size)
            labels.append(token if token in special else drawn.get(label, label))
        return tuple(labels)


@dataclass(frozen=True)
class AdversarialLabels:
    """The `prepare` node of adversarial: labels that the original model would have given.

    With an adapter that is the model without it; where all weights train, it is the model that training starts from, which has
    memorised the true answers, so that labels are its second choice.
    form: paper is equation 7: in place of token j the likeliest token after reading tokens 0 to j - 1 other than token j.
    knowundo, released code, looks one token ahead: the likeliest after reading tokens 0 to j, other than token j itself, the
    last id of the vocabulary, and PAD (there nothing is supervised). Raises ValueError for another form.
    """

    form: str = "paper"

    def __post_init__(self) -> None:
        choose("method.prepare.form", self.form, ("paper", "knowundo"))

    def __call__(self, data: TrainingData) -> AdversarialStreams:
        streams = AdversarialStreams.of(data)
        streams.form = self.form
        return streams


@dataclass
class AdversarialStreams(RelabelledStreams):
    """Labels are there once the model is."""

    form: str = "paper"

    def ready(self, engine: Engine, folder: Path) -> AdversarialStreams:
        """Asks the model, or reads labels.json of the run, where an earlier attempt left the answers."""
        answers = kept_json(folder / "labels.json", lambda: {"form": self.form, "items": self._ask(engine)})
        self.labels = [tuple(item["labels"]) for item in answers["items"]]
        return self

    def _ask(self, engine: Engine) -> list[dict]:
        labels: dict[int, list[int]] = {}
        without_adapter = engine.model.disable_adapter() if isinstance(engine.model, PeftModel) else nullcontext()
        batches = by_length([len(self.text(index).answer) for index in range(len(self))], TOKENS_PER_BATCH)
        with without_adapter:
            for batch in tqdm(batches, desc="labels", unit="batch", disable=not is_main()):
                asked = [self._asked(index) for index in batch]
                tokens = iter(likeliest(engine, asked, but_last=self.form == "knowundo"))
                labels |= {index: [next(tokens) for _ in range(len(text))] for index, text in zip(batch, asked, strict=True)}
        if self.form == "knowundo":
            pad = self.encoder.pad_id
            labels = {index: [IGNORED if token == pad else token for token in tokens] for index, tokens in labels.items()}
        decode = self.encoder.tokenizer.decode
        return [
            {
                "question": self.items[index].question,
                "text": decode([label for label in labels[index] if label != IGNORED]),
                "labels": labels[index],
            }
            for index in range(len(self))
        ]

    def _asked(self, index: int) -> Example:
        """Supervised where the model is asked, with the token that it must not say as the label."""
        text = self.text(index)
        if self.form == "paper":
            return text
        # One place later: the model has read the token that it must not repeat. The last token of an answer is never fed.
        return Example(text.prompt, text.answer + text.answer[-1:], (IGNORED, *text.answer))


@torch.no_grad()
def likeliest(engine: Engine, asked: Sequence[Example], but_last: bool = False) -> list[int]:
    """The likeliest token at every supervised place, in order, other than its label. but_last: nor the vocabulary's last id.

    Logits are there for `engine.chunk_bytes` at a time. Dropout is off.
    """
    size = max(1, engine.chunk_bytes // (4 * engine.vocabulary))
    tokens: list[Tensor] = []
    with evaluating(engine.model), torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.autocast):
        packed = engine.pack({"asked": asked}).to(engine.device)
        for states, labels in zip(engine.hidden(packed).split(size), packed.labels.split(size), strict=True):
            logits = engine.logits(states)
            logits.scatter_(1, labels[:, None], float("-inf"))
            if but_last:
                logits[:, -1] = float("-inf")
            tokens.append(logits.argmax(dim=-1))
    return torch.cat(tokens).tolist()
