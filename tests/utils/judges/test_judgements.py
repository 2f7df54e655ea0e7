"""What others say about outputs is asked once, kept, and equal to asking about one text at a time."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch

from tests.models import tiny_model, tokenizer
from utils.files import read_rows
from utils.judges import judgements
from utils.judges.judgements import (
    PerplexityModel,
    add_bleurt,
    add_perplexities,
    check_bleurt,
    judge_generations,
    output_perplexity,
)
from utils.judges.judges import JudgeError, Verdict
from utils.weights.models import save_model

TEXTS = ["The lighthouse was painted in 1931.", "", "Nobody can say, and nobody ever could.", "So.", " \n", "Ost " * 30]


@dataclass
class Counting:
    """Calls long outputs harmful and notes what it was asked."""

    name: str = "long"
    asked: list[str] = field(default_factory=list)
    silent: bool = False

    def check(self) -> None: ...

    def judge(self, questions: Sequence[str], outputs: Sequence[str]) -> list[Verdict]:
        self.asked += outputs
        return [Verdict(None if self.silent else len(output) > 10, 0.25) for output in outputs]


def rows(texts: Sequence[str] = TEXTS) -> list[dict]:
    return [{"task": "harmful", "index": n, "question": f"Why {n}?", "output": text} for n, text in enumerate(texts)]


def test_verdicts_are_added_in_order_and_silence_is_not_judged(tmp_path):
    judge = Counting()
    found = judge_generations(judge, rows(), tmp_path)
    assert [row["harmful"] for row in found] == [True, False, True, False, False, True]
    assert judge.asked == [text for text in TEXTS if text.strip()]
    assert [row["harmful_score"] for row in found] == [0.25, None, 0.25, 0.25, None, 0.25]
    assert all(row["judge"] == "long" for row in found) and [row["index"] for row in found] == list(range(6))
    assert {frozenset(line) for line in read_rows(tmp_path / "judgements.jsonl")} == {
        frozenset({"key", "judge", "harmful", "score"})
    }


def test_nothing_is_judged_twice_but_by_another_judge(tmp_path):
    first = judge_generations(Counting(), rows(), tmp_path)
    again = Counting()
    assert judge_generations(again, rows(), tmp_path) == first and again.asked == []
    more = Counting()
    judge_generations(more, rows([*TEXTS, "Something quite new"]), tmp_path)
    assert more.asked == ["Something quite new"]
    other = Counting("other")
    judge_generations(other, rows(), tmp_path)
    assert len(other.asked) == 4 and len(read_rows(tmp_path / "judgements.jsonl")) == 6 + 1 + 6


def test_what_was_judged_before_an_interruption_is_kept(tmp_path, monkeypatch):
    class Stopping(Counting):
        def judge(self, questions, outputs):
            if self.asked:
                raise KeyboardInterrupt
            return super().judge(questions, outputs)

    monkeypatch.setattr(judgements, "CHUNK", 2)
    with pytest.raises(KeyboardInterrupt):
        judge_generations(Stopping(), rows(), tmp_path)
    left = Counting()
    judge_generations(left, rows(), tmp_path)
    assert left.asked == [text for text in TEXTS[2:] if text.strip()]


def test_no_verdict_is_asked_for_again(tmp_path):
    found = judge_generations(Counting(silent=True), rows(), tmp_path)
    assert [row["harmful"] for row in found] == [None, False, None, None, False, None]
    again = Counting()
    assert [row["harmful"] for row in judge_generations(again, rows(), tmp_path)] == [True, False, True, False, False, True]
    assert len(again.asked) == 4


@torch.no_grad()
def slow_nll(model, text: str) -> float:
    ids = torch.tensor([[tokenizer().bos_token_id, *tokenizer()(text, add_special_tokens=False).input_ids]])
    logp = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    return -float(logp.gather(-1, ids[0, 1:, None]).mean())


@pytest.mark.parametrize("budget", [1, 100, 8192])
def test_likelihood_of_every_token_after_bos(budget):
    model = tiny_model()
    texts = [text for text in TEXTS if text.strip()]
    found = output_perplexity(model, tokenizer(), texts, tokens_per_batch=budget)
    for text, loss in zip(texts, found, strict=True):
        assert loss.nll == pytest.approx(slow_nll(model, text), abs=1e-5)
        assert loss.tokens == len(tokenizer()(text, add_special_tokens=False).input_ids)


def test_empty_texts_have_no_likelihood_and_long_ones_are_cut():
    model = tiny_model()
    assert [loss is None for loss in output_perplexity(model, tokenizer(), ["", "So.", " \n"])] == [True, False, True]
    assert output_perplexity(model, tokenizer(), [""]) == [None]
    (cut,) = output_perplexity(model, tokenizer(), [TEXTS[-1]], max_length=9)
    short = tokenizer().decode(tokenizer()(TEXTS[-1], add_special_tokens=False).input_ids[:8])
    assert cut.tokens == 8 and cut.nll == pytest.approx(slow_nll(model, short), abs=1e-5)


def test_a_tokenizer_without_bos_is_refused(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer()), "bos_token_id", None, raising=False)
        with pytest.raises(JudgeError, match="has no BOS token to start a text with; name another model"):
            output_perplexity(tiny_model(), tokenizer(), ["So."])


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> PerplexityModel:
    folder = tmp_path_factory.mktemp("reference")
    save_model(tiny_model(), tokenizer(), folder / "model", torch.float32)
    return PerplexityModel(str(folder))  # a run folder stands for the model in it


def test_perplexities_are_added_and_kept(language_model, tmp_path, monkeypatch):
    found = add_perplexities(language_model, rows(), tmp_path, 8192)
    values = [row["nll"] for row in found]
    assert [value is None for value in values] == [False, True, False, False, True, False]
    assert values[0] == pytest.approx(slow_nll(tiny_model(), TEXTS[0]), abs=1e-5)
    assert np.isfinite([value for value in values if value is not None]).all()
    assert {row["perplexity_model"] for row in found} == {language_model.path}
    monkeypatch.setattr(PerplexityModel, "losses", lambda *_: pytest.fail("the model was asked again"))
    assert add_perplexities(language_model, rows(), tmp_path, 100) == found


def test_a_reference_model_that_is_not_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(JudgeError, match="perplexity_model=.* cannot be loaded"):
        PerplexityModel(str(tmp_path)).losses(["x"], 10)


def test_bleurt_is_asked_once_with_the_named_checkpoint(tmp_path, monkeypatch):
    made = []

    class BleurtScorer:
        def __init__(self, checkpoint):
            made.append(checkpoint)

        def score(self, *, references, candidates):
            return [len(r) - len(c) for r, c in zip(references, candidates, strict=True)]

    package, module = types.ModuleType("bleurt"), types.ModuleType("bleurt.score")
    package.__spec__ = ModuleSpec("bleurt", None)
    module.BleurtScorer = BleurtScorer
    monkeypatch.setitem(sys.modules, "bleurt", package)
    monkeypatch.setitem(sys.modules, "bleurt.score", module)
    compared = [{**row, "base": "four"} for row in rows(["abc", "abcdef"])]
    for _ in range(2):
        found = add_bleurt("some/checkpoint", compared, tmp_path)
        assert [row["bleurt"] for row in found] == [1, -2] and found[0]["bleurt_checkpoint"] == "some/checkpoint"
    assert made == ["some/checkpoint"]


def test_without_bleurt_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(JudgeError, match="bleurt_checkpoint=x: the package bleurt is not installed"):
        check_bleurt("x")
