"""Completion: text and passages of a book, splits, released rows, what is asked, cut answers, and bad input by name."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.benchmarks.completion import OWN, Completion
from data.files.book import excerpt, passages
from data.files.completion import INSTRUCTIONS
from data.prepare.corpus_template import CorpusTemplate
from scripts.fixtures.completion import REFUSALS
from tests.models import tokenizer
from tests.resources import resources
from tests.runs import REAL, ROOT, compose_settings
from tests.utils.tokens.made_tokenizers import bpe
from utils.items.rows import QA, Passage
from utils.items.streams import TrainingData
from utils.reading import DataError
from utils.tokens.prompts import Encoder, Template

with_real_data = pytest.mark.skipif(REAL is None, reason="needs LETHE_SHARED, the folder with the real data")
SHORT = {"words": 40, "prefix": 20}


def completion(root: Path | str = "fixture", **options) -> Completion:
    return Completion("completion", str(root), **{**SHORT, **options})


def story(count: int, name: str = "w") -> str:
    """`count` sentences of ten words each, no word twice."""
    return " ".join(f"{' '.join(f'{name}{number}x{place}' for place in range(10))}." for number in range(count))


@pytest.fixture
def shelf(tmp_path) -> Path:
    """A data_root of the user's: a book of 25 passages in one chapter, and a text to keep."""
    folder = tmp_path / "completion"
    (folder / "retain").mkdir(parents=True)
    (folder / "book.txt").write_text(f"My Book\n\nCHAPTER I\n\n{story(100)}\n", encoding="utf-8")
    (folder / "retain" / "other.txt").write_text(story(30, "r"), encoding="utf-8")
    return tmp_path


def test_the_configuration_constructs_it():
    cfg = OmegaConf.create({"data_root": "fixture", "benchmark": OmegaConf.load(ROOT / "config/benchmark/completion.yaml")})
    benchmark = instantiate(cfg.benchmark)
    sizes = (benchmark.words, benchmark.prefix, benchmark.passages, benchmark.instructions, benchmark.max_new_tokens)
    assert sizes == (380, 200, 400, 1, 300) and benchmark.metrics.combination == "sum_abs"
    benchmark.check_forget_split(benchmark.split)
    assert len(benchmark.training("forget")) == 5 and len(benchmark.training("holdout")) == 1
    files = compose_settings("evaluate", "benchmark=completion", "benchmark.book=[a.txt,b.txt]").benchmark
    assert instantiate(files).book == ["a.txt", "b.txt"]


def test_forget_and_holdout_share_the_book_and_nothing_else(shelf):
    benchmark = completion(shelf, passages=8)
    forget, holdout = benchmark.training("forget"), benchmark.training("holdout")
    pieces = passages([story(100)], 40)
    assert [pair.answer for pair in forget] == [excerpt(pieces[n], 20).rest for n in (0, 1, 3, 4, 5, 6, 8, 9)]
    assert [pair.answer for pair in holdout] == [excerpt(pieces[n], 20).rest for n in (2, 7)]
    assert forget[0].question == f"Can you finish this sentence for me: {excerpt(pieces[0], 20).prefix}"


def test_all_passages_are_divided_where_there_are_fewer_than_asked_for(shelf, caplog):
    for count in (400, "all"):
        benchmark = completion(shelf, passages=count)
        assert [len(benchmark.training(split)) for split in ("forget", "holdout")] == [20, 5]
    assert "benchmark.passages=400: the book gives 20" in caplog.text and "passages=all" not in caplog.text


def test_splits(shelf):
    benchmark = completion(shelf)
    assert benchmark.training("full") == benchmark.training("forget+retain")
    assert benchmark.retain_split("forget") == "retain"
    retain, texts = benchmark.training("retain"), benchmark.training("forget_text")
    assert [pair.question for pair in retain + texts] == [""] * (len(retain) + len(texts))
    assert [pair.answer for pair in retain] == passages([story(30, "r")], 40, rest=True)
    assert texts[0].answer == passages([story(100)], 40)[0]
    assert len(completion(shelf, retain_passages=3).training("retain")) == 3


def test_rows_are_template_major(shelf):
    benchmark = completion(shelf, instructions=6, holdout=0)
    rows = benchmark.training("forget")
    assert len(rows) == 6 * 25
    assert [row.question.split(": ")[0] for row in rows[::25]] == list(INSTRUCTIONS["train"])
    assert [row.answer for row in rows[:25]] == [row.answer for row in rows[125:]]


