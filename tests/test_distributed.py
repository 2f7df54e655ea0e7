"""Two processes give what one gives: the same curve, the same weights, the same metrics; sharded or not.

All that two processes do is done in one start: tests/together.py, under -m slow with torchrun. Each test looks at its part of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import ITEMS, RETAIN, encoder, moved, tiny_model, tokenizer, with_lora
from tests.runs import (
    ROOT,
    assert_same_curve,
    assert_same_weights,
    compose_settings,
    launch,
    losses,
    metrics,
    run,
    target,
    weights,
)
from tests.together import EVALUATION, MORE_SHARDED, SHARDED, STEPS, TRAINS
from utils.distributed import gathered
from utils.engine import reference
from utils.engine.engine import Engine
from utils.engine.token_cache import TokenCache
from utils.files import read_json
from utils.runs.run import Run
from utils.tokens.example import Example
from utils.weights.models import save_model

OTHERS = ("evaluates", "fails_first", "gathers", "shares_the_cache", "opens", "looks_before_others_have_written")
OTHERS += ("works_in_folders_of_its_own",)


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """A folder in which two processes did everything."""
    folder = tmp_path_factory.mktemp("together")
    models(folder)
    for name in ("one", "two"):
        oracle(folder / name / "evaluates")
    cache = TokenCache(folder / "two" / "shares_the_cache" / "cache", Engine(tiny_model(), pad=0))
    for place in range(4):
        cache.add(Example((0, place), (7, 8)), ("logp",), torch.tensor([[-1.0 - place], [0.0]]))
        cache.write()
    damaged = damaged_file(cache.folder)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with Run.open(compose_settings("unlearn", f"out={folder / 'two' / 'opens' / 'held'}"), "unlearn", {}):
        start(folder, *TRAINS, *OTHERS, *SHARDED, "waits")
    return folder


def models(folder: Path) -> None:
    """Models to start from: of one layer, of two, tied, and the second with an adapter that has learnt something."""
    (folder / "models").mkdir()
    (folder / "models" / "target").symlink_to(target())
    save_model(tiny_model(), tokenizer(), folder / "models" / "plain", torch.float32)
    save_model(tiny_model(tie_word_embeddings=True), tokenizer(), folder / "models" / "tied", torch.float32)
    adapted = moved(with_lora(tiny_model()), 0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "models" / "plain")
    save_model(adapted, tokenizer(), folder / "models" / "adapter", torch.float32)


def start(folder: Path, *parts: str, fresh: bool = False) -> None:
    finished = launch(folder, "-m", "tests.together", *parts, processes=2, fresh=fresh, PYTHONPATH=str(ROOT))
    assert finished.code == 0, finished.err
    assert {(folder / f"left-{number}").read_text() for number in (0, 1)} == {"True"}  # the process group


def said(folder: Path, part: str) -> list[Any]:
    """What each of the two processes had to say."""
    found = [json.loads((folder / "two" / part / f"said-{number}.json").read_text()) for number in (0, 1)]
    errors = [one["error"] for one in found if isinstance(one, dict) and "error" in one]
    assert not errors, "\n".join(errors)
    return found


def alone(folder: Path, part: str, script: str, words: Sequence[str]) -> Path:
    """What one process makes of it."""
    where = folder / "one" / part
    where.mkdir(parents=True, exist_ok=True)
    run(where, script, *words)
    return where


def both_runs(folder: Path, part: str, words: Sequence[str]) -> tuple[Path, Path]:
    """The runs of one process and of two."""
    said(folder, part)
    return alone(folder, part, "unlearn", words) / "run", folder / "two" / part / "run"


def test_two_processes_train_like_one(together):
    one, two = both_runs(together, "trains", TRAINS["trains"])
    noted = read_json(two / "run.json")
    assert noted["status"] == "finished" and noted["hardware"]["processes"] == 2
    assert noted["batch"] == "batch 4 = 2 process(es) x 2 per device x 1 accumulation step(s)"
    assert [record["step"] for record in losses(two)] == [1, 2, 3, 4, 5]
    assert_same_curve(two, one)
    assert_same_weights(weights(two), weights(one), 1e-6)


def test_two_processes_pad_the_micro_batches_that_one_pads(together):
    assert_same_curve(*both_runs(together, "pads", TRAINS["pads"]))


def test_whatever_runs_a_sharded_model_runs_on_all_processes(together):
    """A micro-batch that asks nothing of the reference must not leave the others waiting for its part of the weights."""
    one, two = both_runs(together, "mixes", SHARDED["mixes"])
    assert said(together, "mixes")[0]["sharded"] == ["True"]
    assert_same_curve(two, one)
    assert_same_weights(adapter(two), adapter(one), 1e-6)


def test_a_sharded_adapter_goes_on_with_a_reference_that_stays(together):
    """With gradient checkpointing: every matrix of every layer gets its gradient."""
    one, two = both_runs(together, "continues", SHARDED["continues"])
    assert said(together, "continues")[0]["sharded"] == ["True"]
    assert_same_curve(two, one)
    assert_same_weights(adapter(two), adapter(one), 1e-6)
    before = weights(together / "models", "adapter/adapter_model.safetensors")
    assert len(before) == 2 * 2 * 7  # A and B of 7 projections in 2 layers
    for name, tensor in adapter(two).items():
        assert not torch.equal(tensor, before[name]), name


def test_a_sharded_adapter_on_an_adapter_is_merged_into_both(together):
    """In bfloat16: statistics and sums of gradients are exact, and the model starts as its reference."""
    one, two = both_runs(together, "merges", SHARDED["merges"])
    seen = said(together, "merges")[0]
    assert seen == {"sharded": ["True"], "statistics": ["torch.float32"], "gradients": ["exact"]}
    assert [losses(run)[0]["retain_kl"] < 1e-4 for run in (one, two)] == [True, True]
    assert {tensor.dtype for tensor in weights(two).values()} == {torch.bfloat16}
    assert_same_weights(weights(two), weights(one), 0.01)
    plain = weights(together / "models", "plain/model.safetensors")
    learnt = [(tensor - plain[name]).abs().max() for name, tensor in weights(two).items()]
    assert max(learnt) > 0.05  # by the first adapter
    assert_same_weights(weights(two, "snapshots/5/model.safetensors"), weights(two), 0.0)


def test_two_processes_evaluate_like_one(together):
    assert sorted(said(together, "evaluates")) == [0, 1]  # one process prints
    one, two = alone(together, "evaluates", "evaluate", EVALUATION) / "eval", together / "two" / "evaluates" / "eval"
    assert list(metrics(one)) == list(metrics(two)) and len(metrics(one)) == 15
    for name, metric in metrics(one).items():
        other = metrics(two)[name]
        assert other["value"] == pytest.approx(metric["value"], rel=1e-4), name
        assert other["ci95"] == pytest.approx(metric["ci95"], rel=1e-4), name
        assert (other["n"], other["definition"]) == (metric["n"], metric["definition"])
    texts = [(folder / "generations.jsonl").read_text() for folder in (one, two)]
    assert texts[0] == texts[1] and len(texts[0].splitlines()) == 12


def test_a_failure_of_the_main_process_keeps_no_other_waiting(together):
    assert said(together, "fails_first") == ["disk full", "went on"]


def test_every_process_gets_the_items_of_all_in_their_order(together):
    assert said(together, "gathers") == [["a", "b", "c"]] * 2
    assert gathered([3, 1, 2]) == [3, 1, 2]  # a process alone


def test_two_processes_share_the_checking_of_the_cache_and_what_they_add(together):
    """Each hashes half of the files, besides the one that it writes; both leave out the damaged one, and read each other's."""
    found = said(together, "shares_the_cache")
    names = {name for looked, *_ in found for name in looked}
    assert [len(looked) for looked, *_ in found] == [2, 2] and len(names) == 4
    assert all(rest == [[0, 1, 3], [1.0, 2.0], 1] for _, *rest in found)
    (folder,) = (together / "two" / "shares_the_cache" / "cache").glob("*-*")
    left = {path.name for path in folder.iterdir()}
    assert len(names - left) == 1 and len(left) == 5 and damaged_file(folder) is None


