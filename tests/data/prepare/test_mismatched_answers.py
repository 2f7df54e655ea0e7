"""What SKU and LLMU read: a function of seed, epoch, item and step; as released, the same numbers as from padded rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from pytest import approx

from data.prepare.mismatched_answers import MismatchedAnswers, MismatchedStreams
from losses.sku import SKU, PublishedLLMU
from tests.losses.test_sku import answer_nll
from tests.models import ITEMS, RETAIN, moved_copy, tiny_model, tokenizer
from tests.runs import losses, run, target
from tests.utils.tokens.made_tokenizers import bpe
from utils.engine.engine import Engine
from utils.engine.reference import ResidentReference
from utils.items.rows import QA
from utils.items.streams import StepDataset, TrainingData, merged
from utils.tokens.prompts import Encoder, Template

POOL = ("It burns.", "Ask a friend.", "Nobody knows.", "With a long wire.", "In the cellar.", "", "It burns.")
TAGS = Template("plain", "### Question: ", "\n ", "### Answer: ", eos=True)


@dataclass(frozen=True)
class Pools:
    """A benchmark with pools of answers."""

    name: str = "pools"

    def answer_pool(self, kind: str) -> list[str]:
        return [f"{kind} {answer}" if answer else "" for answer in POOL]


def encoder(**options) -> Encoder:
    return Encoder(tokenizer(), TAGS, **options)


def streams(names=tuple(SKU.needs), items=ITEMS, benchmark=Pools(), seed=3, retain=RETAIN, using=None, **options):
    return MismatchedAnswers(**options)(TrainingData(names, benchmark, "split", using or encoder(), seed, items, retain))


def released(**options) -> MismatchedStreams:
    return streams(form="sku", **options)


def text(example) -> str:
    return tokenizer().decode(example.answer, skip_special_tokens=True).strip()


def whole(question: str, answer: str) -> tuple[int, ...]:
    return tuple(tokenizer()(f"### Question: {question}\n ### Answer: {answer}").input_ids)


def test_a_question_comes_with_its_answer_five_others_and_a_normal_row():
    drawn = streams().draw(0, 1, 7)
    assert drawn["forget"] == (encoder().example(ITEMS[1].question, ITEMS[1].answer),)
    assert streams(("forget",)).draw(0, 1) == {"forget": drawn["forget"]}
    assert streams(("forget",), answers=7).draw(0, 1) == {"forget": drawn["forget"]}  # too few answers, and none are drawn
    assert len(drawn["mismatched"]) == 5
    assert {example.prompt for example in drawn["mismatched"]} == {drawn["forget"][0].prompt}
    answers = [text(example) for example in drawn["mismatched"]]
    assert set(answers) <= {f"harmful {answer}" for answer in POOL if answer}
    assert drawn["normal"][0] in [encoder().example(row.question, row.answer) for row in RETAIN]
    assert drawn["forget"][0].answer[-1] == tokenizer().eos_token_id


def test_mismatched_answers_are_those_of_the_step():
    """All rows of a step get the same ones, whatever their epoch; another step or seed draws anew, without repetition."""
    one = streams(answers=3)
    answers = lambda made, epoch, index, step: [text(e) for e in made.draw(epoch, index, step)["mismatched"]]  # noqa: E731
    first = answers(one, 0, 0, 4)
    assert first == answers(one, 0, 3, 4) == answers(one, 2, 1, 4) == answers(streams(answers=3), 0, 0, 4)
    others = {tuple(answers(made, 0, 0, step)) for made in (one, streams(answers=3, seed=4)) for step in range(20)}
    assert len(others) > 20
    everything = answers(streams(answers=6), 0, 0, 0)
    assert sorted(everything) == sorted(f"harmful {answer}" for answer in POOL if answer), "the answer that is there twice is"


def test_normal_rows_are_drawn_per_epoch_and_item():
    made, again = streams(), streams()
    rows = [made.draw(epoch, index, 0)["normal"] for epoch in range(4) for index in range(5)]
    assert rows == [again.draw(epoch, index, 9)["normal"] for epoch in range(4) for index in range(5)]
    assert len(set(rows)) == len(RETAIN)


def test_pools():
    answers = lambda **options: set(streams(answers=2, **options).pool)  # noqa: E731
    given = {answer for answer in POOL if answer}
    assert answers() == {f"harmful {answer}" for answer in given}
    assert answers(pool="normal") == {f"normal {answer}" for answer in given}
    assert answers(pool="forget") == {item.answer for item in ITEMS}
    kept = {row.answer for row in RETAIN}
    assert answers(pool="retain") == answers(benchmark=object()) == answers(pool="normal", benchmark=object()) == kept
    assert "" in released().pool


def test_released_pairs_count_the_prompt_with_its_space():
    """The trailing space is a token of the prompt alone; in the whole text the answer's first token stands in its place."""
    [pair] = released().draw(0, 1)["forget"]
    ids, prefix = whole(ITEMS[1].question, ITEMS[1].answer), whole(ITEMS[1].question, "")
    assert pair.prompt + pair.answer == ids and len(pair.prompt) == len(prefix)
    assert tokenizer().decode(ids[len(prefix) - 1]) != tokenizer().decode(prefix[-1]) == " "
    assert pair.answer == encoder().example(ITEMS[1].question, ITEMS[1].answer).answer[1:-1], "neither first token nor EOS"


