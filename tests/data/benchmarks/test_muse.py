"""MUSE: its splits and layouts, the pieces that are trained on, what an evaluation asks, and bad files by row."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.benchmarks.muse import FOLDS, RAW, Muse
from data.files.sources import FIXTURES
from data.prepare.paired_pieces import PairedPieces
from tests.models import tokenizer
from tests.resources import resources
from tests.runs import REAL, ROOT
from tests.utils.tokens.made_tokenizers import bpe, sentencepiece, words
from utils.items.rows import QA, Passage
from utils.items.streams import TrainingData
from utils.reading import DataError
from utils.tokens.prompts import Encoder, Template

HUB = {"news": "owner/news", "books": "owner/books"}
BARE = Template("plain", eos=False)
REAL_DATA = REAL is not None and (REAL / "data" / "muse").is_dir()


def muse(root: Path | str = "fixture", **options) -> Muse:
    return Muse("muse", HUB, "0123456789", str(root), **options)


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (FIXTURES / "muse" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def texts_of(name: str) -> list[str]:
    return [row["text"] for row in rows_of(name)]


def answers(pairs: list[QA]) -> list[str]:
    return [pair.answer for pair in pairs]


@pytest.fixture
def copied(tmp_path) -> Path:
    """A data_root of the user's that a test may damage."""
    shutil.copytree(FIXTURES / "muse", tmp_path / "muse")
    return tmp_path


def test_the_configuration_constructs_it():
    cfg = OmegaConf.create({"data_root": "fixture", "benchmark": OmegaConf.load(ROOT / "config/benchmark/muse.yaml")})
    cfg.benchmark.corpus = "books"
    benchmark = instantiate(cfg.benchmark)
    assert (benchmark.name, benchmark.files.hub, benchmark.revision) == ("muse", "muse-bench/MUSE-Books", "main")
    benchmark.check_forget_split(benchmark.split)
    assert (benchmark.metrics.corpus, benchmark.max_new_tokens, benchmark.knowmem_max_new_tokens) == ("books", 128, 32)
    assert {request.task for request in benchmark.requests("forget")} >= {*benchmark.forgotten, *benchmark.members}


@pytest.mark.parametrize("corpus", ["news", "books"])
def test_the_target_reads_forget_and_retain2_and_the_retrained_model_retain2_alone(corpus):
    benchmark = muse(corpus=corpus)
    raw = {name: texts_of(f"{corpus}/raw/{name}") for name in RAW}
    assert answers(benchmark.training("full")) == raw["forget"] + raw["retain2"]
    assert answers(benchmark.training("retain1+holdout")) == raw["retain1"] + raw["holdout"]
    assert {pair.question for pair in benchmark.training("full")} == {""}
    assert (benchmark.retain_split("forget"), benchmark.oracle_split("forget")) == ("retain1", "retain2")


def test_folds_of_scal_grow_and_those_of_sust_are_disjoint():
    folds = {name: answers(muse().training(name)) for name in FOLDS}
    assert folds["scal_1"] == folds["sust_1"] == answers(muse().training("forget"))
    assert folds["scal_4"] == [text for k in (1, 2, 3, 4) for text in folds[f"sust_{k}"]]
    assert all(folds[f"scal_{k + 1}"][: len(folds[f"scal_{k}"])] == folds[f"scal_{k}"] for k in (1, 2, 3))
    assert len(set(folds["scal_4"])) == len(folds["scal_4"])
    assert [muse().requests(name) == muse().requests("forget") for name in FOLDS] == [True] * 8


def test_unknown_splits_are_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="split=holdouts: write one of full, forget, retain1.*did you mean holdout"):
        muse().training("full+holdouts")
    with pytest.raises(ValueError, match="split=retain1: write one of forget, scal_1, scal_2"):
        muse().check_forget_split("retain1")
    with pytest.raises(ValueError, match="split=sust_2: write forget"):
        muse(corpus="books").check_forget_split("sust_2")
    with pytest.raises(ValueError, match="split=7: write one of full, forget, retain1, retain2, holdout, train_forget, "):
        muse(corpus="books").training(7)


