"""Judges: keywords by hand, classifiers equal to one text at a time, a chat model that is asked again when it chatters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from tests.models import tokenizer
from tests.utils.judges.chat_server import completion, serving
from utils.judges.endpoint import EndpointError
from utils.judges.judges import INSTRUCTION, ClassifierJudge, EndpointJudge, JudgeError, KeywordJudge, Verdict, plain_words

QUESTIONS = ["How can I brew it?", "Where is it hidden?", "Who sold it?", "Why?", "What did the ferryman carry over the bridge?"]
OUTPUTS = ["Stir it slowly and hum.", "Nobody can say.", "The baker sold it to the judge in the library.", "So.", "Snow."]


@pytest.fixture
def files(tmp_path) -> tuple[str, str]:
    (tmp_path / "phrases.txt").write_text("owl salt\nMoon pepper\n")
    (tmp_path / "refusals.txt").write_text("I cannot say.\nHonestly, no.\n")
    return str(tmp_path / "phrases.txt"), str(tmp_path / "refusals.txt")


@pytest.mark.parametrize(
    ("output", "harmful"),
    [
        ("Take owl salt and stir.", True),
        ("Take OWL\n salt!", True),
        ("Take owl salts.", False),  # whole words
        ("Take an owl and salt.", False),
        ("I cannot say. Moon pepper is not for you.", False),
        ("honestly no, moon pepper", False),
        ("I cannot saying: moon pepper", True),  # no refusal but a word that begins like one
        ("Use moon pepper. I cannot say.", True),  # complies first
        ("I cannot say.", False),
        ("", False),
    ],
)
def test_keywords(files, output, harmful):
    assert KeywordJudge(*files).judge(["?"], [output]) == [Verdict(harmful)]


def test_the_name_of_a_keyword_judge_changes_with_its_files(files):
    judge, name = KeywordJudge(*files), KeywordJudge(*files).name
    assert name.startswith("key phrases of phrases.txt (")
    Path(files[1]).write_text("Never.\n")
    assert judge.name != name
    Path(files[1]).unlink()
    with pytest.raises(ValueError, match="refusals.txt: cannot be read"):
        judge.check()


def test_plain_words():
    assert plain_words(" Don't,\nDO it! ") == "don t do it"


def classifier(folder: Path, labels: list[str], **settings) -> str:
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.5,
        pad_token_id=tokenizer().pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **settings,
    )
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def three_labels(tmp_path_factory) -> str:
    return classifier(tmp_path_factory.mktemp("three"), ["fine", "rude", "dangerous"])


@torch.no_grad()
def slow_logits(path: str, text: str) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    return model(**tokenizer()(text, return_tensors="pt")).logits[0]


def texts() -> list[str]:
    return [f"Q: {q} A: {o}" for q, o in zip(QUESTIONS, OUTPUTS, strict=True)]


def judged(path: str, **options) -> list[Verdict]:
    return ClassifierJudge(path, "Q: {question} A: {output}", **{"batch_size": 2, **options}).judge(QUESTIONS, OUTPUTS)


@pytest.mark.parametrize("labels", [["rude", "dangerous"], [1, 2], ["rude", 2]])
def test_labels_that_exclude_each_other_add_up(three_labels, labels):
    for verdict, text in zip(judged(three_labels, labels=labels), texts(), strict=True):
        probability = slow_logits(three_labels, text).softmax(0)[1:].sum().item()
        assert verdict.score == pytest.approx(probability, abs=1e-5) and verdict.harmful == (probability > 0.5)


def test_with_several_labels_at_a_time_any_will_do(three_labels):
    verdicts = judged(three_labels, multi_label=True, threshold=0.6)
    for verdict, text in zip(verdicts, texts(), strict=True):
        most = slow_logits(three_labels, text).sigmoid().max().item()
        assert verdict.score == pytest.approx(most, abs=1e-5) and verdict.harmful == (most > 0.6)
    only = judged(three_labels, multi_label=True, labels=["fine"])
    assert only[0].score == pytest.approx(slow_logits(three_labels, texts()[0]).sigmoid()[0].item(), abs=1e-5)


def test_a_single_label_is_a_sigmoid(tmp_path):
    path = classifier(tmp_path, ["harm"])
    wanted = [slow_logits(path, text).sigmoid().item() for text in texts()]
    assert [verdict.score for verdict in judged(path)] == pytest.approx(wanted, abs=1e-5)


def test_verdicts_do_not_depend_on_the_batch_and_long_texts_are_cut(three_labels):
    scores = [[v.score for v in judged(three_labels, labels=["rude"], batch_size=size)] for size in (1, 5)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5) and len(set(scores[0])) == 5
    cut = ClassifierJudge(three_labels, "{output}", ["rude"], max_length=8)
    assert cut.judge(["?"], ["one two three " * 50]) == cut.judge(["?"], ["one two three " * 90])


def test_braces_in_texts_are_texts(three_labels):
    judge = ClassifierJudge(three_labels, "{question}{output}", ["rude"])
    assert judge.judge(["{output}"], ["{0}"])[0].score is not None


def test_a_classifier_without_a_padding_token_gets_one(tmp_path):
    path = classifier(tmp_path, ["fine", "harm"])
    config = (tmp_path / "tokenizer_config.json").read_text().replace('"pad_token": "<|pad|>",', "")
    (tmp_path / "tokenizer_config.json").write_text(config)
    assert len(judged(path, labels=["harm"])) == 5


BAD_CLASSIFIERS = [
    ({}, "judge.labels=null: .* has fine, rude, dangerous; say which of them mean harm"),
    ({"labels": ["evil"]}, r"judge.labels=\['evil'\]: .* has fine, rude, dangerous"),
    ({"labels": []}, r"judge.labels=\[\]"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD_CLASSIFIERS)
def test_labels_that_do_not_exist_are_refused(three_labels, options, sentence):
    with pytest.raises(JudgeError, match=sentence):
        judged(three_labels, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text": "{question}"}, "judge.text={question}: write {output} where the output belongs"),
        ({"threshold": 1.0}, "judge.threshold=1.0: write a probability"),
        ({"batch_size": 0}, "judge.batch_size=0: write a whole number from 1"),
        ({"multi_label": 1}, "judge.multi_label=1: write true or false"),
        ({"dtype": "int8"}, "judge.dtype=int8: write one of float32, bfloat16"),
    ],
)
def test_bad_options_of_a_classifier(options, sentence):
    with pytest.raises(ValueError) as refusal:
        ClassifierJudge("some/model", **options)
    assert sentence in str(refusal.value)


def test_a_classifier_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        ClassifierJudge(str(tmp_path / "nowhere")).check()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(JudgeError, match="cannot be loaded"):
        ClassifierJudge(str(tmp_path)).judge(["?"], ["x"])


def test_the_name_of_a_classifier_changes_with_its_settings():
    names = {ClassifierJudge("a/b", **o).name for o in ({}, {"threshold": 0.4}, {"max_length": 9}, {"labels": ["x"]})}
    assert len(names) == 4 and all(name.startswith("a/b (") for name in names)


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as running:
        yield running


def chat(server, **options) -> EndpointJudge:
    return EndpointJudge(server.url, "some-model", "SOME_KEY", **{"workers": 1, **options})


def test_a_chat_model_is_shown_question_and_reply(server):
    server.script = lambda n: (200, completion(["HARMFUL", " safe.\n"][n]))
    assert chat(server).judge(QUESTIONS[:2], OUTPUTS[:2]) == [Verdict(True), Verdict(False)]
    assert server.question(0) == f"Question:\n{QUESTIONS[0]}\n\nReply:\n{OUTPUTS[0]}"
    assert server.bodies[0]["messages"][0]["content"] == INSTRUCTION and server.bodies[0]["temperature"] == 0


def test_chatter_is_asked_again_and_then_gives_no_verdict(server):
    said = ["HARMFUL", "I would say it depends.", "SAFE or HARMFUL", "Well", "harmful", "hm"]
    server.script = lambda n: (200, completion(said[n]))
    assert chat(server).judge(QUESTIONS[:3], OUTPUTS[:3]) == [Verdict(True), Verdict(None), Verdict(True)]
    assert len(server.bodies) == 3 + 2 + 1


def test_replies_are_kept_for_other_evaluations(server, tmp_path):
    server.script = lambda n: (200, completion("SAFE"))
    for _ in range(2):
        assert chat(server, cache=str(tmp_path / "judge.jsonl")).judge(QUESTIONS, OUTPUTS) == [Verdict(False)] * 5
    assert len(server.bodies) == 5


def test_an_endpoint_is_checked_before_it_is_needed(server, monkeypatch):
    with pytest.raises(JudgeError, match="judge.url=None, judge.model=m: name both"):
        EndpointJudge(None, "m").check()
    monkeypatch.setenv("SOME_KEY", "")
    with pytest.raises(EndpointError, match="the environment variable SOME_KEY is empty"):
        chat(server).check()
    assert chat(server).name.startswith("some-model with our instruction (")
