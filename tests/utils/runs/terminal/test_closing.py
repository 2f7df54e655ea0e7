"""What a run says at its end: commands that are complete, and that the scripts understand."""

from __future__ import annotations

import shlex
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.runs import compose_settings
from utils.files import write_json
from utils.items.benchmark import Benchmark
from utils.runs.cli import find_problem
from utils.runs.settings import build
from utils.runs.terminal.closing import after_evaluation, after_training


@pytest.fixture(autouse=True)
def here(tmp_path):
    with chdir(tmp_path):
        yield


def run(folder: str, script: str, role: str, *overrides: str, command: tuple[str, ...] = ()) -> tuple[Path, Benchmark]:
    """A finished run, as its run.json tells of it."""
    cfg = compose_settings(script, *overrides)
    capsule: dict[str, Any] = {"script": script, "status": "finished", "role": role, "command": [f"{script}.py", *command]}
    Path(folder).mkdir(parents=True)
    write_json(Path(folder) / "run.json", {**capsule, "settings": OmegaConf.to_container(cfg, resolve=True)})
    return Path(folder), build(cfg.benchmark, "benchmark")


def lines(folder: str, *said: Any, **more: Any) -> list[str]:
    """What a run says, after a look at each of its commands."""
    told = after_training(*run(folder, *said, **more))
    for command in [part for line in told[1:] for part in line.partition(": ")[2].split(" && ")]:
        program, script, *overrides = shlex.split(command)
        assert program == "python" and find_problem(script.removesuffix(".py"), overrides) is None, command
    return told


def test_a_target_is_unlearned_from():
    assert lines("runs/target", "finetune", "target") == [
        "model: runs/target/model",
        "next: python unlearn.py method=flat model.path=runs/target split=forget10 out=runs/flat_forget10",
    ]
    Path("runs/a b/flat_forget").mkdir(parents=True)  # taken: the default folder
    told = lines("runs/a b/target", "finetune", "target", "benchmark=muse", "benchmark.corpus=books")
    assert told[1] == "next: python unlearn.py method=flat 'model.path=runs/a b/target' split=forget"


def test_an_oracle_is_evaluated_on_the_split_that_it_never_saw():
    assert lines("runs/retain", "finetune", "oracle", "split=retain95") == [
        "model: runs/retain/model",
        "next: python evaluate.py model.path=runs/retain split=forget05 out=runs/retain/eval",
    ]
    assert lines("runs/world", "finetune", "oracle", "split=world_facts") == ["model: runs/world/model"]


UNLEARN = ("unlearn", "method", "model.path=runs/target", "split=forget05")


def test_what_unlearned_is_compared_with_the_oracle_that_lies_near():
    run("runs/target", "finetune", "target")
    run("runs/news", "finetune", "oracle", "benchmark=muse", "split=retain2")
    run("runs/other", "finetune", "oracle", "split=retain90")
    run("runs/retain", "finetune", "oracle", "split=retain95")
    told = lines("elsewhere/npo", *UNLEARN)
    assert told[1:] == ["next: python evaluate.py model.path=elsewhere/npo oracle=runs/retain out=elsewhere/npo/eval"]


def test_an_oracle_is_made_as_the_target_was():
    command = ("model=tiny", "lr=1e-3", "split=full", "out=runs/target", "overwrite=true")
    run("runs/target", "finetune", "target", command=command)
    first, second = lines("sweep/npo", *UNLEARN)[1:]
    assert first == "next: python evaluate.py model.path=sweep/npo oracle=none out=sweep/npo/eval"
    assert second == (
        "or, compared with a retain oracle: python finetune.py model=tiny lr=1e-3 split=retain95 out=runs/retain95 && "
        "python evaluate.py model.path=sweep/npo oracle=runs/retain95 out=sweep/npo/eval"
    )


def test_an_oracle_for_a_target_that_came_from_elsewhere():
    told = lines("runs/npo", "unlearn", "method", "model=llama3.2-1b", "split=forget05")
    assert ": python finetune.py model=llama3.2-1b benchmark=tofu split=retain95 out=runs/retain95 && " in told[2]
    books = ("benchmark=muse", "benchmark.corpus=books", "data_root=my/data")
    told = lines("runs/ga", "unlearn", "method", "model=llama2-7b", *books)
    made = "model=llama2-7b benchmark=muse benchmark.corpus=books data_root=my/data split=retain2 out=runs/retain2"
    assert f": python finetune.py {made} && " in told[2]


def test_no_oracle_is_offered_where_none_can_be_made_so():
    run("runs/target", "finetune", "target", "benchmark=tofu")
    assert lines("runs/own", "unlearn", "method", "benchmark=own", "model.path=runs/target")[1:] == [
        "next: python evaluate.py model.path=runs/own out=runs/own/eval"
    ]
    other = ("benchmark=muse", "model.path=runs/target")
    assert len(lines("runs/muse", "unlearn", "method", *other)) == 2  # the target learned something else
    run("sweep/target", "finetune", "target", command=("-m", "seed=0,1"))
    assert len(lines("sweep/npo", "unlearn", "method", "model.path=sweep/target")) == 2


def test_what_needs_no_oracle_and_what_learned_again():
    told = lines("runs/sku", "unlearn", "method", "benchmark=safety", "model.path=x")
    assert told[1:] == ["next: python evaluate.py model.path=runs/sku out=runs/sku/eval"]
    told = lines("runs/again", "finetune", "relearned", "model.path=runs/sku", "benchmark=safety")
    assert told[1:] == ["next: python evaluate.py model.path=runs/again out=runs/again/eval"]


def test_an_evaluation_is_reported():
    run("runs/npo", "unlearn", "method")
    assert after_evaluation(Path("runs/npo/eval")) == [
        "numbers: runs/npo/eval/metrics.json",
        "next: python scripts/report.py runs",
    ]
    assert after_evaluation(Path("runs/npo/again")) == ["numbers: runs/npo/again/metrics.json"]  # which no report shows
    assert after_evaluation(Path("logs"))[1] == "next: python scripts/report.py ."