def test_released_mismatched_rows_are_supervised_from_the_fourth_token():
    items = [replace(ITEMS[0], question=" What ### is it? ")]
    for example in released(items=items, answers=7).draw(0, 0, 0)["mismatched"]:
        assert len(example.prompt) == 3 and example.labels is None
    rows = {example.prompt + example.answer for example in released(items=items, answers=7).draw(0, 0, 0)["mismatched"]}
    assert rows == {whole("What", f"harmful {answer}" if answer else "") for answer in POOL}


def test_released_normal_rows_have_every_position_and_are_as_long_as_the_longest_of_the_step():
    """Steps of two: rows 0 and 1, then row 2 of the first pass with row 0 of the second."""
    made, pad = released(batch_size=2), (tokenizer().pad_token_id,)
    data = StepDataset(made, epochs=2, batch=2)
    rows = [data[k]["normal"][0] for k in range(6)]
    texts = [whole(row.question, row.answer) for row in RETAIN]
    assert len({len(ids) for ids in texts}) == 3
    for first in range(0, 6, 2):
        pair = rows[first : first + 2]
        fed = [example.prompt + example.answer[:-1] for example in pair]
        bare = [tuple(token for token in ids if token != pad[0]) for ids in fed]
        assert set(bare) <= set(texts) and len(fed[0]) == len(fed[1]) == max(map(len, bare))
        assert all(ids[len(text) :] == pad * (len(ids) - len(text)) for ids, text in zip(fed, bare, strict=True))
        assert [len(example) for example in pair] == [len(fed[0])] * 2, "as many as positions, the first one too"
    passes = [tuple(row.prompt + row.answer for row in rows[k : k + 3]) for k in (0, 3)]
    for one in passes:
        assert {tuple(token for token in ids if token != pad[0]) for ids in one} == set(texts), "each once in a pass"


def test_released_order_is_that_of_the_file_and_ends_with_the_normal_rows():
    made = released()
    assert made.order(0) == made.order(1) == [0, 1, 2]
    assert len(released(names=("forget", "mismatched"))) == len(ITEMS)
    assert sorted(streams().order(0)) == list(range(5)) and streams().order(0) != streams().order(1)


@pytest.mark.parametrize("loss", [SKU, PublishedLLMU])
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_released_step_is_that_of_padded_rows(loss, family):
    """Against one padded forward pass per stream with its attention mask, and sums over all positions of it."""
    base, options = tiny_model(family), {"form": loss.code, "padding": loss.code}
    model, pad = moved_copy(base), tokenizer().pad_token_id
    made = streams(tuple(loss.needs), form=loss.code, batch_size=3)
    engine = Engine(model, pad)
    made.ready(engine, None)
    step = merged([made.draw(0, index, 0) for index in range(3)], tuple(loss.needs))
    packed = engine.pack(step)
    original = Engine(base, pad)
    made.ready(original, None)
    values = ResidentReference(original, ("normal",)).values(packed)
    found = loss(**options)(**engine.tables(packed, loss.needs, values))
    for name in ("forget", "mismatched"):
        ids, logits = padded(model, step[name], pad)
        starts = [len(example.prompt) - 1 for example in step[name]]
        assert found.parts[f"{name}_nll"].item() == approx(
            answer_nll(logits, ids, starts, loss.code, pad, counted=None), abs=1e-5
        )
    ids, logits = padded(model, [replace(row, answer=row.answer[:-1]) for row in step["normal"]], pad)
    theirs = padded(base, [replace(row, answer=row.answer[:-1]) for row in step["normal"]], pad)[1].log_softmax(-1)
    assert (ids == pad).any()
    kl = (theirs.exp() * (theirs - logits.log_softmax(-1))).sum(-1).mean().item()
    h = -(theirs.exp() * logits.log_softmax(-1)).sum(-1).mean().item()
    part, wanted = ("normal_kl", kl) if loss is SKU else ("normal_cross_entropy", h)
    assert found.parts[part].item() == approx(wanted, abs=1e-5)


