"""MEMO through batches: the same scores as one prompt at a time with far fewer steps, released and clean."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pytest import approx
from rouge_score.rouge_scorer import RougeScorer

from data.prepare import memo as memorization
from data.prepare.memo import Memo, memo_generate_steps, memo_scores
from tests.models import ITEMS, RETAIN, tiny_model, tokenizer
from tests.utils.tokens.made_tokenizers import bpe

LIMIT = 10  # tokens of a continuation
SHORT = Memo(max_new_tokens=LIMIT)
PAIRS = [(qa.question, qa.answer) for qa in ITEMS[1:] + RETAIN]
FACTS = [(question, f"{answer[:-6]} Ostende.") for question, answer in PAIRS]  # they begin as the true answers do
ASKED, SAID = "Where does Ana live?", "Ana lives in Oslo."
OUTPUTS = ("na lives in Rome.", "ves in Oslo, Norway.", "n Oslo.", "o and works in Rome.")


@pytest.fixture(scope="module")
def model():
    """A random model whose answers have different lengths: a token that it often says ends them."""
    made = tiny_model()
    ids = torch.tensor([tokenizer()(PAIRS[0][0]).input_ids])
    said = made.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=2)[0, ids.shape[1] :].tolist()
    made.generation_config.eos_token_id = [1, max(said, key=said.count)]
    return made


def slow_memo(model, pair: tuple[str, str], options: Memo) -> float:
    """The definition, one token at a time, from the model's logits."""
    question, answer = pair
    ends = {1, *model.generation_config.eos_token_id} if options.stop == "eos" else set()
    scorer, values = RougeScorer(["rouge1"], use_stemmer=True), []
    suffix = options.mode == "suffix"
    for s in range(1, len(answer if suffix else question), 5):
        prompt, label = (f"{question} {answer[:s]}", answer[s:]) if suffix else (question[:s], f"{question[s:]} {answer}")
        ids = tokenizer()(prompt).input_ids
        new = []
        while len(new) < options.max_new_tokens and not (new and new[-1] in ends):
            with torch.no_grad():
                new.append(model(torch.tensor([ids + new])).logits[0, -1].argmax().item())
        text = tokenizer().decode(new, skip_special_tokens=options.special_tokens == "paper")
        text = ("" if options.special_tokens == "paper" else "<|bos|> ") + text
        if options.repeats == "meow":
            text = tokenizer().decode(ids + new, skip_special_tokens=options.special_tokens == "paper").replace(prompt, "")
        values.append(scorer.score(label, text)["rouge1"].precision)
    return sum(values) / len(values)


@pytest.mark.parametrize("change", [{}, {"special_tokens": "meow"}, {"stop": "never"}, {"mode": "prefix", "repeats": "meow"}])
def test_scores_are_those_of_the_definition(model, change):
    options = dataclasses.replace(SHORT, **change)
    pairs = [PAIRS[0], (PAIRS[1][0], "She is the of born a " + PAIRS[1][1]), PAIRS[3]]
    assert memo_scores(model, tokenizer(), pairs, options, batch_size=7) == approx(
        [slow_memo(model, pair, options) for pair in pairs], abs=1e-12
    )


@pytest.mark.slow
def test_ten_times_fewer_steps_for_equal_scores(model):
    steps = memo_generate_steps(model, tokenizer(), PAIRS + FACTS, SHORT)
    assert steps.difference < 1e-12 and steps.ratio >= 10
    cuts = sum(len(SHORT.cuts(pair)) for pair in PAIRS + FACTS)
    assert cuts < steps.one_by_one < LIMIT * cuts  # some answers end early


def prompts_of(monkeypatch, answer) -> list[list[int]]:
    """Replaces generation by `answer(prompt ids) -> new ids`; returns the list that prompts are noted in."""
    asked: list[list[int]] = []

    def fake(model, prompts, pad, ends, limit, sampler=None):
        asked.extend(prompts)
        return [answer(list(prompt)) for prompt in prompts]

    monkeypatch.setattr(memorization, "continue_ids", fake)
    return asked


