"""What was scored or generated is known from then on, to this model alone; damaged files are noticed and made anew."""

from __future__ import annotations

import pytest
import torch

from data.benchmarks.tofu import Tofu
from tests.models import encoder, moved_copy, tiny_model, tokenizer
from utils.engine import token_cache
from utils.engine.engine import Engine
from utils.engine.token_cache import TokenCache, cache_key
from utils.evaluation import scoring
from utils.evaluation.scoring import continue_prompts, score
from utils.items.requests import Request
from utils.tokens.example import Example
from utils.weights.reinforced import CombinedModel

REQUESTS = Tofu("tofu", "owner/data", "0123", "fixture", rows=3).requests("forget05")
EXAMPLE = Example((0, 5, 6), (7, 8))
VALUES = torch.tensor([[-0.5, 1.0], [-2.0, 0.0]])


def engine_of(model) -> Engine:
    return Engine(model, pad=tokenizer().pad_token_id)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_of(tiny_model())


@pytest.fixture
def calls(engine, monkeypatch) -> list[int]:
    """Pairs per forward pass of the engine, and prompts per generated batch (negative), in order."""
    found, statistics, generate = [], scoring.answer_statistics, scoring.generate

    def count(engine, examples, names):
        found.append(len(examples))
        return statistics(engine, examples, names)

    def continued(model, encoder, prompts, *rest):
        found.append(-len(prompts))
        return generate(model, encoder, prompts, *rest)

    monkeypatch.setattr(scoring, "answer_statistics", count)
    monkeypatch.setattr(scoring, "generate", continued)
    return found


def test_every_answer_is_forwarded_once_and_every_prompt_continued_once(engine, calls):
    """Also if two tasks ask for the same, and whichever role an answer plays."""
    twice = [*REQUESTS, *(Request(f"{r.task}@again", r.index, r.question, r.answers, r.truth) for r in REQUESTS)]
    table = score(engine, encoder(), twice, 8192)
    pairs = {encoder().example(r.question, text) for r in REQUESTS for _, _, text in r.answers}
    assert sum(calls) == len(pairs) < len(table) / 2
    del calls[:]
    rows = continue_prompts(engine, encoder(), twice, 4, 5)
    assert calls == [-12] and len(rows) == 24
    own = {(row["task"], row["index"]): row["generation"] for row in rows}
    assert all(own[f"{task}@again", index] == text for (task, index), text in own.items() if "@" not in task)


def test_another_evaluation_of_the_same_weights_computes_nothing(engine, calls, tmp_path):
    first = score(engine, encoder(), REQUESTS, 8192, cache=TokenCache(tmp_path, engine))
    texts = continue_prompts(engine, encoder(), REQUESTS, 4, 5, TokenCache(tmp_path, engine))
    del calls[:]
    same = engine_of(tiny_model())
    again = score(same, encoder(), REQUESTS, 500, cache=TokenCache(tmp_path, same))
    assert again.equals(first) or again.to_json() == first.to_json()
    assert continue_prompts(same, encoder(), REQUESTS, 2, 5, TokenCache(tmp_path, same)) == texts and not calls
    continue_prompts(same, encoder(), REQUESTS, 2, 6, TokenCache(tmp_path, same))
    assert calls == [-12]  # another limit is another answer


def test_more_statistics_are_another_question(engine, calls, tmp_path):
    cache = TokenCache(tmp_path, engine)
    score(engine, encoder(), REQUESTS[:1], 8192, cache=cache)
    score(engine, encoder(), REQUESTS[:1], 8192, ("logp", "entropy"), cache)
    score(engine, encoder(), REQUESTS[:1], 8192, ("entropy", "hit"), TokenCache(tmp_path, engine))
    assert len(calls) == 2


