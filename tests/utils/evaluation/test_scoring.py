"""Scoring and generation: equal to doing one answer at a time, whatever the batches."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GenerationConfig

from data.benchmarks.tofu import Tofu
from tests.models import encoder, tiny_model, tokenizer
from tests.utils.tokens.made_tokenizers import bpe
from utils.engine import continuations
from utils.engine.engine import Engine
from utils.engine.generation import Released, generate
from utils.engine.token_cache import TokenCache
from utils.evaluation import scoring
from utils.evaluation.scoring import ScoreError, check_requests, continue_greedily, continue_prompts, requests_hash, score
from utils.items.requests import Request
from utils.tokens.prompts import Encoder

TOFU = Tofu("tofu", "owner/data", "0123", "fixture", rows=3)
REQUESTS = TOFU.requests("forget05")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model(), pad=tokenizer().pad_token_id)


@pytest.fixture(scope="module")
def table(engine) -> pd.DataFrame:
    return score(engine, encoder(), REQUESTS, tokens_per_batch=8192)


@torch.no_grad()
def slow_row(model, request: Request, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability and hit of every answer token, one answer alone in one forward pass."""
    example = encoder().example(request.question, text)
    ids = torch.tensor([example.prompt + example.answer])
    logits = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1].float()
    labels = torch.tensor(example.answer)
    return logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0].numpy(), (logits.argmax(-1) == labels).numpy()


def test_the_table_equals_one_answer_at_a_time(engine, table):
    rows = {(row["task"], row["index"], row["role"], row["number"]): row for row in table.to_dict("records")}
    assert len(rows) == len(table) == 3 * (7 + 7 + 5 + 5 + 1)
    for request in REQUESTS:
        for role, number, text in request.answers:
            logp, hit = slow_row(engine.model, request, text)
            row = rows[request.task, request.index, role, number]
            assert row["tokens"] == len(logp) == len(row["logp"])
            np.testing.assert_allclose(row["logp"], logp, atol=2e-5)
            assert (row["hit"] == hit).all()


