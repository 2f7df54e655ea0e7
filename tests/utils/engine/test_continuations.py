"""Continuing a batch of prompts: each as if alone, cut at its first end, without the model's own habits."""

from __future__ import annotations

import pytest
import torch

from tests.models import encoder, tiny_model, tokenizer
from tests.utils.tokens.made_tokenizers import bpe
from utils.engine import generation
from utils.engine.continuations import Beginning, continue_ids, end_ids, pad_id, prompt_ids
from utils.engine.sampling import Draw, Sampler, Sampling

PROMPTS = [[0, 5, 6, 7, 8, 9], [0, 40], [0, 17, 18]]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def greedy(model, prompt: list[int], steps: int) -> list[int]:
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
    return ids[len(prompt) :]


@pytest.mark.parametrize("pad", [2, 5])
def test_each_prompt_goes_on_as_if_alone(model, pad):
    """Also if the padding id occurs in a prompt: masks go by length."""
    assert continue_ids(model, PROMPTS, pad, (), 6) == [greedy(model, prompt, 6) for prompt in PROMPTS]


def test_a_continuation_ends_at_its_first_end(model):
    free = [greedy(model, prompt, 6) for prompt in PROMPTS]
    end = free[0][2]
    ended = continue_ids(model, PROMPTS, 2, (end,), 6)
    assert ended == [row[: row.index(end) + 1] if end in row else row for row in free]
    assert len(ended[0]) <= 3 and ended[0][-1] == end
    assert continue_ids(model, PROMPTS, end, (end,), 6) == ended  # padded with the same id


@pytest.mark.parametrize("how", ["greedy", "drawn", "beside padding", "from a beginning"])
def test_what_does_not_fit_in_memory_is_halved_and_says_the_same(model, monkeypatch, how):
    """Memory runs out in the middle of a text: what was drawn for it by then is drawn again, and padding stays as wide."""
    draws = [Draw(Sampling(temperature=2.0), "task", index) for index in range(len(PROMPTS))]
    options = {"drawn": {"sampler": Sampler(draws)}, "beside padding": {"see_padding": True}}.get(how, {})
    if how == "from a beginning":
        options = {"beginning": Beginning.of(model, PROMPTS[0][:1])}
    whole, real, sizes = continue_ids(model, PROMPTS, 2, (), 6, **options), model.generate, []

    def cramped(ids, **settings):
        sizes.append(len(ids))
        if len(ids) > 1:
            for change in settings.get("logits_processor", ()):
                change(ids, torch.zeros(len(ids), model.config.vocab_size))
            raise torch.OutOfMemoryError("too much")
        return real(ids, **settings)

    monkeypatch.setattr(model, "generate", cramped)
    assert continue_ids(model, PROMPTS, 2, (), 6, **options) == whole
    assert sizes == [3, 1, 2, 1, 1]


def test_one_text_that_does_not_fit_is_an_error(model, monkeypatch):
    def full(ids, **_):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(model, "generate", full)
    with pytest.raises(torch.OutOfMemoryError):
        continue_ids(model, PROMPTS, 2, (), 6)


def test_settings_of_the_model_are_off_meanwhile_and_stay(model):
    plain = continue_ids(model, PROMPTS, 2, (), 6)
    model.generation_config.repetition_penalty = 50.0
    model.train()
    try:
        assert continue_ids(model, PROMPTS, 2, (), 6) == plain
        assert model.training and model.generation_config.repetition_penalty == 50.0
    finally:
        model.generation_config.repetition_penalty = None
        model.eval()


@pytest.mark.parametrize("family", ["llama", "opt", "gpt_neox", "phi", "gemma", "qwen2"])
def test_a_beginning_that_was_read_before_changes_nothing(family):
    model = tiny_model(family)
    shared = [0, 5, 6, 7, 8, 9, 11, 30]
    prompts = [[*shared, *prompt] for prompt in ([3, 4, 5], [40], [17, 18, 19, 20, 21])]
    beginning = Beginning.of(model, shared)
    for batch in (prompts, prompts[:1], prompts):  # the batches leave the beginning as it was
        assert continue_ids(model, batch, 2, (), 6, beginning=beginning) == [greedy(model, prompt, 6) for prompt in batch]


def test_worked_examples_are_read_once(model, monkeypatch):
    shared, read = list(range(3, 3 + generation.LONG)), []
    prompts = [[0, *shared, *prompt] for prompt in ([3, 4, 5], [40], [17, 18])]
    alone = [next(generation.generate(model, encoder(), [prompt], 1, 5))[1][0] for prompt in prompts]
    handle = model.register_forward_pre_hook(lambda _m, _a, kw: read.append(kw["input_ids"].shape), with_kwargs=True)
    try:
        batches = list(generation.generate(model, encoder(), prompts, 2, 5))
    finally:
        handle.remove()
    found = {place: text for places, texts in batches for place, text in zip(places, texts, strict=True)}
    assert [found[place] for place in range(3)] == alone
    assert read[0] == (1, 1 + generation.LONG) and max(shape[1] for shape in read[1:]) == 3


def test_what_is_read_once_leaves_every_prompt_a_token(model, monkeypatch):
    """Also if two prompts are the same, or one is what the others begin with."""
    shared, read = (0, *range(3, 3 + generation.LONG)), []
    prompts = [(*shared, 5, 6), shared, shared]
    alone = [next(generation.generate(model, encoder(), [prompt], 1, 5))[1][0] for prompt in prompts]
    original = Beginning.of
    monkeypatch.setattr(generation.Beginning, "of", lambda model, ids: read.append(tuple(ids)) or original(model, ids))
    found = dict(zip(*next(generation.generate(model, encoder(), prompts, 3, 5)), strict=True))
    assert [found[place] for place in range(3)] == alone and read == [shared[:-1]]


def test_ids_of_prompts_ends_and_padding(model):
    assert prompt_ids(tokenizer(), "Who?")[0] == 0 and prompt_ids(tokenizer(), "") == [0]
    closing = bpe(close=True)
    assert prompt_ids(closing, "Who") == closing("Who").input_ids[:-1]
    assert end_ids(model, tokenizer()) == [1] and pad_id(tokenizer()) == 2
    assert pad_id(bpe(pad=None)) == bpe(pad=None).eos_token_id