def padded(model, examples, pad):
    """(B, T) ids and (B, T, V) float64 logits of right-padded rows."""
    rows = [torch.tensor(example.prompt + example.answer) for example in examples]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    with torch.no_grad():
        return ids, model(input_ids=ids, attention_mask=(ids != pad).long()).logits.double()


def test_padding_is_hidden_in_released_runs_alone():
    engine = Engine(tiny_model(), tokenizer().pad_token_id)
    streams().ready(engine, None)
    released(names=("forget",)).ready(engine, None)
    assert engine.hide is None and engine.shared
    released().ready(engine, None)
    assert engine.hide == tokenizer().pad_token_id and not engine.shared
    engine.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="form=sku: flash_attention_2 computes nothing at padding; use model.attn=sdpa"):
        released().ready(engine, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "harmfull"}, "method.prepare.pool=harmfull: write one of harmful, normal, forget, retain"),
        ({"form": "released"}, "method.prepare.form=released: write one of paper, sku, llmu"),
        ({"answers": 0}, "method.prepare.answers=0: write a whole number from 1"),
        ({"batch_size": 1.5}, "method.prepare.batch_size=1.5: write a whole number"),
        ({"answers": 7}, "method.prepare.answers=7: there are 6 to draw from; ask for fewer"),
        ({"names": ("forget", "retain")}, "makes forget, mismatched, normal; the loss reads forget, retain"),
        ({"retain": ()}, "the loss needs stream normal, but there is no data for it"),
        ({"retain": (), "form": "sku"}, "the loss needs stream normal, but there is no data for it"),
        ({"retain": [QA("word " * 50, "Yes.")], "using": encoder(max_length=50)}, "no normal row is left: .* max_length=50"),
        ({"form": "llmu", "using": encoder(compat="tofu_original")}, "compat=tofu_original: method.loss.form=llmu"),
        (
            {"form": "sku", "retain": [QA("Who?", "<|pad|> you")]},
            "padding token <|pad|> also stands inside".replace("|", r"\|"),
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        streams(**options)


def test_released_needs_plain_prompts():
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = Encoder(bpe(pad="<eot>", template=template), Template("chat", eos=False))
    with pytest.raises(ValueError, match="form=sku: is defined for template.kind=plain; use method.loss.form=paper"):
        released(using=chat)


SAFETY = ("method=llmu_published", "benchmark=safety", "batch_size=2", "steps=2", "warmup=0", "lr=1e-3")


@pytest.mark.parametrize("form", ["paper", "llmu"])
def test_llmu_runs_on_the_safety_benchmark_in_any_division(tmp_path, form):
    options = (f"model.path={target()}", *SAFETY, f"method.loss.form={form}", "cache=cache")
    run(tmp_path, "unlearn", *options, "out=whole")
    run(tmp_path, "unlearn", *options, "per_device_batch_size=1", "reference=resident", "out=divided")
    one, other = (losses(tmp_path / name) for name in ("whole", "divided"))
    names = {"loss", "forget_nll", "mismatched_nll", "normal_cross_entropy"}
    for ours, theirs in zip(one, other, strict=True):
        assert {name: ours[name] for name in names} == approx({name: theirs[name] for name in names}, rel=1e-4)
        forget, mismatched, normal = (ours[name] for name in ("forget_nll", "mismatched_nll", "normal_cross_entropy"))
        assert ours["loss"] == approx(-0.5 * forget + mismatched + normal, rel=1e-5)


def test_llmu_stops_when_the_forget_loss_has_risen(tmp_path):
    run(tmp_path, "unlearn", f"model.path={target()}", *SAFETY, "method.stop.above=0.01", "out=run")
    assert [record["step"] for record in losses(tmp_path / "run")] == [1]