def test_other_weights_precision_or_code_know_nothing(engine, tmp_path, monkeypatch):
    cache = TokenCache(tmp_path, engine)
    cache.add(EXAMPLE, ("logp", "hit"), VALUES)
    cache.write()
    assert TokenCache(tmp_path, engine).knows(EXAMPLE, ("logp", "hit"))
    assert TokenCache(tmp_path, engine).values(EXAMPLE, ("hit", "logp")).tolist() == VALUES.flip(1).tolist()
    changed = tiny_model()
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-3
    for other in (changed, moved_copy(tiny_model()), tiny_model().bfloat16()):
        assert not TokenCache(tmp_path, engine_of(other)).knows(EXAMPLE, ("logp",))
    monkeypatch.setattr(token_cache, "code_hash", lambda modules: "other")
    assert not TokenCache(tmp_path, engine).knows(EXAMPLE, ("logp",))


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_noticed_and_made_anew(engine, tmp_path, caplog, damage):
    cache = TokenCache(tmp_path, engine)
    cache.add(EXAMPLE, ("logp", "hit"), VALUES)
    cache.add_text("key", "text")
    cache.write()
    for path in cache.folder.iterdir():
        content = bytearray(path.read_bytes())
        content[-3] ^= 1  # the last number of a tensor, a letter of a text: the file's form stays right
        path.write_bytes({"cut": content[:-5], "changed": content, "empty": b""}[damage])
    again = TokenCache(tmp_path, engine)
    assert caplog.text.count("is damaged; what it held is computed again") == 2
    assert not again.knows(EXAMPLE, ("logp",)) and again.text("key") is None and not list(again.folder.iterdir())
    again.add(EXAMPLE, ("logp", "hit"), VALUES)
    again.write()
    assert TokenCache(tmp_path, engine).knows(EXAMPLE, ("logp", "hit"))


def test_processes_share_a_folder(engine, tmp_path):
    one, other = TokenCache(tmp_path, engine), TokenCache(tmp_path, engine)
    one.add(EXAMPLE, ("logp", "hit"), VALUES)
    one.write()
    assert not other.knows(EXAMPLE, ("logp",))
    other.read()
    assert other.knows(EXAMPLE, ("logp",))
    (one.folder / "values-0123.safetensors.partial-5").write_bytes(b"half")
    assert TokenCache(tmp_path, engine).knows(EXAMPLE, ("logp",))


def test_what_is_new_is_kept_once_a_minute(engine, tmp_path, monkeypatch):
    cache = TokenCache(tmp_path, engine)
    cache.add_text("key", "text")
    cache.keep()
    assert not cache.folder.exists()
    monkeypatch.setattr(token_cache, "SECONDS", -1.0)
    cache.keep()
    assert TokenCache(tmp_path, engine).text("key") == "text"


def test_without_a_folder_everything_stays_in_memory(engine, tmp_path):
    cache = TokenCache(None, engine)
    cache.add(EXAMPLE, ("logp", "hit"), VALUES)
    cache.write()
    assert cache.knows(EXAMPLE, ("logp",)) and not list(tmp_path.iterdir())


def test_the_key_knows_configuration_kernel_precision_mask_rule_and_device(engine):
    plain = cache_key(engine, adapters=True)
    assert cache_key(engine_of(tiny_model()), adapters=True) == plain
    renamed = engine_of(tiny_model())
    renamed.model.config._name_or_path = "somewhere/else"
    assert cache_key(renamed, adapters=True) == plain  # where it came from changes nothing that it says
    for change in (
        lambda other: setattr(other.model.config, "rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        lambda other: setattr(other.model.config, "sliding_window", 64),
        lambda other: setattr(other.model.config, "_attn_implementation", "eager"),
        lambda other: setattr(other, "autocast", True),
        lambda other: setattr(other, "hide", 2),
        lambda other: setattr(other, "device", torch.device("cuda")),
        lambda other: setattr(other, "dtype", torch.bfloat16),
    ):
        other = engine_of(tiny_model())
        change(other)
        assert cache_key(other, adapters=True) != plain


def test_the_code_that_combines_two_models_is_part_of_the_key(engine, monkeypatch):
    asked: list[frozenset[str]] = []
    monkeypatch.setattr(token_cache, "code_hash", lambda modules: asked.append(modules) or "")
    cache_key(engine, adapters=True)
    cache_key(engine_of(CombinedModel(tiny_model(), moved_copy(tiny_model()), 1.0)), adapters=True)
    alone, combined = asked
    assert "utils.engine.packing" in alone and "utils.weights.reinforced" not in alone
    assert "utils.weights.reinforced" in combined
