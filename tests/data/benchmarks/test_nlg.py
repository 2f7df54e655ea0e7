"""MEOW's continued texts: which texts, how much of each is the prompt, and what is compared."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import data.benchmarks.nlg
import utils.evaluation.scoring
from data.benchmarks.nlg import PROMPT, Nlg, continued
from data.files.sources import FIXTURES
from tests.models import tiny_model, tokenizer
from tests.resources import resources
from tests.runs import REAL, launch, metrics, run, target
from utils.engine.continuations import continue_ids, end_ids
from utils.engine.engine import Engine
from utils.files import read_rows
from utils.reading import DataError
from utils.tokens.prompts import Encoder, Template

with_real_data = pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED, the folder with the real data")
HUB = ("owner/wikitext", "main", "owner/news", "main")
ENCODER = Encoder(tokenizer(), Template("plain", eos=False), 512)


def nlg(root: Path | str = "fixture", **options) -> Nlg:
    return Nlg("nlg", *HUB, str(root), **options)


def evaluate(folder: Path, *overrides: object) -> Path:
    run(folder, "evaluate", "benchmark=nlg", f"model.path={target()}", "resamples=100", "out=eval", *overrides)
    return folder / "eval"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    return evaluate(tmp_path_factory.mktemp("nlg"))


def test_texts_are_neither_too_short_nor_too_long(tmp_path):
    """The fixture's articles have 7 such lines (and 2 of exactly 100 characters), its news 5 such items and one of 28."""
    texts = nlg().texts
    assert len(texts) == 12 and all(100 < len(text) < 200 and text == text.strip() for text in texts)
    assert len(nlg(corpora=["cc_news"]).texts) == 5 and len(nlg(corpora=["wikitext"]).texts) == 7
    (tmp_path / "wikitext").mkdir()
    lines = "\n".join(f" {'x' * length} " for length in (100, 101, 199, 200))
    (tmp_path / "wikitext" / "wiki.train.raw").write_text(lines, encoding="utf-8")
    assert sorted(map(len, nlg(tmp_path, corpora=["wikitext"]).texts)) == [101, 199]


def test_so_many_are_drawn_the_same_in_every_run():
    some = nlg(rows=6).texts
    assert len(set(some)) == 6 and some == nlg(rows=6).texts and set(some) < set(nlg().texts)
    assert nlg(rows=6, seed=1).texts != some


def test_a_text_is_continued_from_its_first_ids_for_as_long_as_it_goes_on():
    model = tiny_model()
    engine, text = Engine(model, ENCODER.pad_id), nlg().texts[0]
    ids = list(ENCODER.generation_prompt(text))
    short = text[:60]
    rows = continued(resources(engine=engine, encoder=ENCODER, generation_batch_size=2), [text, short], "wikitext")
    (said,) = continue_ids(model, [ids[:PROMPT]], ENCODER.pad_id, end_ids(model, tokenizer()), len(ids) - PROMPT)
    assert rows[0]["generation"] == tokenizer().decode(said, skip_special_tokens=True)
    assert rows[0]["output"] == tokenizer().decode(ids[:PROMPT] + said)
    assert rows[0]["question"] + rows[0]["truth"] == text
    assert len(ENCODER.generation_prompt(short)) <= PROMPT
    assert rows[1]["truth"] == "" and rows[1]["question"] == short
    (one,) = continue_ids(model, [list(ENCODER.generation_prompt(short))], ENCODER.pad_id, end_ids(model, tokenizer()), 1)
    assert rows[1]["generation"] == tokenizer().decode(one, skip_special_tokens=True)


def test_batches_do_not_matter():
    engine = Engine(tiny_model(), ENCODER.pad_id)
    texts = nlg().texts
    one, seven = (resources(engine=engine, encoder=ENCODER, generation_batch_size=size) for size in (1, 7))
    assert continued(one, texts, "both") == continued(seven, texts, "both")


def test_numbers_and_rows(evaluated):
    found = metrics(evaluated)
    assert set(found) == {"bleu", "rep3"} and found["bleu"]["n"] == 12
    assert "of wikitext test + cc_news train continued greedily from their first 32 tokens" in found["bleu"]["definition"]
    rows = read_rows(evaluated / "generations.jsonl")
    assert [row["index"] for row in rows] == list(range(12)) and {row["task"] for row in rows} == {"continued"}


def test_parts_are_not_continued_again(evaluated, tmp_path, monkeypatch):
    parts = tmp_path / "eval" / "parts"
    parts.mkdir(parents=True)
    monkeypatch.setattr(utils.evaluation.scoring, "continue_greedily", None)
    engine = Engine(tiny_model(), ENCODER.pad_id)
    shutil.copy(evaluated / "parts" / "continued.jsonl", parts)
    rows = nlg().add_continuations([], resources(tmp_path / "eval", engine=engine, encoder=ENCODER))
    assert [{"asked_by": "", **row} for row in rows] == read_rows(evaluated / "generations.jsonl")


def test_the_whole_text_is_scored_on_request_even_afterwards(evaluated, tmp_path, monkeypatch):
    shutil.copytree(evaluated, tmp_path / "eval")
    monkeypatch.setattr(data.benchmarks.nlg, "continued", None)
    overrides = ("benchmark=nlg", "resamples=100", "benchmark.scored=whole", "rescore=true", "out=eval")
    run(tmp_path, "evaluate", *overrides)
    whole = metrics(tmp_path / "eval")["bleu"]
    assert whole["value"] > metrics(evaluated)["bleu"]["value"] and "scored=whole" in whole["definition"]