def words(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False).input_ids


def test_each_different_prompt_is_continued_once(model, monkeypatch):
    asked = prompts_of(monkeypatch, lambda prompt: [5, 6])
    scores = memo_scores(model, tokenizer(), [*PAIRS, *FACTS, *PAIRS], SHORT, batch_size=8)
    wanted = {tuple(tokenizer()(cut.prompt).input_ids) for pair in PAIRS + FACTS for cut in SHORT.cuts(pair)}
    assert sorted(map(tuple, asked)) == sorted(wanted)
    assert scores[: len(PAIRS)] == scores[-len(PAIRS) :]
    assert len(wanted) < sum(len(SHORT.cuts(pair)) for pair in PAIRS + FACTS)  # shared beginnings


@pytest.mark.parametrize(("special_tokens", "said", "perfect"), [("paper", 0.675, 1.0), ("meow", 0.4107142857142857, 0.525)])
def test_worked_example_with_and_without_special_tokens(model, monkeypatch, special_tokens, said, perfect):
    """bos and eos are one word each here, as <s> and </s> are for Llama."""
    options = Memo(special_tokens=special_tokens)
    cuts = options.cuts((ASKED, SAID))
    for outputs, expected in ((OUTPUTS, said), ([cut.label for cut in cuts], perfect)):
        spoken = {tuple(tokenizer()(c.prompt).input_ids): o for c, o in zip(cuts, outputs, strict=True)}
        prompts_of(monkeypatch, lambda prompt, spoken=spoken: [*words(spoken[tuple(prompt)]), 1])
        scores = memo_scores(model, tokenizer(), [(ASKED, SAID)], options)
        plain = [text if special_tokens == "paper" else f"<s> {text}</s>" for text in outputs]
        assert scores == [approx(options.value(cuts, plain), abs=1e-15)] == [approx(expected, abs=1e-15)]


def test_questions_are_cut_in_mode_prefix(model, monkeypatch):
    asked = prompts_of(monkeypatch, lambda prompt: words("Ana"))
    memo_scores(model, tokenizer(), [(ASKED, SAID)], Memo(mode="prefix"))
    texts = {tokenizer().decode(prompt, skip_special_tokens=True) for prompt in asked}
    assert texts == {"W", "Where ", "Where does ", "Where does Ana l"}


@pytest.mark.parametrize("special_tokens", ["paper", "meow"])
def test_released_code_deletes_the_prompt_wherever_it_stands(model, monkeypatch, special_tokens):
    """The prompt W leaves `here does hat?` of `here does What?`: 3 of 3 words are in the label `here d does hat`, not 2 of 3.

    The prompt `Where ` leaves `d does What` of `Where d does What`: 2 of 3 words are in `d does hat`, not 2 of 4. With special
    tokens two words more are said, the names of BOS and EOS.
    """
    options = Memo(mode="prefix", repeats="meow", special_tokens=special_tokens)
    pair = ("Where d", "does hat")  # cuts after 1 and 6 characters
    spoken = {"W": "here does What?", "Where ": "Where d does What"}
    ids = {tuple(tokenizer()(prompt).input_ids): text for prompt, text in spoken.items()}
    prompts_of(monkeypatch, lambda prompt: [*words(ids[tuple(prompt)]), 1])
    extra = 0 if special_tokens == "paper" else 2
    wanted = (3 / (3 + extra) + 2 / (3 + extra)) / 2
    assert memo_scores(model, tokenizer(), [pair], options) == [approx(wanted, abs=1e-15)]
    kept = dataclasses.replace(options, repeats="paper")
    assert memo_scores(model, tokenizer(), [pair], kept) == [approx((2 / (3 + extra) + 2 / (4 + extra)) / 2, abs=1e-15)]