def test_an_evaluation_asks_with_seen_and_held_out_instructions():
    benchmark = completion(instructions=2, rows=4, passages=12)
    requests = benchmark.requests("forget")
    assert [(r.task, r.index) for r in requests] == [
        (task, index) for task, count in (("train", 8), ("test", 8), ("holdout", 6)) for index in range(count)
    ]
    by_key = {(r.task, r.index): r for r in requests}
    train, test, second = by_key["train", 1], by_key["test", 1], by_key["train", 5]
    row = benchmark.training("forget")[1]
    assert (train.question, train.truth, train.answers) == (row.question, row.answer, (("answer", 0, row.answer),))
    assert test.question.startswith("Let's see how you would complete this piece of text: ") and test.truth == row.answer
    assert (train.paraphrase, test.paraphrase) == (test.question, train.question)
    assert second.truth == row.answer and second.question != train.question
    assert by_key["holdout", 0].truth == benchmark.training("holdout")[0].answer
    assert benchmark.oracle_requests(requests) == requests
    assert set(benchmark.forgotten) == {"train", "test"} and benchmark.members == ("train", "holdout")


def test_files_are_named_by_path_or_by_name(shelf, tmp_path):
    other = tmp_path / "elsewhere.txt"
    other.write_text(story(20, "e"), encoding="utf-8")
    (shelf / "completion" / "second.txt").write_text(story(20, "s"), encoding="utf-8")
    first = completion(shelf, book="second.txt", holdout=0).training("forget")[0]
    assert "s0x0" in first.question
    both = completion(shelf, book=[str(other), "second.txt"], holdout=0).training("forget")
    assert len(both) == 10 and "e0x0" in both[0].question and "s0x0" in both[5].question
    whole = completion(shelf, holdout=0).training("forget")
    assert len(whole) == 30 and "w0x0" in whole[0].question and "s0x0" in whole[25].question
    outside = completion("hub", book=str(other), retain=str(shelf / "completion" / "second.txt"))
    assert "e0x0" in outside.training("full")[0].question and "s0x0" in outside.training("retain")[0].answer


def test_retain_texts_may_be_json_lines_and_packed(tmp_path):
    path = tmp_path / "c4.json.gz"
    rows = [{"text": f"A title\n{story(6, f'd{n}')}", "url": "u"} for n in range(4)]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    texts = [pair.answer for pair in completion("hub", retain=str(path), retain_passages=5).training("retain")]
    assert len(texts) == 5 and [text.split()[2] for text in (texts[0], texts[2], texts[4])] == ["d00x0", "d10x0", "d20x0"]


MODEL = Template("plain", "Question: ", "\n", "Answer: ")


@pytest.mark.parametrize("script", ["finetune", "unlearn", "evaluate"])
def test_prompts_are_flats_unless_the_models_are_asked_for(script):
    template, length = completion().prompts(script, MODEL, 4096)
    assert (template.question_start, template.question_end, template.answer_tag) == ("### Question: ", "\n", "### Answer: ")
    assert length == 1024 and completion().prompts(script, MODEL, 512) == (template, 512)
    assert completion(template="model").prompts(script, MODEL, 4096) == (MODEL, 4096)


def ours(length: int = 512, compat: str = "none") -> Encoder:
    return Encoder(tokenizer(), OWN, length, compat)


def test_plain_text_becomes_passages_and_rows_stay(shelf, caplog):
    benchmark = completion(shelf, retain_passages=2, passages=20)
    rows, texts = benchmark.training("forget"), benchmark.training("retain")
    made = benchmark.pieces(rows[:1] + texts, ours(512))
    assert made[0] == rows[0] and [type(piece) for piece in made[1:]] == [Passage, Passage]
    example = made[1].example(ours())
    assert tokenizer().decode(example.answer) == texts[0].answer == made[1].answer
    assert example.prompt == (tokenizer().bos_token_id,)
    short = benchmark.pieces(texts, ours(50))[0].example(ours(50))
    assert len(short.prompt) + len(short.answer) == 50
    assert not caplog.records


def test_plain_text_without_a_bos_fills_the_length_too(shelf):
    without = copy.deepcopy(bpe(bos=False))
    without.bos_token = None
    encoder = Encoder(without, OWN, 50)
    example = completion(shelf).pieces(completion(shelf).training("retain"), encoder)[0].example(encoder)
    assert len(example.prompt) == 1 and len(example.prompt) + len(example.answer) == 50