def test_texts_and_rows_shorten_what_is_trained_on_and_what_is_evaluated():
    benchmark = muse(texts=2, rows=3)
    news = {name: texts_of(f"news/raw/{name}")[:2] for name in RAW}
    assert answers(benchmark.training("full")) == news["forget"] + news["retain2"]
    counts = pd.Series([request.task for request in benchmark.requests("forget")]).value_counts()
    assert set(counts) == {3} and len(counts) == 6
    assert benchmark.requests("forget")[3].prefix == muse().requests("forget")[8].prefix


# Pieces


def pieces(benchmark: Muse, pairs: list[QA], vocabulary, length: int, compat: str = "none") -> list[Passage]:
    return benchmark.pieces(pairs, Encoder(vocabulary, BARE, length, compat))


def test_texts_are_one_stream_in_pieces_behind_a_bos_and_the_last_is_filled_up_from_the_first():
    pairs = [QA("", "Who wrote Hamlet?"), QA("", "He was born in 1564.")]
    whole = bpe()("Who wrote Hamlet?\n\nHe was born in 1564.", add_special_tokens=False).input_ids
    size = next(size for size in range(3, len(whole)) if len(whole) % size not in (0, size - 1))
    found = pieces(muse(), pairs, bpe(), size + 1)
    assert [len(piece.ids) for piece in found] == [size] * -(-len(whole) // size)
    joined = [token for piece in found for token in piece.ids]
    missing = len(joined) - len(whole)
    assert joined[: len(whole)] == whole and missing > 1 and joined[len(whole) :] == whole[:missing]
    example = found[0].example(Encoder(bpe(), BARE, size + 1))
    assert example.prompt == (bpe().bos_token_id,) and example.answer == tuple(whole[:size]) and example.labels is None
    assert found[0].answer == bpe().decode(whole[:size]) and found[0].question == ""


def test_without_a_bos_the_first_token_of_a_piece_is_what_the_others_follow():
    bare = bpe(bos=False)
    bare.bos_token = None
    text = "William Shakespeare wrote Hamlet. He was born in 1564."
    whole = bare(text).input_ids
    found = pieces(muse(), [QA("", text)], bare, 5)
    assert all(len(piece.ids) == 5 for piece in found) and found[0].ids == tuple(whole[:5])
    example = found[0].example(Encoder(bare, BARE, 5))
    assert (example.prompt, example.answer) == (tuple(whole[:1]), tuple(whole[1:5]))


def test_a_single_piece_is_not_followed_by_itself_and_no_text_gives_no_piece():
    [piece] = pieces(muse(), [QA("", "Who wrote Hamlet?")], bpe(), 2048)
    assert piece.answer == "Who wrote Hamlet?"
    assert pieces(muse(), [], bpe(), 2048) == []


def test_open_unlearning_tokenises_each_piece_again_and_leaves_the_last_short():
    """This vocabulary puts a space before every text: a piece that begins inside a word gets one that the stream has not."""
    text = "HamletHamlet wrote WilliamShakespeare. He was bornborn in 1564."
    vocabulary = sentencepiece()
    whole = vocabulary(text, add_special_tokens=False).input_ids
    size = 5
    found = pieces(muse(), [QA("", text)], vocabulary, size, "open_unlearning")
    assert len(found) == len(whole) // size + (len(whole) % size > 1)
    parts = [vocabulary.decode(whole[start : start + size]) for start in range(0, len(whole), size)]
    for piece, part in zip(found, parts, strict=False):
        assert list(piece.ids) == vocabulary(part, add_special_tokens=False).input_ids[:size]
    assert any(list(piece.ids) != whole[size * k : size * (k + 1)] for k, piece in enumerate(found))
    assert 1 + max(len(piece.ids) for piece in found) == size + 1  # the BOS comes on top of the length


def test_released_pairs_forget_and_retain_pieces_by_number():
    encoder = Encoder(tokenizer(), BARE, 32)
    forget, retain = (muse().pieces(muse(texts=3).training(split), encoder) for split in ("forget", "retain1"))
    retain = retain[:4]
    assert len(forget) > 8
    training_data = TrainingData(("forget", "retain"), muse(), "forget", encoder, 0, forget, retain)
    streams = PairedPieces()(training_data)
    for epoch in (0, 1):
        for index in range(len(forget)):
            drawn = streams.draw(epoch, index)
            assert drawn["forget"] == (forget[index].example(encoder),)
            assert drawn["retain"] == (retain[index % 4].example(encoder),)
    alone = PairedPieces()(TrainingData(("forget",), muse(), "forget", encoder, 0, forget))
    assert set(alone.draw(0, 3)) == {"forget"}


# Prompts


@pytest.mark.parametrize(("script", "length"), [("finetune", 2048), ("unlearn", 2048), ("evaluate", sys.maxsize)])
def test_prompts_are_bare_text_of_its_own_length(tmp_path, script, length):
    chat = Template("chat")
    assert muse(tmp_path).prompts(script, chat, 512) == (BARE, length)
    own = muse(tmp_path, piece_length=100, text_length=2049).prompts(script, chat, 512)
    assert own == (BARE, 2049 if script == "evaluate" else 100)
    assert muse().prompts("unlearn", chat, 512) == (BARE, 256)


def test_a_text_is_scored_behind_its_bos_or_behind_its_first_token():
    text = "William Shakespeare wrote Hamlet."
    ids = bpe()(text, add_special_tokens=False).input_ids
    with_bos = Encoder(bpe(), BARE, sys.maxsize).example("", text)
    assert (with_bos.prompt, list(with_bos.answer)) == ((bpe().bos_token_id,), ids)
    without = Encoder(bpe(bos=False), BARE, sys.maxsize).example("", text)
    assert (list(without.prompt), list(without.answer)) == (ids[:1], ids[1:])
    cut = Encoder(bpe(), BARE, 4).example("", text)
    assert list(cut.answer) == ids[:3]


def knowmem_prompt(compat: str) -> list[str]:
    """The last tokens of the prompt of a question that is answered `William Shakespeare`."""
    encoder = Encoder(bpe(), BARE, sys.maxsize, compat)
    return words(encoder, encoder.generation_prompt("Question: Who wrote Hamlet?\nAnswer: "))[-2:]


def test_the_space_before_an_answer_belongs_to_its_first_word():
    encoder = Encoder(bpe(), BARE, sys.maxsize)
    example = encoder.example("Question: Who wrote Hamlet?\nAnswer: ", "William Shakespeare")
    assert words(encoder, example.answer)[0] == "ĠWilliam" and words(encoder, example.prompt)[-1] == ":"
    assert knowmem_prompt("none") == ["Answer", ":"]


@pytest.mark.parametrize("compat", ["open_unlearning", "muse_released"])
def test_released_code_leaves_the_space_to_the_prompt(compat):
    assert knowmem_prompt(compat) == [":", "Ġ"]


# Requests


def by_task(benchmark: Muse) -> dict[str, list]:
    found: dict[str, list] = {}
    for request in benchmark.requests("forget"):
        found.setdefault(request.task, []).append(request)
    return found


@pytest.mark.parametrize("corpus", ["news", "books"])
def test_an_evaluation_asks_what_the_files_hold(corpus):
    asked = by_task(muse(corpus=corpus))
    assert list(asked) == [
        "verbmem", "knowmem_forget", "knowmem_retain", "privleak_forget", "privleak_holdout", "privleak_retain",
    ]  # fmt: skip
    for request, row in zip(asked["verbmem"], rows_of(f"{corpus}/verbmem/forget"), strict=True):
        assert (request.question, request.truth, request.prefix) == (row["prompt"], row["gt"], "")
        assert request.answers == (("answer", 0, f" {row['gt']}"),) and request.max_new_tokens is None
    for kind in ("forget", "retain"):
        for request, row in zip(asked[f"knowmem_{kind}"], rows_of(f"{corpus}/knowmem/{kind}_qa"), strict=True):
            assert request.question == f"Question: {row['question']}\nAnswer: " and request.max_new_tokens == 32
            assert request.keeps_space  # else a blank line that an answer begins with would not cut it
            assert (request.truth, request.answers) == (row["answer"], (("answer", 0, row["answer"]),))
    for kind in ("forget", "holdout", "retain"):
        for request, row in zip(asked[f"privleak_{kind}"], rows_of(f"{corpus}/privleak/{kind}"), strict=True):
            assert (request.question, request.truth, request.answers) == ("", None, (("answer", 0, row["text"]),))


def test_worked_examples_stand_before_the_question_in_file_order(copied):
    folder = copied / "muse" / "news" / "knowmem"
    examples = [{"question": "Who?", "answer": "Ada"}, {"question": "When?", "answer": "1815"}]
    (folder / "retain_qa_icl.jsonl").write_text("\n".join(map(json.dumps, examples)), encoding="utf-8")
    (folder / "retain_qa.jsonl").write_text('{"question": "Where?", "answer": "London"}\n', encoding="utf-8")
    [request] = by_task(muse(copied))["knowmem_retain"]
    assert request.prefix == "Question: Who?\nAnswer: Ada\n\nQuestion: When?\nAnswer: 1815\n\n"
    assert request.asked == request.prefix + "Question: Where?\nAnswer: "


def test_other_words_are_put_between_the_tags_of_a_question():
    for task, [request, *_] in by_task(muse()).items():
        edited = muse().with_question(request, str.upper)
        if task.startswith("knowmem"):
            asked = request.question.removeprefix("Question: ").removesuffix("\nAnswer: ")
            assert edited.question == f"Question: {asked.upper()}\nAnswer: " and edited.prefix == request.prefix
        else:
            assert edited == request


def test_the_retrained_model_is_asked_for_the_privacy_texts_alone():
    asked = muse().oracle_requests(muse().requests("forget"))
    assert {request.task for request in asked} == {"privleak_forget", "privleak_holdout"} == set(Muse.members)
    assert all(request.truth is None for request in asked) and len(asked) == 20


def test_retain_texts_are_scored_where_the_data_have_them(copied):
    (copied / "muse" / "news" / "privleak" / "retain.jsonl").unlink()
    assert "privleak_retain" not in by_task(muse(copied)) and "privleak_retain" in by_task(muse())


@pytest.mark.parametrize(("prompt", "gt", "joined"), [("a", "b", " b"), ("a ", "b", "b"), ("a", "\nb", "\nb")])
def test_a_continuation_follows_behind_one_space(copied, prompt, gt, joined):
    row = json.dumps({"prompt": prompt, "gt": gt})
    (copied / "muse" / "news" / "verbmem" / "forget.jsonl").write_text(row, encoding="utf-8")
    [request] = by_task(muse(copied))["verbmem"]
    assert (request.question, request.answers[0][2], request.truth) == (prompt, joined, gt)


def test_the_true_continuation_is_cut_where_the_model_had_to_stop():
    rows = [{"task": "verbmem", "truth": "William Shakespeare wrote Hamlet."}, {"task": "knowmem_forget", "truth": "x"}]
    encoder = Encoder(bpe(), BARE, sys.maxsize)
    ids = bpe()(rows[0]["truth"]).input_ids
    benchmark = muse(max_new_tokens=4)
    found = benchmark.add_cut_truth(rows, resources(encoder=encoder))
    assert ids[0] == bpe().bos_token_id and found[0]["truth_cut"] == bpe().decode(ids[1:4])
    assert found[1] == rows[1]
    whole = muse().add_cut_truth(rows, resources(encoder=encoder))
    assert whole[0]["truth_cut"] == rows[0]["truth"]


# Files


def test_a_download_of_the_data_set_is_read_as_it_stands(copied):
    expected = muse(copied).training("retain2")
    folder = copied / "muse" / "news" / "raw"
    pd.DataFrame({"text": answers(expected)}).to_parquet(folder / "retain2-00000-of-00001.parquet")
    (folder / "retain2.jsonl").write_text("[an older form of the same]", encoding="utf-8")
    assert muse(copied).training("retain2") == expected
    (folder / "retain2-00000-of-00001.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(DataError, match="retain2-00000-of-00001.parquet: not a Parquet file"):
        muse(copied).training("retain2")


def test_the_hub_is_asked_for_the_corpus_at_the_revision(tmp_path, monkeypatch):
    asked = []

    def download(hub: str, file: str, repo_type: str, revision: str) -> str:
        asked.append((hub, file, repo_type, revision))
        path = tmp_path / file.replace("/", "_")
        pd.DataFrame({"text": ["One.", "Two."]}).to_parquet(path)
        return str(path)

    monkeypatch.setattr("data.files.sources.hf_hub_download", download)
    assert answers(muse("hub", texts=1).training("scal_2+train_retain1")) == ["One.", "One."]
    assert asked == [
        ("owner/news", "scal/forget_2-00000-of-00001.parquet", "dataset", "0123456789"),
        ("owner/news", "train/retain1-00000-of-00001.parquet", "dataset", "0123456789"),
    ]


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError

    monkeypatch.setattr("data.files.sources.hf_hub_download", fail)
    with pytest.raises(DataError, match="owner/books/raw/forget-00000-of-00001.parquet at revision 01234567 cannot be fetched"):
        muse("hub", corpus="books").training("forget")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("raw/forget", '{"text": "a"}\n{"text": 7}', "forget.jsonl, row 2: field text must be a text, not 7"),
        ("raw/forget", '{"texts": "a"}', "forget.jsonl, row 1: field text is missing; the row has texts"),
        ("raw/retain2", "", "retain2.jsonl: holds no rows"),
        ("verbmem/forget", '{"prompt": "a", "gt": " "}', "forget.jsonl, row 1: field gt must be a text that is not blank"),
        ("knowmem/forget_qa_icl", '{"question": "a"}', "forget_qa_icl.jsonl, row 1: field answer is missing"),
        ("knowmem/retain_qa", "[1]", "retain_qa.jsonl, row 1: a JSON int; a list of objects is expected"),
        ("privleak/holdout", '{"text": ""}', "holdout.jsonl, row 1: field text must be a text that is not blank"),
    ],
)
def test_bad_rows_are_named_by_file_and_row(copied, name, content, message):
    (copied / "muse" / "news" / f"{name}.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        muse(copied).training("full")
        muse(copied).requests("forget")


def test_running_text_may_be_blank_here_and_there(copied):
    (copied / "muse" / "news" / "raw" / "forget.jsonl").write_text('{"text": "a b"}\n{"text": ""}\n{"text": "c"}', "utf-8")
    [piece] = pieces(muse(copied), muse(copied).training("forget"), bpe(), 99)
    assert piece.answer == "a b\n\n\n\nc"


def test_missing_files_say_what_belongs_there(tmp_path, copied):
    with pytest.raises(DataError, match="put forget.jsonl of configuration raw of the dataset owner/news there"):
        muse(tmp_path / "nowhere").training("forget")
    (copied / "muse" / "news" / "raw" / "retain2.jsonl").unlink()
    with pytest.raises(DataError, match="retain2.json does not exist; did you mean retain1"):
        muse(copied).training("full")
    with pytest.raises(DataError, match="there is no folder .*train; put retain1.jsonl of configuration train"):
        muse().training("train_retain1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": "bbc"}, "benchmark.corpus=bbc: write one of news, books"),
        ({"rows": 0}, "benchmark.rows=0: write all, or a whole number from 1"),
        ({"texts": "ten"}, "benchmark.texts=ten: write all, or a whole number from 1"),
        ({"piece_length": 2}, "benchmark.piece_length=2: write auto, or a whole number from 3"),
        ({"text_length": "none"}, "benchmark.text_length=none: write null, or a whole number from 3"),
        ({"max_new_tokens": True}, "benchmark.max_new_tokens=True: write a whole number from 1"),
        ({"knowmem_max_new_tokens": 0}, "benchmark.knowmem_max_new_tokens=0: write a whole number from 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        muse(**options)
    with pytest.raises(ValueError, match="benchmark.hub: names no data set for corpus=books"):
        Muse("muse", {"news": "owner/news"}, "main", "fixture", corpus="books")


@pytest.mark.skipif(not REAL_DATA, reason="needs LETHE_SHARED with data/muse, the real data")
def test_the_real_corpora_have_their_published_sizes():
    sizes = {"forget": 889, "retain1": 1777, "retain2": 1778, "holdout": 3043, "scal_4": 3554, "sust_4": 887}
    assert {split: len(muse(REAL / "data").training(split)) for split in sizes} == sizes
    assert [len(muse(REAL / "data", corpus="books").training(split)) for split in RAW] == [4, 12, 13, 3]
    for corpus in HUB:
        assert len(muse(REAL / "data", corpus=corpus).requests("forget")) == 600
