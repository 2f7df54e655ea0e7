"""Other labels: drawn at random, or those that the original model would have given, against plain forward passes."""

from __future__ import annotations

import json
from itertools import cycle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data.prepare import relabelled
from data.prepare.relabelled import AdversarialLabels, RandomLabels
from losses.nll import NLL
from tests.models import ITEMS, encoder, moved, tiny_model, tokenizer, with_lora
from tests.naive import cross_entropy
from tests.runs import losses, run, target
from utils.engine.engine import Engine
from utils.files import read_json
from utils.items.streams import TrainingData
from utils.tokens.example import IGNORED
from utils.tokens.prompts import Encoder
from utils.tokens.rendering import special_ids

PAD, EOS, BOS = tokenizer().pad_token_id, tokenizer().eos_token_id, tokenizer().bos_token_id
TEXTS = [encoder().example(item.question, item.answer) for item in ITEMS]
IDS = [text.prompt + text.answer for text in TEXTS]


def training_data(names=("relabelled",), seed: int = 3, prompts: Encoder | None = None) -> TrainingData:
    return TrainingData(names, SimpleNamespace(name="toy"), "toy", prompts or encoder(), seed, ITEMS)


def labels_of(streams) -> list[tuple[int, ...]]:
    """The labels of all items; every token but the first is fed and asked for, the question's too."""
    found = []
    for index in range(len(streams)):
        (example,) = streams.draw(0, index)["relabelled"]
        assert (*example.prompt, *example.answer) == IDS[index] and len(example.prompt) == 1
        found.append(example.labels)
    return found


def test_random_labels_cover_question_and_answer():
    labels = labels_of(RandomLabels()(training_data()))
    assert [len(found) for found in labels] == [len(ids) - 1 for ids in IDS]
    pairs = [(token, label) for ids, found in zip(IDS, labels, strict=True) for token, label in zip(ids[1:], found, strict=True)]
    kept = [(token, label) for token, label in pairs if token in (PAD, EOS, BOS)]
    assert kept == [(EOS, EOS)] * len(ITEMS)  # BOS is the first token, which nothing predicts
    drawn = [label for token, label in pairs if token != EOS]
    assert all(0 <= label < tokenizer().vocab_size for label in drawn) and len(set(drawn)) > 0.9 * len(drawn)
    assert sum(token == label for token, label in pairs if token != EOS) <= 1


def test_random_labels_are_drawn_once():
    streams = RandomLabels()(training_data())
    assert [streams.draw(epoch, 2) for epoch in (0, 1, 5)] == [streams.draw(0, 2)] * 3
    assert labels_of(streams) == labels_of(RandomLabels()(training_data())) != labels_of(RandomLabels()(training_data(seed=4)))
    assert streams.order(0) != streams.order(1)


def test_where_padding_is_drawn_nothing_is_supervised(monkeypatch):
    draws = cycle([7, PAD])
    monkeypatch.setattr(relabelled, "dice", lambda *_: SimpleNamespace(randrange=lambda stop: next(draws)))
    labels = labels_of(RandomLabels()(training_data()))[0]
    assert labels[:4] == (7, IGNORED, 7, IGNORED) and labels[-1] == EOS


def test_special_ids_are_those_that_exist():
    assert special_ids(tokenizer()) == {PAD, EOS, BOS} and tokenizer().unk_token_id is None


@torch.no_grad()
def labels_by_definition(model: nn.Module, form: str) -> list[tuple[int, ...]]:
    """Labels by one plain forward pass per text, from the definition."""
    found = []
    for ids in IDS:
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        labels = []
        for j in range(1, len(ids)):
            z = logits[j].clone() if form == "knowundo" else logits[j - 1].clone()
            z[ids[j]] = float("-inf")
            if form == "knowundo":
                z[-1] = float("-inf")
            label = int(z.argmax())
            labels.append(IGNORED if form == "knowundo" and label == PAD else label)
        found.append(tuple(labels))
    return found


