"""Replies of a Hugging Face model on this machine, drawn at a temperature: the counterpart of utils/judges/endpoint.py.

What is drawn is a pure function of the seed, the request and its attempt: which others share the batch has no influence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LogitsProcessor, PreTrainedTokenizerBase

from utils.checks import not_negative, require, whole
from utils.draws import torch_generator
from utils.engine.batches import by_length
from utils.engine.continuations import continue_ids, end_ids, pad_id, prompt_ids
from utils.fingerprint import text_hash
from utils.judges.endpoint import Ask, Reply
from utils.judges.judges import load_with_tokenizer
from utils.tokens.chat import Chat


class DrawPerRow(LogitsProcessor):
    """Makes the largest logit a draw from softmax(logits / temperature), each row with randomness of its own.

    Adds -log E to the scaled logits, E exponentially distributed (Gumbel noise): the place of the maximum is then an exact draw.
    seeds: one text per row. temperature 0 changes nothing.
    """

    def __init__(self, seeds: Sequence[str], temperature: float):
        self.seeds, self.temperature = seeds, temperature
        self._dice = [torch_generator(seed) for seed in seeds]

    def rows(self, places: Sequence[int]) -> DrawPerRow:
        """What draws for some of the rows; their randomness begins anew."""
        return DrawPerRow([self.seeds[place] for place in places], self.temperature)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.temperature == 0:
            return scores
        width = scores.shape[1]
        drawn = torch.stack([torch.empty(width).exponential_(generator=dice) for dice in self._dice])
        noise = drawn.clamp(min=torch.finfo(torch.float32).tiny).log()  # an exact 0 would win over everything
        return scores.float() / self.temperature - noise.to(scores.device)


@dataclass
class LocalChat:
    """A model and how it replies. batch_size: replies at a time. temperature 0: the most likely reply, the same every time.

    The system text stands before the user's in one message, since some chat templates know no system; a tokenizer without a chat
    template is given both as plain text. Raises ValueError for settings that cannot work.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    temperature: float = 0.9
    max_tokens: int = 512
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        not_negative(temperature=self.temperature)
        whole("max_tokens", self.max_tokens, 1)
        whole("batch_size", self.batch_size, 1)

    def replies(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """(place in `asks`, reply) pairs; the longest prompts come first."""
        prompts = [self._prompt_ids(ask) for ask in asks]
        ends = end_ids(self.model, self.tokenizer)
        for batch in by_length([len(prompt) for prompt in prompts], most=self.batch_size):
            seeds = [f"{self.seed}/{asks[p].attempt}/{text_hash(asks[p].system, asks[p].user)}" for p in batch]
            sampler = DrawPerRow(seeds, self.temperature)
            chosen = [prompts[place] for place in batch]
            found = continue_ids(self.model, chosen, pad_id(self.tokenizer), ends, self.max_tokens, sampler)
            for place, ids in zip(batch, found, strict=True):
                text = self.tokenizer.decode(ids, skip_special_tokens=True)
                yield place, Reply(text, len(prompts[place]), len(ids), cut=ids[-1] not in ends)

    def _prompt_ids(self, ask: Ask) -> list[int]:
        text = f"{ask.system}\n\n{ask.user}"
        if self.tokenizer.chat_template is None:
            return prompt_ids(self.tokenizer, f"{text}\n\n")
        return self.tokenizer(Chat(self.tokenizer).opening(text), add_special_tokens=False).input_ids


def load_local_chat(folder: Path, temperature: float, max_tokens: int, batch_size: int, seed: int) -> LocalChat:
    """The model and tokenizer in `folder`, on the GPU if there is one. Raises ValueError if they cannot be loaded."""
    require(folder.is_dir(), "model", folder, "the folder of a Hugging Face model, or of a run")
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model, tokenizer = load_with_tokenizer(AutoModelForCausalLM.from_pretrained, "model", folder, dtype)
    return LocalChat(model, tokenizer, temperature, max_tokens, batch_size, seed)