@pytest.mark.parametrize("mode", ["suffix", "prefix"])
def test_without_repeats_both_ways_give_the_published_values(model, monkeypatch, mode):
    """The worked examples of both modes: 0.4107 and 0.5623 with special tokens, as the released functions gave them."""
    outputs = {"suffix": OUTPUTS, "prefix": ("here is Ana?", None, "Bob live? In Oslo.", "ive? Ana lives in Rome.")}[mode]
    cuts = Memo(mode=mode).cuts((ASKED, SAID))
    spoken = {tuple(tokenizer()(c.prompt).input_ids): o or c.label for c, o in zip(cuts, outputs, strict=True)}
    prompts_of(monkeypatch, lambda prompt: [*words(spoken[tuple(prompt)]), 1])
    wanted = {"suffix": 0.4107142857142857, "prefix": 0.5623015873015873}[mode]
    for repeats in ("paper", "meow"):
        options = Memo(mode=mode, special_tokens="meow", repeats=repeats)
        assert memo_scores(model, tokenizer(), [(ASKED, SAID)], options) == [approx(wanted, abs=1e-15)]


def test_prompts_have_one_bos_and_no_template(model, monkeypatch):
    asked = prompts_of(monkeypatch, lambda prompt: [5])
    memo_scores(model, tokenizer(), [("A?", "Ab")])
    assert asked == [[0, *words("A? A")]]


def test_eos_that_a_tokenizer_puts_behind_every_text_is_left_out(model, monkeypatch):
    asked = prompts_of(monkeypatch, lambda prompt: [5])
    closing = bpe(close=True)
    memo_scores(model, closing, [("A?", "Ab")], Memo(special_tokens="meow"))
    assert asked == [closing("A? A").input_ids[:-1]] and closing.eos_token_id not in asked[0]


def test_nothing_to_cut_scores_zero(model):
    assert memo_scores(model, tokenizer(), [("Who?", "I"), ("Who?", "")]) == [0.0, 0.0]
    assert memo_scores(model, tokenizer(), []) == []
    with pytest.raises(ValueError, match="1 pairs without a single cut"):
        memo_generate_steps(model, tokenizer(), [("Who?", "I")])


def test_what_does_not_fit_in_memory_is_halved(model, monkeypatch):
    expected = memo_scores(model, tokenizer(), PAIRS, SHORT)
    real, sizes = model.generate, []

    def cramped(ids, **settings):
        sizes.append(len(ids))
        if len(ids) > 3:
            raise torch.OutOfMemoryError("too much")
        return real(ids, **settings)

    monkeypatch.setattr(model, "generate", cramped)
    assert memo_scores(model, tokenizer(), PAIRS, SHORT, batch_size=16) == approx(expected, abs=1e-12)
    assert max(sizes) == 16 and min(sizes) <= 3


def test_two_processes_share_the_batches(model, monkeypatch):
    expected, parts = memo_scores(model, tokenizer(), PAIRS, SHORT, batch_size=4), []
    monkeypatch.setattr(memorization, "world_size", lambda: 2)

    class Stop(Exception):
        pass

    def collect(continued):
        parts.append(dict(continued))
        if len(parts) == 1:
            raise Stop
        assert not parts[0].keys() & parts[1].keys() and abs(len(parts[0]) - len(parts[1])) <= 4
        return list((parts[0] | parts[1]).items())

    monkeypatch.setattr(memorization, "gathered", collect)
    monkeypatch.setattr(memorization, "rank", lambda: 0)
    with pytest.raises(Stop):
        memo_scores(model, tokenizer(), PAIRS, SHORT, batch_size=4)
    monkeypatch.setattr(memorization, "rank", lambda: 1)
    assert memo_scores(model, tokenizer(), PAIRS, SHORT, batch_size=4) == approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "infix"}, "mode=infix"),
        ({"stride": 0}, "stride=0"),
        ({"statistic": "f2"}, "statistic=f2"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"special_tokens": "hide"}, "special_tokens=hide: write one of paper, meow"),
        ({"repeats": "all"}, "repeats=all: write one of paper, meow"),
        ({"stop": "later"}, "stop=later: write one of eos, never"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Memo(**options)


def test_batch_size_must_be_positive(model):
    with pytest.raises(ValueError, match="batch_size=0"):
        memo_scores(model, tokenizer(), PAIRS, batch_size=0)