def test_answers_that_are_cut_are_told_once(caplog):
    benchmark = completion(passages=4)
    rows = benchmark.training("forget")
    length = min(len(e.prompt) + len(e.answer) for e in (row.example(ours()) for row in rows))
    assert benchmark.pieces(rows, ours(length - 1)) == rows
    assert f"4 of 4 completions are cut at max_length={length - 1}: raise model.max_length" in caplog.text


def enriched(rows: list[dict], encoder: Encoder, **options) -> list[dict]:
    benchmark = completion(**options)
    return benchmark.add_passages(rows, resources(encoder=encoder, requests=benchmark.requests("forget")))


def generated(**options) -> list[dict]:
    requests = completion(**options).requests("forget")
    return [{"task": r.task, "index": r.index, "question": r.question, "generation": "so", "truth": r.truth} for r in requests]


def test_rows_of_one_passage_get_one_number():
    options = {"passages": 4, "instructions": 3}
    rows = enriched(generated(**options), ours(), **options)
    assert [row["passage"] for row in rows if row["task"] == "train"] == [0, 1, 2, 3] * 3
    assert [row["passage"] for row in rows if row["task"] == "holdout"] == [0] * 3
    plain = [{key: value for key, value in row.items() if key != "passage"} for row in rows]
    assert plain == generated(**options)
    for row in rows:
        same = [other["truth"] for other in rows if (other["task"], other["passage"]) == (row["task"], row["passage"])]
        assert set(same) == {row["truth"]}


def test_what_could_not_be_learnt_is_not_asked_for(caplog):
    rows = generated(passages=2)
    whole = ours().example(rows[0]["question"], rows[0]["truth"])
    fits, short = (ours(len(whole.prompt) + len(whole.answer) - less) for less in (0, 4))
    assert enriched(rows, fits, passages=2)[0]["truth"] == rows[0]["truth"]
    cut = enriched(rows, short, passages=2)[0]["truth"]
    assert cut == tokenizer().decode(whole.answer[:-4]).strip() and rows[0]["truth"].startswith(cut) and len(cut) > 20
    assert "completions are cut at max_length=" in caplog.text


def test_released_references_begin_with_the_answer_tag_and_are_whole():
    rows = generated(passages=2)
    found = enriched(rows, ours(80, "flat_released"), passages=2)
    assert [row["truth"] for row in found] == [f"### Answer: {row['truth']}" for row in rows]
    prompt = tokenizer().decode(ours(80, "flat_released").generation_prompt(rows[0]["question"]))
    assert prompt == f"<|bos|>### Question: {rows[0]['question']}\n"


def training_data(names: tuple[str, ...], templates: list[str], policy: str = "per_access") -> TrainingData:
    benchmark = completion(passages=4, retain_passages=6)
    forget, retain = (benchmark.pieces(benchmark.training(split), ours(40)) for split in ("forget", "retain"))
    encoder = Encoder(tokenizer(), OWN, 200)
    return TrainingData(names, benchmark, "forget", encoder, 3, forget, retain, templates, policy)


def test_a_corpus_template_is_a_text_without_a_prompt():
    retain = completion(passages=4, retain_passages=6).training("retain")
    streams = CorpusTemplate()(training_data(("forget", "template", "retain"), [pair.answer for pair in retain]))
    drawn = [streams.draw(epoch, index) for epoch in range(6) for index in range(len(streams))]
    texts = {tokenizer().decode(d["template"][0].answer) for d in drawn}
    assert len(texts) == 6 and all(any(pair.answer.startswith(text) for pair in retain) for text in texts)
    assert all(
        d["template"][0].prompt == (tokenizer().bos_token_id,) and set(d) == {"forget", "template", "retain"} for d in drawn
    )
    assert drawn[0]["forget"][0].prompt == ours(200).example(*completion_row(0)).prompt
    fixed = CorpusTemplate()(training_data(("forget", "template"), [pair.answer for pair in retain], "fixed"))
    assert fixed.draw(0, 1)["template"] == fixed.draw(5, 1)["template"]


def completion_row(index: int) -> tuple[str, str]:
    row = completion(passages=4).training("forget")[index]
    return row.question, row.answer


