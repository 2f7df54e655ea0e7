"""The worked example of docs/contributing.md, taken from the page: its files run, and the house accepts the method."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import losses
from tests.losses import cases
from tests.losses import test_conformance as conformance
from tests.models import tiny_model, tokenizer
from utils import ROOT
from utils.files import read_json, read_rows
from utils.runs import cli
from utils.runs.load import make_encoder
from utils.runs.run import Run
from utils.runs.settings import check_training
from utils.runs.train import make_streams, train
from utils.weights.models import save_model

PAGE = ROOT / "docs" / "contributing.md"
METHOD = "margin"
FILES = (f"losses/{METHOD}.py", f"config/method/{METHOD}.yaml", f"tests/losses/test_{METHOD}.py")


def documented_files(page: str) -> dict[str, str]:
    """Path -> content of every file that a page writes out: bold words, the path, and the next python or yaml block."""
    block = r"^\*\*[^*]+\*\*, `([^`]+)`.*?^```(?:python|yaml)\n(.*?)^```$"
    return dict(re.findall(block, page, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def extended(page, tmp_path_factory) -> Path:
    """A folder with the documented files, beside the configuration as it is."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "config", folder / "config")
    for name, content in documented_files(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def loss_module(extended, monkeypatch) -> Iterator[ModuleType]:
    """The documented loss, found under its name as if it lay in losses/."""
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(extended / "losses")])
    yield importlib.import_module(f"losses.{METHOD}")
    del sys.modules[f"losses.{METHOD}"]
    delattr(losses, METHOD)


@pytest.fixture
def config(extended, loss_module, tmp_path) -> DictConfig:
    """Settings of unlearn.py for one step of the documented method on a tiny random model."""
    save_model(tiny_model(), tokenizer(), tmp_path / "start" / "model", torch.float32)
    one_step = ["split=forget01", "epochs=1", "batch_size=2", "lr=1e-3", "warmup=0", "checkpoint=none"]
    places = [f"model.path={tmp_path / 'start'}", f"out={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}"]
    with initialize_config_dir(str(extended / "config"), version_base="1.3"):
        return compose("unlearn", [f"method={METHOD}", "model=tiny", *one_step, *places])


def test_the_page_writes_three_new_files(page):
    assert tuple(documented_files(page)) == FILES
    assert not [name for name in FILES if (ROOT / name).exists()], "the example must not be a real method"


def test_documented_python_is_clean(extended):
    """Linted beside its neighbours, because the order of imports depends on what lies there."""
    clutter = shutil.ignore_patterns("__pycache__")
    for folder in ("losses", "utils", "tests"):
        shutil.copytree(ROOT / folder, extended / folder, ignore=clutter, dirs_exist_ok=True)
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    command = [sys.executable, "-m", "ruff", "check", *settings, *(name for name in FILES if name.endswith(".py"))]
    done = subprocess.run(command, cwd=extended, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_documented_tests_pass(extended, loss_module):
    spec = importlib.util.spec_from_file_location("documented", extended / FILES[2])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [function for name, function in vars(module).items() if name.startswith("test_")]
    assert len(tests) >= 2
    for test in tests:
        test()


def test_conformance_accepts_the_method(extended, loss_module, monkeypatch):
    """Every promise of tests/losses/test_conformance.py, asked of the new YAML file as of the others."""
    monkeypatch.setattr(cli, "CONFIG", extended / "config")
    monkeypatch.setitem(cases.METHOD_FILES, METHOD, extended / FILES[1])
    promises = [function for name, function in vars(conformance).items() if name.startswith("test_")]
    assert len(promises) >= 8
    try:
        for promise in promises:
            for arguments in parametrised(promise):
                promise(METHOD, **arguments)
    finally:
        cases.method_config.cache_clear()


def test_documented_commands_are_understood(extended, page, monkeypatch):
    monkeypatch.setattr(cli, "CONFIG", extended / "config")
    commands = re.findall(rf"^python (\w+)\.py (.*\bmethod={METHOD}\b.*)$", page, re.MULTILINE)
    assert len(commands) >= 2
    for script, arguments in commands:
        overrides = [argument for argument in arguments.split() if not argument.startswith("-")]
        assert cli.find_problem(script, overrides) is None


def test_settings_accept_the_loss_and_refuse_a_bad_option(config, loss_module):
    assert check_training(config, "unlearn").method.loss == loss_module.Margin(margin=1.0)
    config.method.loss.margin = -1
    with pytest.raises(ValueError, match="margin=-1: write"):
        check_training(config, "unlearn")


def test_one_step_through_the_engine(config):
    """A step on two pairs. The loss is the mean of softplus(1 - lead), nearly straight while the leads are small."""
    settings = check_training(config, "unlearn")
    forget = settings.benchmark.training(config.split)
    encoder = make_encoder(config.model, settings.benchmark, "unlearn", config.compat)
    streams = make_streams(settings, encoder, forget, (), ["I do not know.", "Nobody told me."])
    run = Run.open(config, "unlearn", {})
    train(settings, run, encoder, streams)
    step = read_rows(run.folder / "log.jsonl")[0]
    assert step["step"] == 1
    assert step["loss"] == pytest.approx(math.log1p(math.exp(1 - step["lead"])), abs=0.05)
    assert read_json(run.folder / "run.json")["status"] == "finished"
    assert (run.folder / "model" / "config.json").is_file()


def parametrised(test: Callable) -> Iterator[dict[str, object]]:
    """The arguments of every case of a test, other than `name`."""
    marks = [mark.args for mark in test.pytestmark if mark.name == "parametrize" and mark.args[0] != "name"]
    names = [name for name, _ in marks]
    for values in itertools.product(*(values for _, values in marks)):
        yield dict(zip(names, values, strict=True))
