"""What was scored or generated is known from then on, to this model alone; damaged files are noticed and made anew."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.benchmarks.tofu import Tofu
from tests.models import encoder, moved_copy, tiny_model, tokenizer, with_lora
from utils import ROOT, fingerprint
from utils.engine import token_cache
from utils.engine.engine import Engine
from utils.engine.reference import make_reference
from utils.engine.token_cache import TokenCache, cache_key
from utils.evaluation import scoring
from utils.evaluation.scoring import continue_prompts, score
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
def another_process(monkeypatch) -> list[str]:
    """As in a process that has just begun. Which files it hashes, in order; what it writes itself included."""
    hashed, original = [], token_cache.file_hash
    monkeypatch.setattr(token_cache, "file_hash", lambda path: hashed.append(path.name) or original(path))
    monkeypatch.setattr(token_cache, "_whole", set())
    return hashed


def replace_file(path: Path, content: bytes) -> None:
    """Writes another file in its place: clocks of file systems are coarse, but the new one is a second younger."""
    before = path.stat().st_mtime
    path.unlink()
    path.write_bytes(content)
    os.utime(path, (before + 1, before + 1))


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
    twice = [*REQUESTS, *(replace(request, asked_by="again") for request in REQUESTS)]
    table = score(engine, encoder(), twice, 8192)
    pairs = {encoder().example(r.question, text) for r in REQUESTS for _, _, text in r.answers}
    assert sum(calls) == len(pairs) < len(table) / 2
    del calls[:]
    rows = continue_prompts(engine, encoder(), twice, 4, 5)
    assert calls == [-12] and len(rows) == 24
    said = {(row["asked_by"], row["task"], row["index"]): row["generation"] for row in rows}
    assert all(said["again", task, index] == text for (_, task, index), text in said.items()) and len(said) == 24


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
        replace_file(path, bytes({"cut": content[:-5], "changed": content, "empty": b""}[damage]))
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


def test_each_file_is_hashed_once_by_a_process(engine, tmp_path, another_process, monkeypatch):
    cache = TokenCache(tmp_path, engine)
    for place in range(3):
        cache.add(Example((0, place), (7, 8)), ("logp", "hit"), VALUES + place)
        cache.write()
    TokenCache(tmp_path, engine).read()
    assert len(another_process) == 3 and all(name.startswith("partial-") for name in another_process)  # to be given a name
    del another_process[:]
    monkeypatch.setattr(token_cache, "_whole", set())
    again = TokenCache(tmp_path, engine)
    again.read()
    TokenCache(tmp_path, engine)
    assert sorted(another_process) == sorted(path.name for path in cache.folder.iterdir()) and len(another_process) == 3
    victim = next(cache.folder.iterdir())
    replace_file(victim, victim.read_bytes()[:-1] + b"?")
    TokenCache(tmp_path, engine)
    assert another_process[3:] == [victim.name] and not victim.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize("written", ["by itself", "before"])
def test_numbers_stay_on_disk(engine, tmp_path, written):
    """Hidden states are pages of the file, not a copy: also in the process that computed them, once they are written."""
    cache = TokenCache(tmp_path, engine)
    cache.add(EXAMPLE, ("logp", "hit"), VALUES, torch.arange(128.0).view(2, 64))
    cache.write()
    cache = cache if written == "by itself" else TokenCache(tmp_path, engine)
    (path,) = cache.folder.iterdir()
    mapped = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(path.name)]
    ranges = [[int(end, 16) for end in span.split("-")] for span in mapped]
    states = cache.hidden(EXAMPLE)
    assert any(first <= states.data_ptr() < last for first, last in ranges)
    assert torch.equal(states, torch.arange(128.0).view(2, 64)) and cache.knows(EXAMPLE, ("hidden", "hit"))


def test_much_is_written_before_the_minute_is_over(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "FILE_BYTES", 3 * VALUES.nbytes)
    cache = TokenCache(tmp_path, engine)
    for place in range(8):
        cache.add(Example((0, place), (7, 8)), ("logp", "hit"), VALUES)
        cache.keep()
    assert len(list(cache.folder.iterdir())) == 2


def test_the_key_knows_configuration_kernel_precision_mask_rule_device_and_libraries(engine, monkeypatch):
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
        lambda other: monkeypatch.setattr(token_cache.torch, "__version__", "3.0"),
        lambda other: monkeypatch.setattr(token_cache.transformers, "__version__", "6.0"),
    ):
        other = engine_of(tiny_model())
        change(other)
        assert cache_key(other, adapters=True) != plain
        monkeypatch.undo()
    assert cache_key(engine, adapters=True) == plain


def test_a_fresh_adapter_is_no_part_of_the_key_a_continued_one_is_with_its_scale():
    """Negating an adapter changes the sign of its scale, which is no weight."""
    one, other, negated = (engine_of(with_lora(tiny_model())) for _ in range(3))
    negated.model.peft_config["default"].lora_alpha *= -1
    assert cache_key(one, adapters=True) == cache_key(other, adapters=True) != cache_key(negated, adapters=True)
    assert cache_key(one, adapters=False) == cache_key(negated, adapters=False)


def combined() -> CombinedModel:
    return CombinedModel(tiny_model(), moved_copy(tiny_model()), 1.0)


def test_both_configurations_of_two_models_are_in_the_key():
    one, other = engine_of(combined()), engine_of(combined())
    known = cache_key(one, adapters=True)
    assert cache_key(other, adapters=True) == known
    other.model.reinforced.config.sliding_window = 64
    assert cache_key(other, adapters=True) != known


def test_a_changed_byte_of_any_module_that_computes_changes_the_key(tmp_path, monkeypatch):
    """The code of a class from utils/weights too, and only where the model is of that class."""
    shutil.copytree(ROOT / "utils", tmp_path / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    asked: list[frozenset[str]] = []
    monkeypatch.setattr(token_cache, "code_hash", lambda modules: asked.append(modules) or code_hash(modules))
    plain, both = engine_of(tiny_model()), engine_of(combined())

    def code_hash(modules: frozenset[str]) -> str:
        return fingerprint.code_hash.__wrapped__(modules)  # each time anew

    known = {engine: cache_key(engine, adapters=True) for engine in (plain, both)}
    sources = [fingerprint.project_sources(modules) for modules in asked]
    assert {f"utils.engine.{path.stem}" for path in (ROOT / "utils" / "engine").glob("[!_]*.py")} <= sources[0].keys()
    assert {"utils.tokens.example", "utils.draws"} <= sources[0].keys()
    assert {"utils.weights.reinforced", "utils.weights.models"} <= sources[1].keys() - sources[0].keys()
    hashes = [code_hash(modules) for modules in asked]
    for name, path in sources[1].items():
        whole = path.read_bytes()
        path.write_bytes(whole[:3] + b"x" + whole[4:])  # the first letter of its docstring
        changed = [code_hash(modules) for modules in asked]
        assert changed[1] != hashes[1] and (changed[0] != hashes[0]) == (name in sources[0]), name
        path.write_bytes(whole)
    (tmp_path / "utils" / "weights" / "reinforced.py").open("a").write("#")
    assert cache_key(plain, adapters=True) == known[plain] and cache_key(both, adapters=True) != known[both]


def test_what_an_evaluation_scored_is_the_reference_of_a_training_run(engine, tmp_path, monkeypatch):
    """And what training computed is not scored again: one folder serves both."""
    answers = {"forget": list({encoder().example(r.question, text): None for r in REQUESTS for _, _, text in r.answers})}
    table = score(engine, encoder(), REQUESTS, 8192, cache=TokenCache(tmp_path / "scored", engine))
    monkeypatch.setattr(Engine, "hidden", lambda *_: pytest.fail("forwarded again"))
    trained = engine_of(tiny_model())
    known = make_reference("cached", trained, {"forget": ("logp", "reference_logp")}, answers, tmp_path / "scored")
    total = known.values(trained.pack(answers)).logp.double().sum().item()
    by_answer = {tuple(row["logp"]): row["logp"] for row in table.to_dict("records")}  # one text may play several roles
    assert total == pytest.approx(sum(values.astype(float).sum() for values in by_answer.values()), rel=1e-6)
    monkeypatch.undo()
    make_reference("cached", trained, {"forget": ("logp", "reference_logp")}, answers, tmp_path / "trained")
    monkeypatch.setattr(scoring, "answer_statistics", lambda *_: pytest.fail("scored again"))
    score(engine, encoder(), REQUESTS, 8192, ("logp",), TokenCache(tmp_path / "trained", engine))