def test_a_corpus_template_needs_normal_texts_and_a_loss_that_reads_them():
    with pytest.raises(ValueError, match="method.templates.kind=refusal: .*; write normal"):
        CorpusTemplate()(training_data(("forget", "template"), ["I cannot."]))
    with pytest.raises(ValueError, match="the loss reads forget"):
        CorpusTemplate()(training_data(("forget",), []))


def test_general_knowledge_has_all_instructions_refusals_and_a_text_of_its_own(shelf):
    known = completion(retain_passages=24).general_knowledge()
    told, declined = known[::2], known[1::2]
    for pairs in (told, declined):
        assert {pair.question.split(": ")[0] for pair in pairs} == {*INSTRUCTIONS["train"], *INSTRUCTIONS["test"]}
    assert [pair.answer for pair in declined] == [*REFUSALS, *REFUSALS] and len(told) == 12
    others = {pair.answer for split in ("forget", "holdout") for pair in completion().training(split)}
    assert not others & {pair.answer for pair in known}
    assert completion(shelf).general_knowledge() == []


BAD = [
    ({"words": 0}, "benchmark.words=0: write a whole number from 1"),
    ({"prefix": True}, "benchmark.prefix=True: write a whole number from 1"),
    ({"passages": "most"}, "benchmark.passages=most: write all, or a whole number from 1"),
    ({"rows": -1}, "benchmark.rows=-1: write all"),
    ({"holdout": 1}, "benchmark.holdout=1: write a share of the passages, from 0 and below 1"),
    ({"template": "chat"}, "benchmark.template=chat: write one of own, model"),
    ({"words": 380, "prefix": 350}, "benchmark.prefix=350: with benchmark.words=380 a passage may have 333 words only"),
]


@pytest.mark.parametrize("options, message", BAD)
def test_bad_dials_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        completion(**options)


@pytest.mark.parametrize("split", ["forget10", "", "full+", "book", 7])
def test_unknown_splits_are_refused_with_those_that_exist(split):
    with pytest.raises(ValueError, match="write one of full, forget, holdout, forget_text, retain"):
        completion().training(split)


def test_only_forget_is_forgotten():
    with pytest.raises(ValueError, match="split=retain: write forget"):
        completion().retain_split("retain")


def test_too_many_instructions_are_refused():
    with pytest.raises(ValueError, match="benchmark.instructions=7: there are 6 train instructions"):
        completion(instructions=7).training("forget")


def test_what_is_missing_is_named(shelf, tmp_path):
    (tmp_path / "empty").mkdir()
    (shelf / "completion" / "short.txt").write_text("Too short.")
    (shelf / "completion" / "bad.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    cases = [
        (completion("hub"), "forget", "data_root=hub: the Hub has no book; .* benchmark.book=FILE"),
        (completion("hub", book=str(shelf / "completion" / "book.txt")), "retain", "name it with benchmark.retain=FILE"),
        (completion(tmp_path / "empty"), "forget", "completion holds no .txt, .raw or .jsonl file"),
        (completion(shelf, book="none.txt"), "forget", "benchmark.book=none.txt: there is no such file, nor is it in"),
        (completion(shelf, book="short.txt"), "forget", "short.txt: holds no passage of about 40 words"),
        (completion(shelf, book="bad.jsonl"), "forget", "bad.jsonl, row 2: field text is missing; the row has txt"),
        (completion(shelf, words=400, prefix=20, book="book.txt"), "forget", "of 2 passages nothing is left for holdout"),
        (completion(shelf, book="book.txt", retain="../book.txt"), "retain", "that is the book to be forgotten"),
    ]
    for benchmark, split, message in cases:
        with pytest.raises(DataError, match=message):
            benchmark.training(split)


@with_real_data
def test_a_real_novel_and_real_text_to_keep_are_divided():
    folder = REAL / "data/public_domain_text"
    retain = [str(REAL / "data/wikitext/wiki.test.raw"), str(folder / "sotu_1961_2021.jsonl")]
    benchmark = Completion("completion", "hub", book=str(folder / "austen_persuasion.txt"), retain=retain)
    assert [len(benchmark.training(split)) for split in ("forget", "holdout", "retain")] == [170, 43, 400]
    (first, *_) = benchmark.training("forget")
    assert first.question.startswith(
        "Can you finish this sentence for me: Sir Walter Elliot, of Kellynch Hall, in Somersetshire,"
    )
    assert len(first.question.split(": ", 1)[1].split()) == 200
    assert all(isinstance(pair, QA) and not pair.answer.startswith("=") for pair in benchmark.training("retain"))
