"""Two processes give what one gives: the same curve, the same weights, the same metrics. Each test starts torchrun (gloo)."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.models import ITEMS, RETAIN, encoder, tiny_model
from tests.runs import (
    QUICK_EVALUATION,
    ROOT,
    assert_same_curve,
    assert_same_weights,
    launch,
    losses,
    metrics,
    run,
    target,
    weights,
)
from utils.distributed import gathered
from utils.engine import reference
from utils.engine.engine import Engine
from utils.engine.token_cache import TokenCache
from utils.files import read_json
from utils.tokens.example import Example

# 10 items in batches of 4: 5 steps. NPO-KL reads a reference, which both processes compute and cache together.
STEPS = ("method=npo_kl", "split=forget05", "batch_size=4", "epochs=2", "warmup=1", "optimizer=sgd", "lr=0.05")


def test_two_processes_train_like_one(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    overrides = ("model=tiny", f"model.path={target()}", *STEPS, "checkpoint=2", "out=run")
    run(alone, "unlearn", *overrides)
    finished = launch(together, "unlearn.py", *overrides, "per_device_batch_size=2", processes=2)
    assert finished.code == 0, finished.err
    assert finished.out.count("10 items, 5 optimizer steps; batch 4 = 2 process(es) x 2 per device x 1 accumulation") == 2
    noted = read_json(together / "run" / "run.json")
    assert noted["status"] == "finished" and noted["hardware"]["processes"] == 2
    assert [record["step"] for record in losses(together / "run")] == [1, 2, 3, 4, 5]
    assert_same_curve(together / "run", alone / "run")
    assert_same_weights(weights(together / "run"), weights(alone / "run"), 1e-6)


def test_two_processes_pad_the_micro_batches_that_one_pads(tmp_path):
    """Two items after one another are one micro-batch, whoever computes it; the reference has the same rows in its cache."""
    overrides = ("model=tiny", f"model.path={target()}", *STEPS, "method.loss.kl_span=open_unlearning", "per_device_batch_size=2")
    overrides += ("reference=cached", "out=run")
    for name, processes in {"alone": 1, "together": 2}.items():
        (tmp_path / name).mkdir()
        finished = launch(tmp_path / name, "unlearn.py", *overrides, processes=processes)
        assert finished.code == 0, finished.err
    assert_same_curve(tmp_path / "together" / "run", tmp_path / "alone" / "run")


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_zero2_trains_like_one_process(tmp_path):
    adam = tuple("lr=1e-3" if word == "lr=0.05" else word for word in STEPS if not word.startswith("optimizer"))
    for name, processes in {"plain": 1, "zero2": 2}.items():
        (tmp_path / name).mkdir()
        launcher = f"launcher={'zero2' if processes == 2 else 'auto'}"
        overrides = ("model=tiny", f"model.path={target()}", *adam, launcher, "out=run")
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


def test_two_processes_evaluate_like_one(tmp_path):
    batches = ("tokens_per_batch=300", "generation_batch_size=2")
    overrides = ("split=forget05", "model=tiny", f"model.path={target()}", *QUICK_EVALUATION, *batches)
    folders = {}
    for name, processes in (("alone", 1), ("together", 2)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        oracle(folders[name])
        arguments = (*overrides, "oracle=oracle", "trust_oracle=true", "out=eval")
        if processes == 1:
            run(folders[name], "evaluate", *arguments)
        else:
            finished = launch(folders[name], "evaluate.py", *arguments, processes=2)
            assert finished.code == 0, finished.err
            assert finished.out.count("forget_quality") == 1  # one process prints
    one, other = metrics(folders["alone"] / "eval"), metrics(folders["together"] / "eval")
    assert list(one) == list(other) and len(one) == 15
    for name, metric in one.items():
        assert other[name]["value"] == pytest.approx(metric["value"], rel=1e-4), name
        assert other[name]["ci95"] == pytest.approx(metric["ci95"], rel=1e-4), name
        assert (other[name]["n"], other[name]["definition"]) == (metric["n"], metric["definition"])
    texts = {name: (folder / "eval" / "generations.jsonl").read_text() for name, folder in folders.items()}
    assert texts["alone"] == texts["together"] and len(texts["alone"].splitlines()) == 12


FAILS_FIRST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from utils import distributed
distributed.start()
try:
    with distributed.main_first():
        if distributed.is_main():
            raise OSError("disk full")
except OSError as error:
    print(error)
print("done")
"""