def test_the_processes_of_one_launch_are_one_owner_and_hear_the_same(together):
    first, other = said(together, "opens")
    assert first == other and first[0] is False and f"is in use by another run (process {os.getpid()} on" in first[1]


def test_the_main_process_decides_whether_a_file_is_there(together):
    first, other = said(together, "looks_before_others_have_written")
    assert first == [{"numbers": [0, 1]}, {"number": 0}, {"number": 1}] and other[0] == first[0]


def test_folders_that_machines_do_not_share_are_refused_before_anything_is_done(together):
    for problems, *left in said(together, "works_in_folders_of_its_own"):
        own, cache = problems
        assert own.startswith("out=run: process 1 on ") and cache.startswith("cache=.cache/lethe: process 1 on ")
        for key, problem in {"out": own, "cache": cache}.items():
            assert problem.endswith(
                "cannot see what the main process writes there; all machines of a run need one folder, so choose "
                f"{key}= on a disk that they share"
            )
        assert left == [False, False]


def test_what_one_process_does_alone_may_take_longer_than_what_all_compute(together):
    assert said(together, "waits") == [["found", [0, 1], "never came"], ["found", [0, 1], "gave up"]]


@pytest.mark.slow
def test_sharding_changes_no_curve(tmp_path):
    """Nor do a tied head, accumulated gradients, an adapter on the head, an interruption, and a cache beyond its limit."""
    models(tmp_path)
    start(tmp_path, *MORE_SHARDED, fresh=True)
    assert said(tmp_path, "resumes")[0]["from"] == ["checkpoint-2"]
    for name, words in MORE_SHARDED.items():
        one, two = both_runs(tmp_path, name, words)
        assert said(tmp_path, name)[0]["sharded"] == ["True"], name
        near = 1e-3 if "optimizer=adamw_torch" in words else 1e-5  # its first steps make much of the smallest gradients
        assert_same_curve(two, one, near)
        saved = adapter if (two / "model" / "adapter_model.safetensors").exists() else weights
        assert_same_weights(saved(two), saved(one), near)
    tied = (weights(tmp_path / number / "tied" / "run", "snapshots/3/model.safetensors") for number in ("one", "two"))
    assert_same_weights(*tied, 1e-6)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_zero2_trains_like_one_process(tmp_path):
    adam = tuple("lr=1e-3" if word == "lr=0.05" else word for word in STEPS if not word.startswith("optimizer"))
    for name, processes in {"plain": 1, "zero2": 2}.items():
        (tmp_path / name).mkdir()
        launcher = f"launcher={'zero2' if processes == 2 else 'auto'}"
        overrides = ("method=npo_kl", f"model.path={target()}", *adam, launcher)
        finished = launch(tmp_path / name, "unlearn.py", *overrides, processes=processes)
        assert finished.code == 0, finished.err
    assert_same_weights(weights(tmp_path / "zero2" / "run"), weights(tmp_path / "plain" / "run"), 1e-3)
    names = {path.name for path in (tmp_path / "zero2" / "run" / "model").iterdir()}
    assert "training_args.bin" not in names and {"config.json", "tokenizer.json"} <= names