@pytest.mark.parametrize("form", ["knowundo", "paper"])
@pytest.mark.parametrize("chunk", [1 << 27, 4 * 2048 * 3], ids=["whole", "chunks of 3"])
def test_adversarial_labels_by_definition(form, chunk, tmp_path):
    model = tiny_model()
    run_folder = tmp_path
    streams = AdversarialLabels(form)(training_data()).ready(Engine(model, PAD, chunk_bytes=chunk), run_folder)
    assert labels_of(streams) == labels_by_definition(model, form)


def test_the_two_forms_look_at_different_tokens(tmp_path):
    """Released labels of token j come from reading token j; the paper's from reading token j - 1: neighbours agree unless the
    excluded token is the likeliest."""
    model = tiny_model()
    released, paper = labels_by_definition(model, "knowundo"), labels_by_definition(model, "paper")
    assert released != paper
    shifted = [a == b for one, other in zip(released, paper, strict=True) for a, b in zip(one[:-1], other[1:], strict=True)]
    assert sum(shifted) > 0.9 * len(shifted)


def test_labels_are_those_of_the_base_model(tmp_path):
    """An adapter, which holds what was memorised, is off; without one the model itself is asked, dropout off."""
    model = moved(with_lora(tiny_model(), dropout=0.5), by=0.3).train()
    streams = AdversarialLabels("knowundo")(training_data()).ready(Engine(model, PAD), tmp_path)
    assert labels_of(streams) == labels_by_definition(tiny_model(), "knowundo")
    assert labels_of(streams) != labels_by_definition(model.eval(), "knowundo")


def test_what_is_never_a_label(tmp_path):
    """A head that prefers the last id, then PAD, then the token just read: released skips the first, ignores the second."""
    model = tiny_model()
    last = len(tokenizer()) - 1
    head = nn.Linear(model.config.hidden_size, len(tokenizer()))
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[last], head.bias[PAD], head.bias[5] = 3.0, 2.0, 1.0
    model.set_output_embeddings(head)
    engine = Engine(model, PAD)
    for form, wanted in (("knowundo", IGNORED), ("paper", last)):
        folder = tmp_path / form
        folder.mkdir()
        streams = AdversarialLabels(form)(training_data()).ready(engine, folder)
        assert {label for labels in labels_of(streams) for label in labels} == {wanted}


def test_labels_are_kept_and_read_again(tmp_path):
    folder = tmp_path
    first = AdversarialLabels()(training_data()).ready(Engine(tiny_model(), PAD), folder)
    again = AdversarialLabels()(training_data()).ready(None, folder)  # no model to ask
    assert labels_of(first) == labels_of(again)
    kept = json.loads((tmp_path / "labels.json").read_text())
    assert kept["form"] == "paper" and [item["question"] for item in kept["items"]] == [item.question for item in ITEMS]
    assert kept["items"][0]["text"] == tokenizer().decode([label for label in first.labels[0] if label != IGNORED])


@pytest.mark.parametrize("method", ["random_label", "adversarial"])
def test_the_loss_of_a_run_is_cross_entropy_on_these_labels(method, tmp_path):
    dials = ("split=forget01", "batch_size=2", "epochs=20", "warmup=0", "lr=3e-3", f"method={method}")
    run(tmp_path, "unlearn", f"model.path={target()}", *dials, "out=run")
    records = losses(tmp_path / "run")
    assert records[-1]["relabelled_nll"] < records[0]["relabelled_nll"] - 1
    assert (tmp_path / "run" / "labels.json").exists() == (method == "adversarial")
    assert read_json(tmp_path / "run" / "run.json")["items"] == 2


def test_mean_over_samples_of_token_means():
    """A batch of two against the loss that Hugging Face models compute, row by row."""
    model, streams = tiny_model(), RandomLabels()(training_data())
    rows = [streams.draw(0, index)["relabelled"][0] for index in (0, 3)]
    engine, loss = Engine(model, PAD), NLL("relabelled", mean="samples")
    found = loss(**engine.tables(engine.pack({"relabelled": rows}), loss.needs)).loss
    wanted = torch.stack([cross_entropy(model, [row], PAD) for row in rows]).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="makes the stream relabelled alone; the loss reads forget"):
        RandomLabels()(training_data(names=("forget",)))
    with pytest.raises(ValueError, match="method.prepare.form=shifted: write one of paper, knowundo"):
        AdversarialLabels("shifted")
