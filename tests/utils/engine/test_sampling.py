"""Drawn answers: the tokens that a definition by hand draws, whatever the batch, and the same again."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from pytest import approx

from data.benchmarks.tofu import Tofu
from tests.models import encoder, tiny_model, tokenizer
from utils.engine import generation
from utils.engine.engine import Engine
from utils.engine.generation import generate
from utils.engine.sampling import Draw, Sampler, Sampling, drawn_tokens, sampler_of
from utils.engine.token_cache import TokenCache
from utils.evaluation import scoring
from utils.evaluation.scoring import continue_prompts, draws
from utils.items.requests import Request

REQUESTS = [r for r in Tofu("tofu", "owner/data", "0123", "fixture", rows=3).requests("forget05") if r.task == "forget"]
PROMPTS = [encoder().generation_prompt(request.question) for request in REQUESTS]
LIMIT = 8


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model(), pad=tokenizer().pad_token_id)


def logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor([[log(p) for p in probabilities]], dtype=torch.float64)


@pytest.mark.parametrize(("u", "token"), [(0.0, 0), (0.19, 0), (0.21, 1), (0.69, 1), (0.71, 3), (0.999999, 3)])
def test_the_token_is_the_first_whose_cumulative_probability_exceeds_u(u, token):
    weights = torch.tensor([[0.4, 1.0, 0.0, 0.6]], dtype=torch.float64)  # shares 0.2, 0.5, 0, 0.3
    assert drawn_tokens(weights, torch.tensor([u], dtype=torch.float64)).tolist() == [token]


def test_a_token_without_probability_is_never_drawn():
    weights = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64).expand(3, 3)
    assert drawn_tokens(weights, torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1, [0.2, 0.5, 0.3]), (0.9, [0.2, 0.5, 0.3]), (0.7, [0, 0.5, 0.3]), (0.4, [0, 0.5, 0]), (0.01, [0, 0.5, 0])],
)
def test_the_nucleus_by_hand(top_p, kept):
    """Most likely first they reach 0.5, 0.8 and 1: the smallest set that holds at least top_p stays, each at its place."""
    assert Sampling(top_p=top_p).probabilities(logits(0.2, 0.5, 0.3))[0].tolist() == approx(kept)


def test_temperature_by_hand():
    """4 : 1 at temperature 2 is 2 : 1, at temperature 1/2 it is 16 : 1."""
    assert Sampling(temperature=2.0).probabilities(logits(0.8, 0.2))[0].tolist() == approx([2 / 3, 1 / 3])
    assert Sampling(temperature=0.5).probabilities(logits(0.8, 0.2))[0].tolist() == approx([16 / 17, 1 / 17])


def test_tokens_are_drawn_as_often_as_they_are_likely():
    wanted = torch.tensor([0.1, 0.6, 0.05, 0.25])
    sampler = Sampler([Draw(Sampling(), "forget", index) for index in range(4000)])
    chosen = sampler(torch.zeros(4000, 1), wanted.log().expand(4000, 4)).argmax(dim=1)
    shares = torch.bincount(chosen, minlength=4) / 4000
    assert (shares - wanted).abs().max() < 4 * (0.6 * 0.4 / 4000) ** 0.5  # four standard errors


def test_a_stream_belongs_to_its_answer_alone():
    def first(**change):
        return replace(Draw(Sampling(), "forget", 3), **change).uniforms().random()

    others = [first(task="retain"), first(index=4), first(number=1), first(sampling=Sampling(seed=1))]
    assert len({first(), *others}) == 5 and first() == first()
    assert first(sampling=Sampling(temperature=0.5)) == first()  # a colder model draws with the same numbers


def test_the_sampler_does_the_same_with_one_row_or_many():
    scores, asked = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)), [Draw(Sampling(), "t", n) for n in range(5)]
    together, ids = Sampler(asked), torch.zeros(5, 1)
    steps = [together(ids, scores).argmax(dim=1).tolist() for _ in range(6)]
    for row, draw in enumerate(asked):
        alone = Sampler([draw])
        assert [alone(ids[:1], scores[row : row + 1]).argmax().item() for _ in range(6)] == [step[row] for step in steps]
    assert len({tuple(step) for step in steps}) > 1


@torch.no_grad()
def slow_sample(model, prompt, draw: Draw) -> str:
    """One prompt alone, one token at a time, from the model's logits."""
    ids, stream = list(prompt), draw.uniforms()
    while len(ids) < len(prompt) + LIMIT and ids[-1] != tokenizer().eos_token_id:
        probabilities = (model(input_ids=torch.tensor([ids])).logits[0, -1].double() / draw.sampling.temperature).softmax(-1)
        u = stream.random()
        ids.append(int((probabilities.cumsum(0) <= u).sum()))
    return tokenizer().decode(ids[len(prompt) :], skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_answers_are_those_of_one_prompt_alone(engine, batch_size):
    asked = [Draw(Sampling(temperature=0.8), "forget", place, number) for place in range(3) for number in range(3)]
    prompts = [PROMPTS[draw.index] for draw in asked]
    found = {}
    for places, texts in generate(engine.model, encoder(), prompts, batch_size, LIMIT, sampler_of(asked)):
        found |= dict(zip(places, texts, strict=True))
    assert [found[n] for n in range(9)] == [slow_sample(engine.model, PROMPTS[draw.index], draw) for draw in asked]
    assert len(set(found.values())) > 3 and len({len(prompt) for prompt in PROMPTS}) > 1


def sampled(samples: int, **options) -> list[Request]:
    return [replace(request, sampling=Sampling(**options), samples=samples) for request in REQUESTS]


def answers(engine: Engine, requests: list[Request], batch_size: int = 4, cache: TokenCache | None = None) -> list[dict]:
    return continue_prompts(engine, encoder(), requests, batch_size, LIMIT, cache)


def test_a_request_gets_its_answers_and_the_first_is_its_own(engine):
    rows = answers(engine, [*sampled(3), replace(REQUESTS[0], task="plain")])
    for row in rows[:3]:
        assert len(row["samples"]) == 3 and row["generation"] == row["samples"][0]
    assert "samples" not in rows[3] and rows[3]["generation"] == answers(engine, REQUESTS)[0]["generation"]
    assert rows[0]["samples"] == [slow_sample(engine.model, PROMPTS[0], draw).strip() for draw in draws(sampled(3)[0])]


def test_more_answers_keep_the_first_ones_and_other_seeds_draw_others(engine):
    few, many, other = (answers(engine, sampled(n, seed=seed)) for n, seed in ((2, 0), (4, 0), (2, 1)))
    for one, more, another in zip(few, many, other, strict=True):
        assert more["samples"][:2] == one["samples"] != another["samples"]


def test_what_a_measure_asks_again_is_drawn_again_without_a_model(engine, monkeypatch):
    cache = TokenCache(None, engine)
    known = answers(engine, sampled(3), cache=cache)
    monkeypatch.setattr(scoring, "generate", lambda *_: pytest.fail("a model was asked"))
    again = answers(engine, [replace(request, asked_by="leak") for request in sampled(3)], cache=cache)
    assert [row["samples"] for row in again] == [row["samples"] for row in known]


def test_interrupted_sampling_goes_on(engine, monkeypatch, tmp_path):
    original, batches = generation.continue_ids, []

    def interrupted(*arguments):
        batches.append(arguments)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr("utils.engine.token_cache.SECONDS", 0)
    monkeypatch.setattr(generation, "continue_ids", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answers(engine, sampled(4), batch_size=2, cache=TokenCache(tmp_path, engine))
    resumed = TokenCache(tmp_path, engine)
    resumed.read()
    rows = answers(engine, sampled(4), batch_size=2, cache=resumed)
    assert len(batches) == 3 + (12 - 4) // 2 and rows == answers(engine, sampled(4))


@pytest.mark.parametrize("number", [0, 1])
def test_processes_share_the_answers_out(engine, monkeypatch, number):
    everything, found = answers(engine, sampled(3)), []
    monkeypatch.setattr(scoring, "world_size", lambda: 2)
    monkeypatch.setattr(scoring, "rank", lambda: number)
    monkeypatch.setattr(TokenCache, "share", lambda cache: found.extend(cache._new_texts.items()))
    monkeypatch.setattr(scoring, "is_main", lambda: False)  # what the others computed would be lacking
    answers(engine, sampled(3))
    own = {text for row in everything for text in row["samples"]}
    assert len(found) == (5, 4)[number] and {text.strip() for _, text in found} <= own


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": 0}, "temperature=0: write a number above 0"),
        ({"temperature": "hot"}, "temperature=hot"),
        ({"top_p": 0}, "top_p=0: write a probability above 0 and up to 1"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"seed": -1}, "seed=-1: write a whole number from 0"),
        ({"seed": True}, "seed=True"),
    ],
)
def test_bad_values_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Sampling(**options)