def test_two_processes_share_the_reference_out_whoever_comes_first(tmp_path, monkeypatch):
    engine = Engine(tiny_model(), pad=0)
    examples = {"forget": [encoder().example(qa.question, qa.answer) for qa in (*ITEMS, *RETAIN)]}
    monkeypatch.setattr(reference, "world_size", lambda: 2)
    for number in (0, 1):
        monkeypatch.setattr(reference, "rank", lambda number=number: number)
        cache = TokenCache(tmp_path, engine)
        reference.fill(cache, engine, examples, with_hidden=("forget",))
    for example in examples["forget"]:
        assert len(cache.values(example, ("logp",))) == len(cache.hidden(example)) == len(example.answer)


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return weights(run, "model/adapter_model.safetensors")


def damaged_file(folder: Path) -> Path | None:
    """The file with the third example's value."""
    mark = torch.tensor(-3.0).numpy().tobytes()
    return next((path for path in folder.iterdir() if mark in path.read_bytes()), None)


def oracle(folder: Path) -> None:
    """A folder that points to a model: what evaluations write beside an oracle must not lie in the shared one."""
    (folder / "oracle").mkdir(parents=True)
    (folder / "oracle" / "model").symlink_to(target())
    (folder / "oracle" / "run.json").write_text(json.dumps({"script": "finetune", "settings": {"split": "retain95"}}))
