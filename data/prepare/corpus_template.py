"""FLAT's template branch on Harry Potter as its release has it: no answer to the prompt, but a text of its own.

The paper (arXiv 2410.11143) describes a refusal behind the same prompt, which is the default here
(`method.templates.kind=refusal`); `method.templates.kind=normal` puts a text to keep there instead. The released code trains its
template branch on a random document of C4 alone, without a prompt and with every token supervised, which needs retain data:

    python unlearn.py method=flat benchmark=completion model=tiny model.path=runs/target method.templates.kind=normal
      +method.prepare._target_=data.prepare.corpus_template.CorpusTemplate

Labels end with the text; the release supervises the padding behind it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from utils.draws import draw
from utils.items.rows import QA
from utils.items.streams import Drawn, Streams, TrainingData


@dataclass(frozen=True)
class CorpusTemplate:
    """The `prepare` node: stream `template` holds texts to keep, cut at the encoder's length, instead of answers."""

    def __call__(self, data: TrainingData) -> CorpusTemplateStreams:
        """Raises ValueError if the loss reads no template, or its answers are refusals."""
        if "template" not in data.names:
            raise ValueError(f"method.prepare: changes the stream template; the loss reads {', '.join(data.names)}")
        if not set(data.templates) <= {pair.answer for pair in data.retain}:
            raise ValueError("method.templates.kind=refusal: a text of its own comes from retain data; write normal")
        streams = CorpusTemplateStreams.of(data)
        streams.texts = data.retain
        return streams


@dataclass
class CorpusTemplateStreams(Streams):
    """Draws template texts as `Streams` draws template answers: anew in every epoch (per_access), or once (fixed)."""

    texts: Sequence[QA] = ()

    def draw(self, epoch: int, index: int, step: int = 0) -> Drawn:
        when = epoch if self.template_policy == "per_access" else 0
        text = self.texts[draw(self.seed, when, index, "template", len(self.texts))]
        return super().draw(epoch, index, step) | {"template": (self.encode(text),)}