def test_mauve_needs_its_package(monkeypatch):
    monkeypatch.setattr(data.benchmarks.nlg.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="benchmark.mauve=true: the package is not installed; pip install mauve-text"):
        nlg(mauve=True)


def test_mauve_is_asked_with_the_released_settings(tmp_path, monkeypatch):
    """What was said is compared with what the texts say; a model that says nothing at all has no MAUVE."""
    asked = {}
    package = ModuleType("mauve")
    package.compute_mauve = lambda **settings: asked.update(settings) or SimpleNamespace(mauve=0.5)
    monkeypatch.setattr(data.benchmarks.nlg.importlib.util, "find_spec", lambda name: package)
    monkeypatch.setitem(sys.modules, "mauve", package)
    folder = evaluate(tmp_path, "benchmark.mauve=true")
    rows = [row for row in read_rows(folder / "generations.jsonl") if row["task"] == "continued"]
    told = [row for row in rows if row["generation"].strip() and row["truth"].strip()]
    assert asked["q_text"] == [row["generation"] for row in told] and asked["p_text"] == [row["truth"] for row in told]
    assert (asked["mauve_scaling_factor"], asked["max_text_length"]) == (2, 256)
    assert metrics(folder)["mauve"]["value"] == 0.5 and metrics(folder)["mauve"]["n"] == len(told) > 0
    assert data.benchmarks.nlg._mauve([{**row, "generation": " "} for row in rows], "continuation") == []


@pytest.mark.slow
def test_two_processes_give_the_same_texts(evaluated, tmp_path):
    overrides = ("model=tiny", "benchmark=nlg", f"model.path={target()}", "resamples=100", "out=eval")
    finished = launch(tmp_path, "evaluate.py", *overrides, processes=2)
    assert finished.code == 0, finished.err
    assert read_rows(tmp_path / "eval" / "generations.jsonl") == read_rows(evaluated / "generations.jsonl")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"corpora": ["xsum"]}, "benchmark.corpora=['xsum']: write a list out of wikitext, cc_news, each at most once"),
        ({"corpora": "wikitext"}, "benchmark.corpora=wikitext: write a list"),
        ({"rows": -1}, "benchmark.rows=-1: write all, or a whole number from 1 (texts; released code: 5000)"),
        ({"rows": True}, "benchmark.rows=True: write all, or a whole number from 1"),
        ({"seed": "x"}, "benchmark.seed=x: write a whole number from 0"),
        ({"scored": "both"}, "benchmark.scored=both: write one of continuation, whole"),
        ({"mauve": "yes"}, "benchmark.mauve=yes: write true or false"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError) as refusal:
        nlg(**options)
    assert words in str(refusal.value)


def test_nothing_is_learned_or_forgotten():
    for ask in (nlg().training, nlg().retain_split, lambda _: nlg().general_knowledge()):
        with pytest.raises(ValueError, match="benchmark=nlg: is for evaluation only"):
            ask("all")
    with pytest.raises(ValueError, match="split=full: write all"):
        nlg().requests("full")


def test_missing_and_unfit_data_are_refused_before_a_model_is_loaded(tmp_path):
    shutil.copytree(FIXTURES / "utility" / "wikitext", tmp_path / "wikitext")
    with pytest.raises(DataError, match="has no cc_news/train.jsonl; .*, or leave cc_news out of benchmark.corpora"):
        nlg(tmp_path).requests("all")
    assert nlg(tmp_path, corpora=["wikitext"]).requests("all") == []
    (tmp_path / "wikitext" / "wiki.test.raw").write_text("Too short.\n", encoding="utf-8")
    with pytest.raises(DataError, match="no text of wikitext has more than 100 and fewer than 200 characters"):
        nlg(tmp_path, corpora=["wikitext"]).requests("all")


def test_a_news_item_without_a_text_is_refused_and_an_empty_one_is_not(tmp_path):
    (tmp_path / "cc_news").mkdir()
    path = tmp_path / "cc_news" / "train.jsonl"
    path.write_text(json.dumps({"text": ""}) + "\n" + json.dumps({"text": "word " * 30}) + "\n", encoding="utf-8")
    assert len(nlg(tmp_path, corpora=["cc_news"]).texts) == 1
    path.write_text(json.dumps({"text": ""}) + "\n" + json.dumps({"title": "River"}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="cc_news/train.jsonl, row 2: field text is missing; the row has title"):
        nlg(tmp_path, corpora=["cc_news"]).requests("all")


def test_the_hub_is_asked_for_the_training_splits(monkeypatch):
    asked = []

    def rows(hub, configuration, split, revision, local):
        asked.append((hub, configuration, split))
        return [{"text": f" {'word ' * 30}\n"}, {"text": ""}]

    monkeypatch.setattr(data.benchmarks.nlg, "hub_rows", rows)
    assert nlg("hub").texts == [("word " * 30).strip()] * 2
    assert asked == [("owner/wikitext", "wikitext-103-raw-v1", "train"), ("owner/news", None, "train")]


@with_real_data
def test_the_real_texts():
    texts = nlg(REAL / "data", corpora=["wikitext"]).texts
    assert len(texts) == 110 and all(100 < len(text) < 200 for text in texts)
