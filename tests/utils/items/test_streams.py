"""Training items: what a step reads depends on (seed, epoch, index) and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch.utils.data import DataLoader

from tests.models import ITEMS, RETAIN, TEMPLATES, encoder, tokenizer
from tests.utils.tokens.made_tokenizers import bpe
from utils.draws import permutation
from utils.items.rows import QA, Passage
from utils.items.streams import StepDataset, Streams
from utils.tokens.example import Example, count_lost, say_lost
from utils.tokens.prompts import Encoder, Template

ALL = ("train", "forget", "template", "retain")


def streams(names=ALL, items=ITEMS, seed: int = 3, **options) -> Streams:
    return Streams(names, items, encoder(), seed, **{"retain": RETAIN, "templates": TEMPLATES, **options})


def dataset(rows: int, epochs: float, batch: int) -> StepDataset:
    return StepDataset(streams(("train",), [replace(ITEMS[k % 5], answer=f"answer {k}") for k in range(rows)]), epochs, batch)


def answer(example: Example) -> str:
    return tokenizer().decode(example.answer, skip_special_tokens=True).strip()


def test_an_item_gives_its_answer_a_template_and_a_retain_partner():
    drawn = streams().draw(0, 1)
    assert drawn["train"] == drawn["forget"] == (encoder().example(ITEMS[1].question, ITEMS[1].answer),)
    [template], [retain] = drawn["template"], drawn["retain"]
    assert template.prompt == drawn["forget"][0].prompt and answer(template) in TEMPLATES
    assert retain in [encoder().example(qa.question, qa.answer) for qa in RETAIN]
    assert set(streams(("forget",)).draw(0, 1)) == {"forget"}


def test_partners_change_with_epoch_and_seed_but_not_with_what_was_asked_before():
    first, second = streams(), streams()
    forwards = {(epoch, index): first.draw(epoch, index) for epoch in range(6) for index in range(5)}
    backwards = {key: second.draw(*key) for key in reversed(forwards)}
    assert forwards == backwards
    for name in ("retain", "template"):
        assert len({forwards[epoch, 0][name] for epoch in range(6)}) > 1, name
        assert any(streams(seed=4).draw(0, index)[name] != forwards[0, index][name] for index in range(5)), name


def test_a_fixed_template_stays_with_its_item():
    drawn = streams(template_policy="fixed")
    chosen = [[drawn.draw(epoch, index)["template"] for epoch in range(6)] for index in range(5)]
    assert all(len(set(templates)) == 1 for templates in chosen)
    assert len({answer(templates[0][0]) for templates in chosen}) > 1
    assert [templates[0] for templates in chosen] == [streams().draw(0, index)["template"] for index in range(5)]


def test_a_needed_stream_without_data_is_refused():
    for name in ("retain", "template"):
        empty = {"retain": (), "templates": ()}
        with pytest.raises(ValueError, match=f"the loss needs stream {name}, but there is no data for it"):
            streams(("forget", name), **empty)
    assert len(streams(("forget",), retain=(), templates=())) == 5


def test_items_whose_prompts_fill_the_length_are_left_out_and_counted():
    long = QA("word " * 60, "never read")
    short = Encoder(tokenizer(), encoder().template, max_length=40)
    found = Streams(("forget", "retain"), [*ITEMS, long], short, 0, retain=[*RETAIN, long])
    assert (len(found), found.dropped, len(found.retain)) == (5, 1, 3)
    with pytest.raises(ValueError, match="no item is left: all 1 prompts fill max_length=40; raise it"):
        Streams(("forget",), [long], short, 0)
    with pytest.raises(ValueError, match="no retain item is left: all prompts fill max_length=40; raise it"):
        Streams(("forget", "retain"), ITEMS, short, 0, retain=[long])


def test_answers_that_are_not_whole_are_counted_by_what_they_lost():
    short = Encoder(tokenizer(), encoder().template, max_length=40)
    ends = tokenizer().eos_token
    items = [QA("Who?", "He."), QA("Who?", "word " * 60), QA("Who?", f"He{ends} did."), QA("Who?", f"He.{ends}")]
    found = Streams(("forget", "retain"), items, short, 0, retain=items[1:2])
    assert count_lost(found.answers) == {"cut": 2, "eos": 1}
    assert say_lost(count_lost(found.answers), len(found.answers), 40) == [
        "2 of 5 answers are cut to fit max_length=40",
        "1 of 5 answers end early: an EOS is written inside of their text",
    ]


@pytest.mark.parametrize("rows, steps", [(40, 6), (200, 31), (400, 62)])
def test_steps_are_those_of_the_tofu_code(rows, steps):
    data = dataset(rows, epochs=5, batch=32)
    assert (data.steps, len(data)) == (steps, 32 * steps)
    assert data.epoch_of(steps) == pytest.approx(32 * steps / rows)


@pytest.mark.parametrize("rows, epochs, batch, steps, per_epoch", [(10, 1, 4, 2, 2), (10, 0.1, 4, 1, 2), (3, 1, 8, 1, 1)])
def test_there_is_always_a_step(rows, epochs, batch, steps, per_epoch):
    data = dataset(rows, epochs, batch)
    assert (data.steps, data.steps_per_epoch) == (steps, per_epoch)


def test_epochs_follow_one_another_without_a_gap():
    data = dataset(5, epochs=4, batch=4)
    visited = [data[k]["train"] for k in range(len(data))]
    assert len(visited) == 20
    for epoch in range(4):
        part = visited[5 * epoch : 5 * epoch + 5]
        assert len(set(part)) == 5
        assert part == [data.streams.draw(epoch, index)["train"] for index in permutation(3, epoch, 5)]
    for outside in (-1, 20):
        with pytest.raises(IndexError):
            data[outside]


def test_loader_processes_change_nothing():
    data = StepDataset(streams(), epochs=3, batch=4)
    loaded = [list(DataLoader(data, batch_size=4, num_workers=n, collate_fn=list)) for n in (0, 2)]
    assert loaded[0] == loaded[1] and len(loaded[0]) == 3
    assert loaded[0] == [[data[4 * step + k] for k in range(4)] for step in range(3)]


@pytest.mark.parametrize("bos", [True, False])
def test_a_passage_begins_as_the_tokenizer_begins_a_text(bos):
    """So training and evaluation read the same; a vocabulary may hold a BOS that its tokenizer does not add."""
    vocabulary = bpe(bos=bos)
    vocabulary.bos_token = "<eos>" if not bos else vocabulary.bos_token
    ids = tuple(vocabulary("Who painted it?", add_special_tokens=False).input_ids)
    found = Passage("", "Who painted it?", ids).example(Encoder(vocabulary, Template("plain", eos=False)))
    assert found == (Example((vocabulary.bos_token_id,), ids) if bos else Example(ids[:1], ids[1:]))
    assert found.prompt + found.answer == tuple(vocabulary("Who painted it?").input_ids)


@pytest.mark.parametrize("compat", ["none", "open_unlearning"])
def test_a_text_without_question_and_bos_keeps_its_first_token_as_prompt(compat):
    vocabulary = bpe(bos=False)
    found = Encoder(vocabulary, Template("plain", eos=False), compat=compat).example("", "Who painted it?")
    ids = tuple(vocabulary("Who painted it?").input_ids)
    assert (found.prompt, found.answer) == (ids[:1], ids[1:])