def test_a_failure_of_the_main_process_keeps_no_other_waiting(tmp_path):
    (tmp_path / "fails_first.py").write_text(FAILS_FIRST)
    finished = launch(tmp_path, tmp_path / "fails_first.py", processes=2)
    assert finished.code == 0, finished.err
    assert finished.out.count("done") == 2 and finished.out.count("disk full") == 1


GATHERS = f"""
import atexit, json, sys
sys.path.insert(0, {str(ROOT)!r})
from torch.distributed import is_initialized
from utils.distributed import gathered, rank, start

def say():  # registered first, so it runs last
    with open(f"said-{{number}}.json", "w") as file:  # what two processes print may be mixed
        json.dump([every, is_initialized()], file)

atexit.register(say)
start()
number, every = rank(), gathered(["ab", "c"][rank()])
"""


def test_every_process_gets_the_items_of_all_in_their_order_and_leaves_the_group(tmp_path):
    (tmp_path / "gathers.py").write_text(GATHERS)
    finished = launch(tmp_path, tmp_path / "gathers.py", processes=2)
    assert finished.code == 0, finished.err
    assert [json.loads((tmp_path / f"said-{number}.json").read_text()) for number in (0, 1)] == [[["a", "b", "c"], False]] * 2
    assert gathered([3, 1, 2]) == [3, 1, 2]  # a process alone


SHARES = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from tests.models import tiny_model
from utils.distributed import rank, start
from utils.engine import token_cache
from utils.engine.engine import Engine
from utils.tokens.example import Example

start()
hashed, original = [], token_cache.file_hash
token_cache.file_hash = lambda path: hashed.append(path.name) or original(path)
engine = Engine(tiny_model(), pad=0)
cache = token_cache.TokenCache("cache", engine)
token_cache.TokenCache("cache", engine)  # has nothing left to look at
looked = list(hashed)
cache.add(Example((0, 9), (rank(),)), ("logp",), torch.tensor([[1.0 + rank()]]))
cache.share()
known = [place for place in range(4) if cache.knows(Example((0, place), (7, 8)), ("logp",))]
shared = [cache.values(Example((0, 9), (other,)), ("logp",)).item() for other in (0, 1)]
with open(f"said-{{rank()}}.json", "w") as file:  # what two processes print may be mixed
    json.dump([looked, known, shared, len(hashed) - len(looked)], file)
"""


def test_two_processes_share_the_checking_of_the_cache_and_what_they_add(tmp_path):
    """Each hashes half of the files, besides the one that it writes; both leave out the damaged one, and read each other's."""
    cache = TokenCache(tmp_path / "cache", Engine(tiny_model(), pad=0))
    for place in range(4):
        cache.add(Example((0, place), (7, 8)), ("logp",), torch.tensor([[-1.0 - place], [0.0]]))
        cache.write()
    names = {path.name for path in cache.folder.iterdir()}
    damaged = next(path for path in cache.folder.iterdir() if torch.tensor(-3.0).numpy().tobytes() in path.read_bytes())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (tmp_path / "shares.py").write_text(SHARES)
    finished = launch(tmp_path, tmp_path / "shares.py", processes=2)
    assert finished.code == 0, finished.err
    said = [json.loads((tmp_path / f"said-{number}.json").read_text()) for number in (0, 1)]
    assert [len(looked) for looked, *_ in said] == [2, 2] and len(names) == 4
    assert {name for looked, *_ in said for name in looked} == names
    assert all(rest == [[0, 1, 3], [1.0, 2.0], 1] for _, *rest in said)
    assert not damaged.exists() and finished.err.count("is damaged") == 1


def oracle(folder: Path) -> None:
    """A folder that points to a model: what evaluations write beside an oracle must not lie in the shared one."""
    (folder / "oracle").mkdir()
    (folder / "oracle" / "model").symlink_to(target())
    (folder / "oracle" / "run.json").write_text(json.dumps({"script": "finetune", "settings": {"split": "retain95"}}))
