"""MEMO scores of question-answer pairs: the model goes on from every cut of an answer, and is compared with how that goes on.

An answer of n characters has (n - 1) / 5 cuts, so a forget set means tens of thousands of continuations. Released code makes them
one at a time; here each different prompt is continued once (answers to one question often begin alike), many at a time, next
to those that should go on for about as long: a batch takes as many steps as its longest continuation.

A continuation that passes through a later cut is not used for it. That would be right only where both prompts end between two
tokens of the same text (a cut within a word is tokenised differently) and the batches would have to wait for one another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from metrics.verbatim import STRIDE, Cut, Mode, Statistic, memo, memo_cuts
from utils.checks import choose, whole
from utils.distributed import gathered, is_main, rank, world_size
from utils.engine.batches import by_length
from utils.engine.continuations import continue_ids, end_ids, pad_id, prompt_ids
from utils.engine.head import output_head

log = logging.getLogger(__name__)

Pair = tuple[str, str]


@dataclass(frozen=True)
class Memo:
    """How MEMO is taken. mode, stride: where texts are cut (`memo_cuts`). statistic: which share of ROUGE-1 counts.

    max_new_tokens: limit of a continuation (released: 200).
    special_tokens: paper leaves words alone; meow scores BOS and EOS as the words that their names are made of, as released code
    did: needed to get numbers like the published MEMO files.
    repeats: of the prompt within its continuation. paper scores what follows the prompt's tokens; meow deletes the prompt's text
    from the whole wherever it stands, as released code did: in mode prefix, whose first prompt is one letter, out of words too.
    stop: eos ends a continuation as usual; never lets all run to the limit, as published phi scores suggest.
    Raises ValueError for an unknown value or a limit below 1.
    """

    mode: Mode = "suffix"
    stride: int = STRIDE
    statistic: Statistic = "precision"
    max_new_tokens: int = 200
    special_tokens: Literal["paper", "meow"] = "paper"
    repeats: Literal["paper", "meow"] = "paper"
    stop: Literal["eos", "never"] = "eos"

    def __post_init__(self) -> None:
        memo_cuts("", "", self.mode, self.stride)
        memo([], [], self.statistic)
        whole("max_new_tokens", self.max_new_tokens, 1, "released: 200")
        choose("special_tokens", self.special_tokens, ("paper", "meow"))
        choose("repeats", self.repeats, ("paper", "meow"))
        choose("stop", self.stop, ("eos", "never"))

    def cuts(self, pair: Pair) -> list[Cut]:
        return memo_cuts(*pair, self.mode, self.stride)

    def value(self, cuts: Sequence[Cut], outputs: Sequence[str]) -> float:
        return memo([cut.label for cut in cuts], outputs, self.statistic)


@dataclass(frozen=True)
class MemoSteps:
    """Forward passes that the same scores cost. difference: the largest between the two ways; more than rounding is a bug."""

    one_by_one: int
    batched: int
    difference: float

    @property
    def ratio(self) -> float:
        return self.one_by_one / self.batched


def memo_scores(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    options: Memo = Memo(),  # noqa: B008  (frozen)
    batch_size: int = 64,
) -> list[float]:
    """MEMO of each (question, answer), in the order given; with several processes each does a part, and all get all scores.

    Prompts are bare text without a template, with the tokenizer's own BOS if it has one; decoding is greedy. Batches that do not
    fit in memory are halved. Raises ValueError for batch_size < 1.
    """
    whole("batch_size", batch_size, 1)
    cuts = [options.cuts(pair) for pair in pairs]
    longest: dict[str, int] = {}
    for cut in (cut for of_pair in cuts for cut in of_pair):
        longest[cut.prompt] = max(longest.get(cut.prompt, 0), len(cut.label))
    ids = {prompt: prompt_ids(tokenizer, prompt) for prompt in longest}
    order = sorted(longest, key=lambda prompt: (-len(ids[prompt]), prompt))
    # What goes on for as long is together: then the longest prompts.
    batches = [[order[place] for place in batch] for batch in by_length([longest[prompt] for prompt in order], most=batch_size)]
    continued: list[tuple[str, str]] = []
    for batch in tqdm(batches[rank() :: world_size()], desc="MEMO", unit="batch", disable=not is_main() or not batches):
        texts = _continue(model, tokenizer, {prompt: ids[prompt] for prompt in batch}, options)
        continued += zip(batch, texts, strict=True)
    text_of = dict(gathered(continued))
    return [options.value(of_pair, [text_of[cut.prompt] for cut in of_pair]) for of_pair in cuts]


def memo_generate_steps(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    options: Memo = Memo(),  # noqa: B008  (frozen)
) -> MemoSteps:
    """Counts the forward passes of `memo_scores` and of one prompt at a time. Raises ValueError if there is no cut to score."""
    with _forward_passes(model) as slow:
        expected = [_one_by_one(model, tokenizer, pair, options) for pair in pairs]
    with _forward_passes(model) as fast:
        scores = memo_scores(model, tokenizer, pairs, options)
    if not slow:
        raise ValueError(f"{len(pairs)} pairs without a single cut: nothing to generate; give longer texts")
    gap = max(abs(a - b) for a, b in zip(expected, scores, strict=True))
    return MemoSteps(sum(slow), sum(fast), gap)


def _one_by_one(model: nn.Module, tokenizer: PreTrainedTokenizerBase, pair: Pair, options: Memo) -> float:
    cuts = options.cuts(pair)
    prompts = [{cut.prompt: prompt_ids(tokenizer, cut.prompt)} for cut in cuts]
    return options.value(cuts, [_continue(model, tokenizer, prompt, options)[0] for prompt in prompts])


def _continue(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Mapping[str, Sequence[int]], options: Memo
) -> list[str]:
    """The continuations as the text that is scored. prompts: text -> ids."""
    ends = end_ids(model, tokenizer) if options.stop == "eos" else ()
    new = continue_ids(model, list(prompts.values()), pad_id(tokenizer), ends, options.max_new_tokens)
    if options.repeats == "meow":
        wholes = [[*ids, *more] for ids, more in zip(prompts.values(), new, strict=True)]
        texts = tokenizer.batch_decode(wholes, skip_special_tokens=options.special_tokens == "paper")
        return [text.replace(prompt, "") for prompt, text in zip(prompts, texts, strict=True)]
    if options.special_tokens == "paper":
        return tokenizer.batch_decode(new, skip_special_tokens=True)
    # Released code decoded prompt and continuation together and took the prompt's text out again: its BOS stayed.
    front = tokenizer.decode([token for token in prompt_ids(tokenizer, "") if token in tokenizer.all_special_ids])
    return [f"{front} {text}" for text in tokenizer.batch_decode(new, skip_special_tokens=False)]


@contextmanager
def _forward_passes(model: nn.Module) -> Iterator[list[int]]:
    """Within the block, a 1 is added to the list each time that the model's head is called."""
    passes: list[int] = []
    handle = output_head(model).register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        yield passes
    finally:
        handle.remove()