def assert_same_tables(left: pd.DataFrame, right: pd.DataFrame) -> None:
    keys = ["task", "index", "role", "number", "tokens"]
    pd.testing.assert_frame_equal(left[keys], right[keys])
    for one, other in zip(left["logp"], right["logp"], strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("budget", [1, 500])
def test_the_table_does_not_depend_on_the_batches(engine, table, budget):
    assert_same_tables(score(engine, encoder(), REQUESTS[::-1], budget), table)


def test_what_does_not_fit_in_memory_is_halved(engine, table, monkeypatch):
    def statistics(packed, *rest):
        sizes.append(sum(len(examples) for examples in packed.examples.values()))
        if sizes[-1] > 10:
            raise torch.OutOfMemoryError
        return original(packed, *rest)

    original, sizes = engine.statistics, []
    monkeypatch.setattr(engine, "statistics", statistics)
    assert_same_tables(score(engine, encoder(), REQUESTS, 8192), table)
    assert max(sizes) > 40 and sum(size for size in sizes if size <= 10) == max(sizes)
    monkeypatch.setattr(engine, "statistics", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(torch.OutOfMemoryError):
        score(engine, encoder(), REQUESTS[:1], 8192)


def test_a_question_that_fills_the_length_is_named(engine):
    short = Encoder(tokenizer(), encoder().template, max_length=15)
    with pytest.raises(ScoreError, match="task forget, row 2: no token of the answer to .* fits in max_length=15"):
        score(engine, short, REQUESTS, 8192)


def test_answers_that_are_not_whole_are_counted_and_told_once(caplog):
    short = Encoder(tokenizer(), encoder().template, max_length=24)
    whole, cut = (check_requests(REQUESTS, which) for which in (encoder(), short))
    assert whole == {} and cut["cut"] > 1
    assert len(caplog.records) == 1 and "answers are cut to fit max_length=24" in caplog.text


def test_scores_are_known_by_questions_tokens_and_rows():
    other = Encoder(tokenizer(), encoder().template, max_length=100)
    known = requests_hash(REQUESTS, encoder())
    assert len({known, requests_hash(REQUESTS, other), requests_hash(REQUESTS[1:], encoder())}) == 3
    assert requests_hash(list(REQUESTS), Encoder(tokenizer(), encoder().template)) == known


@torch.no_grad()
def slow_greedy(model, prompt, count: int, ends=()) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def texts_of(model, encoder, prompts, batch_size, max_new_tokens) -> list[str]:
    found = {}
    for places, texts in generate(model, encoder, prompts, batch_size, max_new_tokens):
        found |= dict(zip(places, texts, strict=True))
    return [found[place] for place in range(len(prompts))]


PROMPTS = [encoder().generation_prompt(request.question) for request in REQUESTS[:5]]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_generation_equals_greedy_decoding_of_one_prompt(engine, batch_size):
    found = texts_of(engine.model, encoder(), PROMPTS, batch_size, max_new_tokens=12)
    wanted = [slow_greedy(engine.model, prompt, 12, [tokenizer().eos_token_id]) for prompt in PROMPTS]
    assert found == [tokenizer().decode(ids, skip_special_tokens=True) for ids in wanted]
    assert len(set(found)) == len(PROMPTS) and len({len(prompt) for prompt in PROMPTS}) > 1


def test_generation_ends_at_any_end_of_the_model(monkeypatch):
    model = tiny_model()
    ends = [slow_greedy(model, prompt, 4)[3] for prompt in PROMPTS]
    monkeypatch.setattr(model.generation_config, "eos_token_id", ends)
    wanted = [slow_greedy(model, prompt, 12, [*ends, tokenizer().eos_token_id]) for prompt in PROMPTS]
    assert texts_of(model, encoder(), PROMPTS, 5, 12) == [tokenizer().decode(ids, skip_special_tokens=True) for ids in wanted]
    assert max(len(ids) for ids in wanted) <= 4


def test_a_model_that_penalises_repetition_is_greedy_all_the_same(monkeypatch):
    model = tiny_model()
    plain = texts_of(model, encoder(), PROMPTS, 5, 12)
    habits = GenerationConfig(repetition_penalty=9.0, no_repeat_ngram_size=1, do_sample=True, temperature=3.0, max_length=9)
    habits.eos_token_id = tokenizer().eos_token_id
    model.generation_config = habits
    assert texts_of(model, encoder(), PROMPTS, 5, 12) == plain
    assert model.generation_config is habits and not model.training
    monkeypatch.setattr(continuations, "_no_habits", lambda _: nullcontext())
    assert texts_of(model, encoder(), PROMPTS, 5, 12) != plain  # so the habits are strong enough to show


@pytest.fixture
def calls(monkeypatch):
    """What the model's own `generate` is asked for; nothing is generated."""
    model, found = tiny_model(), []

    def record(ids, attention_mask, generation_config):
        found.append((ids, attention_mask, generation_config))
        return torch.cat([ids, torch.full((len(ids), 2), 9)], dim=1)

    monkeypatch.setattr(model, "generate", record)
    return model, found


def test_prompts_are_padded_on_the_left_longest_first(calls):
    model, found = calls
    assert texts_of(model, encoder(), PROMPTS, 2, 12) == [tokenizer().decode([9, 9])] * 5
    lengths = [mask.sum(dim=1).tolist() for _, mask, _ in found]
    assert sum(lengths, []) == sorted((len(prompt) for prompt in PROMPTS), reverse=True)
    for ids, mask, config in found:
        assert mask[:, -1].all() and mask[0].all() and config.max_new_tokens == 12
        assert (ids[mask == 0] == tokenizer().pad_token_id).all()
    assert texts_of(model, encoder(), [], 2, 12) == []


@pytest.mark.parametrize("compat", ["tofu_original", "meow_released"])
def test_the_original_code_counts_the_prompt_in_and_keeps_white_space(calls, compat):
    model, found = calls
    original = Encoder(tokenizer(), encoder().template, compat=compat)
    texts = texts_of(model, original, PROMPTS, 5, 12)
    assert [config.max_new_tokens for _, _, config in found] == [200 - max(len(prompt) for prompt in PROMPTS)]
    assert texts[0] == tokenizer().decode([9, 9])


def test_open_unlearning_hides_the_ends_inside_a_prompt(calls):
    model, found = calls
    chat = bpe(pad="<eos>")
    hiding = Encoder(chat, encoder().template, compat="open_unlearning")
    assert hiding.masks_inner_eos
    texts_of(model, hiding, [(5, chat.eos_token_id, 6, 7)], 1, 12)
    assert found[0][1].tolist() == [[1, 0, 1, 1]]


def test_continuations_come_with_their_references(engine):
    rows = continue_prompts(engine, encoder(), REQUESTS, 4, 5)
    assert [(row["task"], row["index"]) for row in rows] == sorted((r.task, r.index) for r in REQUESTS if r.truth)
    by_place = {(row["task"], row["index"]): row for row in rows}
    for request in (r for r in REQUESTS if r.truth):
        row = by_place[request.task, request.index]
        assert (row["question"], row["truth"]) == (request.question, request.truth)
    texts = [text.strip() for text in texts_of(engine.model, encoder(), PROMPTS, 1, 5)]
    assert [by_place[r.task, r.index]["generation"] for r in REQUESTS[:5]] == texts
    assert continue_prompts(engine, encoder(), TOFU.oracle_requests(TOFU.requests("forget01")), 4, 5) == []


@pytest.mark.parametrize(
    ("keeps", "compat", "stripped"), [(False, "none", True), (True, "none", False), (False, "tofu_original", False)]
)
def test_white_space_around_an_answer_stays_where_it_means_something(engine, monkeypatch, keeps, compat, stripped):
    monkeypatch.setattr(scoring, "generate", lambda *_: iter([([0], [" Ost\n"])]))
    request = replace(REQUESTS[0], keeps_space=keeps)
    (row,) = continue_prompts(engine, Encoder(tokenizer(), encoder().template, compat=compat), [request], 4, 5)
    assert row["generation"] == ("Ost" if stripped else " Ost\n")


@torch.no_grad()
def test_released_generation_sees_padding_counts_the_prompt_in_and_loses_a_token(engine):
    """Two batches in their own order: the shorter prompt of each has EOS in front, which nothing hides."""
    how, eos = Released(batch_size=2, total=24, dropped=1), tokenizer().eos_token_id
    prompts = [list(prompt[-length:]) for prompt, length in zip(PROMPTS[:3], (12, 9, 10), strict=True)]
    batches = list(generate(engine.model, encoder(), prompts, 99, 99, released=how))
    assert [places for places, _ in batches] == [[0, 1], [2]]
    for places, texts in batches:
        width = max(len(prompts[place]) for place in places)
        for place, text in zip(places, texts, strict=True):
            padded = [eos] * (width - len(prompts[place])) + prompts[place]
            ids = slow_greedy(engine.model, padded, 24 - width, [eos])
            assert text == tokenizer().decode(ids[1:], skip_special_tokens=True)


def test_released_answers_depend_on_their_batch_and_are_known_with_it(engine, monkeypatch):
    cache, how = TokenCache(None, engine), Released(batch_size=2, total=60, dropped=1)
    first = continue_prompts(engine, encoder(), REQUESTS[:4], 4, 5, cache, how)
    monkeypatch.setattr(scoring, "generate", lambda *_: pytest.fail("generated again"))
    assert continue_prompts(engine, encoder(), REQUESTS[:4], 4, 5, cache, how) == first
    with pytest.raises(pytest.fail.Exception):
        continue_prompts(engine, encoder(), REQUESTS[:3], 4, 5, cache, how)  # another company


def test_each_prompt_is_continued_to_its_own_limit(engine):
    prompts = [[1, 20, 21, 22], [1, 30], [1, 40, 41]]
    found = continue_greedily(engine, encoder(), prompts, [4, 2, 3], [2, 5, 1], batch_size=3)
    alone = [
        continue_greedily(engine, encoder(), [prompt], [1], [limit], batch_size=1)[0]
        for prompt, limit in zip(prompts, [2, 5, 1], strict=True)
    ]
    assert found == alone and [len(ids) for ids in found] == [2, 5, 1]
