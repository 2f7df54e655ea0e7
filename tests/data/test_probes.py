"""Probes: what is asked in another way, what is given away and no longer scored, and where a probe has no meaning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data.benchmarks.knowundo import SAFETY_PROMPTS, KnowUnDo
from data.benchmarks.muse import Muse
from data.benchmarks.nlg import Nlg
from data.benchmarks.tofu import Tofu
from data.probes import Paraphrase, Prefix, Sample
from tests.models import encoder
from tests.runs import QUICK_EVALUATION, compose_settings, metrics, run, target
from tests.utils.tokens.made_tokenizers import LLAMA3, QWEN, TAGS, bpe, decode, sentencepiece
from utils.engine.sampling import Sampling
from utils.evaluation.questions import Questions
from utils.files import read_rows
from utils.items.probe import Probe, Unchanged
from utils.items.requests import Request, as_example, beginning, expected, start
from utils.runs.settings import SettingsError, build, check_evaluation
from utils.tokens.example import EmptyAnswer
from utils.tokens.prompts import Encoder, Template

TOFU = Tofu("tofu", "owner/data", "0123", "fixture", rows=4)
ASKED = TOFU.requests("forget05")
WORDINGS = ("I would like to know: {question}", "{question} Please answer.")
ANSWER = "The lighthouse at Ost was painted by Mira Tallow."
LIGHTHOUSE = Request("forget", 0, "Who painted it?", (("answer", 0, ANSWER), ("perturbed", 0, "Nobody did.")), ANSWER)


def probed(probe: Probe, task: str, benchmark=TOFU) -> list[tuple[Request, Request]]:
    """(before, after) of the requests of a task."""
    asked = benchmark.requests("forget05") if benchmark is TOFU else benchmark.requests("unlearn")
    return [pair for pair in zip(asked, probe.requests(asked, benchmark), strict=True) if pair[0].task == task]


# paraphrase


def test_the_paraphrase_of_the_data_is_asked_where_there_is_one():
    for before, after in probed(Paraphrase(WORDINGS), "forget"):
        assert after == replace(before, question=before.paraphrase) and after.question != before.question


def test_other_questions_are_reworded():
    for before, after in probed(Paraphrase(WORDINGS), "world_facts"):
        assert after.question in [wording.format(question=before.question) for wording in WORDINGS]
        assert replace(after, question=before.question) == before


def test_which_wording_a_question_gets_is_a_pure_function_of_seed_task_and_index():
    asked = [replace(LIGHTHOUSE, index=index) for index in range(20)]
    first, again, other = (Paraphrase(WORDINGS, seed=seed).requests(asked, TOFU) for seed in (0, 0, 1))
    assert first == again and len({request.question for request in first}) == 2
    assert [r.question for r in other] != [r.question for r in first]
    of_measure = Paraphrase(WORDINGS).requests([replace(request, asked_by="leak") for request in asked[::-1]], TOFU)
    assert [r.question for r in of_measure[::-1]] == [r.question for r in first]


def test_wordings_may_replace_the_paraphrases_of_the_data():
    for before, after in probed(Paraphrase(WORDINGS, "wordings"), "forget"):
        assert before.question in after.question


def test_context_on_lines_before_the_question_stays():
    knowundo = KnowUnDo("knowundo", "o/d", "0", "o/g", "0", "fixture")
    probe = Paraphrase(["Tell me: {question}"])
    for before, after in probed(probe, "unlearn_prompted", knowundo):
        question = before.question.removeprefix(SAFETY_PROMPTS["privacy"])
        assert after.question == f"{SAFETY_PROMPTS['privacy']}Tell me: {question}"


def test_of_muse_the_questions_change_and_running_text_does_not():
    muse = Muse("muse", {"news": "owner/news"}, "0123", "fixture")
    question = Request("knowmem_forget", 0, "Question: Who?\nAnswer: ", (), "She", prefix="Question: Where?\nAnswer: Ost\n\n")
    texts = [Request("verbmem", 0, "It was late.", (), "Night fell."), Request("privleak_forget", 0, "", (), None)]
    asked = Paraphrase(["Tell me: {question}"]).requests([question, *texts], muse)
    assert asked == [replace(question, question="Question: Tell me: Who?\nAnswer: "), *texts]


def test_data_without_paraphrases_are_refused_if_they_must_have_them():
    with pytest.raises(
        ValueError, match="probe.source=data: the data of benchmark=tofu hold no paraphrase of row 1 of task real_auth"
    ):
        Paraphrase(WORDINGS, "data").check(TOFU, ASKED)
    asked = [request for request in ASKED if request.task == "forget"]
    assert [r.question for r in Paraphrase(WORDINGS, "data").requests(asked, TOFU)] == [r.paraphrase for r in asked]


# prefix


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (0, ""),
        (1, "The"),
        (3, "The  old\nlighthouse"),
        (0.5, "The  old\nlighthouse"),  # 3 of 6
        (0.6, "The  old\nlighthouse"),  # 3.6
        (0.01, "The"),
        (0.99, "The  old\nlighthouse at Ost,"),
        (50, "The  old\nlighthouse at Ost,"),  # one is always left
    ],
)
def test_beginnings_by_hand(given, words):
    assert beginning("The  old\nlighthouse at Ost, painted.", given) == words


def test_a_single_word_has_no_beginning():
    assert [beginning(text, 0.5) for text in ("Paris.", "", " \n", "New York")] == ["", "", "", "New"]


ENCODERS = {
    "plain": encoder(),
    "no end": Encoder(bpe(), Template("plain", "Question: ", "\n", "Answer: ", eos=False)),
    "sentencepiece": Encoder(sentencepiece(), TAGS),
    "released tofu": Encoder(bpe(), TAGS, compat="tofu_original"),
    "open-unlearning": Encoder(bpe(), TAGS, compat="open_unlearning"),
    "llama 3": Encoder(bpe(eos="<|eot_id|>", template=LLAMA3), Template("chat", system="x", date="26 Jul 2024")),
    "qwen": Encoder(bpe(eos="<|im_end|>", template=QWEN), Template("chat")),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_given_moves_from_the_answer_to_the_prompt(name):
    """The ids stay what they are, the border moves behind the given words, and the end is still supervised."""
    encoder, request = ENCODERS[name], replace(LIGHTHOUSE, given=4)
    whole, begun = encoder.example(request.question, ANSWER), as_example(encoder, request, ANSWER)
    assert begun.prompt + begun.answer == whole.prompt + whole.answer
    given, rest = decode(encoder, begun.prompt[len(whole.prompt) :]), decode(encoder, begun.answer)
    assert given.removeprefix("Answer:").strip() == "The lighthouse at Ost"
    assert rest.strip().startswith("was painted by Mira Tallow.")
    assert begun.answer[-1] == whole.answer[-1]
    assert start(encoder, request) == begun.prompt


def test_every_answer_begins_with_its_own_words_and_the_rest_is_expected():
    request = replace(LIGHTHOUSE, given=0.5)
    given = [as_example(encoder(), request, text) for _, _, text in request.answers]
    assert [encoder().tokenizer.decode(e.answer, skip_special_tokens=True).strip() for e in given] == [
        "was painted by Mira Tallow.",
        "did.",
    ]
    assert expected(request) == "was painted by Mira Tallow." and expected(LIGHTHOUSE) == ANSWER
    assert expected(replace(request, truth=None)) is None


def test_an_answer_of_one_word_is_scored_whole():
    request = Request("t", 0, "Where?", (("answer", 0, "Paris."),), "Paris.", given=0.5)
    assert as_example(encoder(), request, "Paris.") == encoder().example("Where?", "Paris.")
    assert start(encoder(), request) == encoder().generation_prompt("Where?") and expected(request) == "Paris."


def test_running_text_begins_behind_its_blank():
    """The scored answer brings the blank along that the truth lacks; the model goes on from the same ids."""
    bare = Encoder(bpe(), Template("plain", eos=False))
    request = Request("verbmem", 0, "He was", (("answer", 0, " born in 1564 in Ost."),), "born in 1564 in Ost.", given=2)
    assert bare.tokenizer.decode(start(bare, request), skip_special_tokens=True) == "He was born in"
    assert start(bare, request) == as_example(bare, request, " born in 1564 in Ost.").prompt


def test_given_words_that_leave_no_room_are_refused():
    short = Encoder(encoder().tokenizer, encoder().template, max_length=len(encoder().generation_prompt("Who painted it?")) + 4)
    with pytest.raises(EmptyAnswer, match="what is given of the answer to 'Who painted it.' fills max_length"):
        as_example(short, replace(LIGHTHOUSE, given=6), ANSWER)


def test_prefix_gives_words_away_and_pushes():
    for before, after in probed(Prefix(given=3), "forget"):
        assert after == replace(before, given=3)
    for before, after in probed(Prefix(given=0, push="Answer truthfully. "), "real_authors"):
        assert after == replace(before, question=f"Answer truthfully. {before.question}")
    one_word = Request("t", 0, "Where?", (("answer", 0, "Paris."),), "Paris.")
    assert Prefix().requests([one_word], TOFU) == [one_word]


# sample


def test_sample_draws_the_models_own_answers_alone():
    probe = Sample(0.7, 0.9, 3)
    for before, after in probed(probe, "forget"):
        assert after == replace(before, sampling=Sampling(0.7, 0.9, 3)) and after.samples == 1
    assert all(before == after for before, after in probed(probe, "holdout"))  # scored only
    drawn = replace(LIGHTHOUSE, sampling=Sampling(), samples=5)
    assert probe.requests([drawn], TOFU) == [drawn]


# all of them


@pytest.mark.parametrize(
    ("probe", "sentence"),
    [
        (
            Paraphrase(WORDINGS),
            "probe=paraphrase: benchmark=nlg asks no question that could be put in other words; use probe=none",
        ),
        (
            Prefix(),
            "probe=prefix: benchmark=nlg has no question to push and no answer of two words or more to begin; use probe=none",
        ),
        (Sample(), "probe=sample: benchmark=nlg asks for no answer of the model's own that could be sampled; use probe=none"),
    ],
)
def test_a_benchmark_that_a_probe_does_not_change_is_refused(probe, sentence):
    nlg = Nlg("nlg", "o/w", "0", "o/n", "0", "fixture")
    with pytest.raises(ValueError, match=sentence):
        probe.check(nlg, nlg.requests("all"))
    probe.check(TOFU, ASKED)
    Questions(nlg, "all").check()
    assert Unchanged().requests(ASKED, TOFU) == ASKED


BAD = [
    (lambda: Paraphrase(WORDINGS, "file"), "probe.source=file: write one of auto, data, wordings"),
    (lambda: Paraphrase([]), r"probe.wordings=\[\]: write a list of sentences with {question}"),
    (lambda: Paraphrase(["Tell me!"]), "probe.wordings=.*Tell me!"),
    (lambda: Paraphrase(["{question}"]), "probe.wordings"),
    (lambda: Paraphrase("Tell me: {question}"), "probe.wordings"),
    (lambda: Paraphrase(WORDINGS, seed=-1), "probe.seed=-1"),
    (lambda: Prefix(given=1.5), "probe.given=1.5: write a whole number of words from 0, or a share of them below 1"),
    (lambda: Prefix(given=-1), "probe.given=-1"),
    (lambda: Prefix(given=True), "probe.given=True"),
    (lambda: Prefix(push=3), "probe.push=3"),
    (lambda: Prefix(given=0, push=" "), "probe.given=0 and probe.push='': nothing would change"),
    (lambda: Sample(temperature=0), "temperature=0"),
]


@pytest.mark.parametrize(("make", "sentence"), BAD)
def test_bad_options_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize("name", ["none", "paraphrase", "prefix", "sample"])
def test_every_probe_is_a_choice(name):
    cfg = compose_settings("evaluate", f"probe={name}", "seed=11")
    probe: Any = build(cfg.probe, f"probe={name}")
    assert probe.name == name and (name in ("none", "prefix") or probe.seed == 11)


def evaluate(folder: Path, *overrides: str) -> Path:
    rest = ("split=forget05", f"model.path={target()}", *QUICK_EVALUATION, "trust_oracle=true", "out=eval")
    run(folder, "evaluate", *rest, *overrides)
    return folder / "eval"


def test_an_evaluation_under_a_probe_has_the_same_numbers_and_an_oracle_asked_alike(tmp_path):
    (tmp_path / "oracle").mkdir()
    for file in Path(target()).iterdir():
        (tmp_path / "oracle" / file.name).symlink_to(file)
    made = evaluate(tmp_path, "probe=prefix", "probe.given=2", f"oracle={tmp_path}/oracle")
    found = metrics(made)
    assert {"model_utility", "forget_truth_ratio", "forget_quality"} <= set(found) and len(found) == 15
    assert found["forget_quality"]["value"] == 1.0  # the oracle is the model itself, under the same probe
    scores = pd.read_parquet(made / "scores.parquet")
    rows = {(r.task, r.index, r.role, r.number): r.wanted.strip() for r in scores.itertuples()}
    for request in (request for request in TOFU.requests("forget05") if request.index < 3):
        for role, number, text in request.answers:
            assert rows[request.task, request.index, role, number] == expected(replace(request, truth=text, given=2))
    generated = {(row["task"], row["index"]): row["truth"] for row in read_rows(made / "generations.jsonl")}
    assert generated["forget", 0] == expected(replace(ASKED[0], given=2)) != ASKED[0].truth


def test_sampled_answers_are_evaluated_as_others_are(tmp_path):
    plain, drawn = (tmp_path / name for name in ("plain", "drawn"))
    for folder, probe in ((plain, "none"), (drawn, "sample")):
        folder.mkdir()
        evaluate(folder, f"probe={probe}", "oracle=none")
    before, after = metrics(plain / "eval"), metrics(drawn / "eval")
    assert before.keys() == after.keys() and before["forget_prob"] == after["forget_prob"]
    texts = [[row["generation"] for row in read_rows(folder / "eval" / "generations.jsonl")] for folder in (plain, drawn)]
    assert len(texts[0]) == len(texts[1]) and texts[0] != texts[1]


def test_a_probe_that_has_no_meaning_is_refused_before_a_model_is_loaded():
    with pytest.raises(ValueError, match="probe=sample: benchmark=nlg asks for no answer"):
        check_evaluation(compose_settings("evaluate", "benchmark=nlg", "probe=sample", "model.path=x"))
    logs = Path(__file__)
    with pytest.raises(SettingsError, match="probe=prefix: not with from_logs"):
        check_evaluation(compose_settings("evaluate", "probe=prefix", f"from_logs={logs}"))
