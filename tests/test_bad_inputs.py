"""Bad input, row by row: one sentence with key, value and remedy, before a model is loaded, and nothing left behind."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import chdir
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import utils.runs.load
from tests.bad_inputs import accepted, dials, methods, model, questions
from tests.runs import compose_settings, target
from utils.runs.cli import errors_in_one_sentence, parse_overrides
from utils.runs.series import script_main

Row = tuple[str, list[str], str]
main = cache(script_main)


class Loaded(BaseException):
    """A model would have been loaded: the settings were accepted."""


def rows(table: str) -> list[Row]:
    """(script, overrides, sentence or reason) of each line; overrides are separated by semicolons."""
    lines = [line.split(" | ", 2) for line in table.strip().splitlines()]
    return [(script.strip(), [word.strip() for word in words.split(" ; ")], last) for script, words, last in lines]


REFUSED = [row for table in (dials, model, methods, questions) for row in rows(table.ROWS)]


@pytest.fixture
def nothing_loads(monkeypatch):
    def load(*_: object, **__: object) -> None:
        raise Loaded

    for name in ("load_model", "load_adapter", "load_combined"):
        monkeypatch.setattr(utils.runs.load, name, load)


@cache
def base(script: str, groups: tuple[str, ...]) -> DictConfig:
    return compose_settings(script, *groups)


def composed(script: str, overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes of the overrides, several times as fast: groups are composed once, and values set into a copy."""
    start = {"finetune": ["model=tiny"], "evaluate": ["model=tiny", f"model.path={target()}", "oracle=none", "resamples=100"]}
    words = [*start.get(script, ["model=tiny", f"model.path={target()}"]), *overrides]
    groups = [word for word in words if "." not in word.partition("=")[0] and word.partition("=")[0] in GROUPS]
    cfg = copy.deepcopy(base(script, tuple(groups)))
    for override in parse_overrides([word for word in words if word not in groups]):
        value = override.value()
        OmegaConf.update(cfg, override.key_or_group, OmegaConf.create(value) if isinstance(value, list | dict) else value)
    return cfg


GROUPS = ("model", "benchmark", "method", "adapter", "launcher", "probe", "measure")


def sentence(folder: Path, script: str, overrides: Sequence[str]) -> str:
    """What the script ends with."""
    with pytest.raises(SystemExit) as end, chdir(folder), errors_in_one_sentence():
        main(script)(composed(script, overrides))
    return str(end.value)


def chunks(table: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    return (table[first : first + size] for first in range(0, len(table), size))


def test_the_table_is_long_enough_and_says_nothing_twice():
    assert len(REFUSED) >= 300 and len({(script, *words) for script, words, _ in REFUSED}) == len(REFUSED)


@pytest.mark.parametrize("part", chunks(REFUSED, 20), ids=lambda part: part[0][1][-1].partition("=")[0])
def test_bad_input_is_one_sentence_before_a_model_is_loaded_and_leaves_nothing(tmp_path, nothing_loads, part):
    for script, overrides, wanted in part:
        said = sentence(tmp_path, script, overrides)
        assert said.startswith(wanted) and len(said.splitlines()) == 1, (overrides, said)
        assert not list(tmp_path.iterdir()), overrides


def test_what_looks_doubtful_and_is_accepted_has_a_reason(tmp_path, nothing_loads):
    for script, overrides, reason in rows(accepted.ROWS):
        assert len(reason.split()) > 3
        with pytest.raises(Loaded), chdir(tmp_path):
            main(script)(composed(script, overrides))
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)


LACKING = [
    ("bitsandbytes", "optimizer=adamw_8bit", "optimizer=adamw_8bit: transformers cannot make it (You need to install"),
    ("bitsandbytes", "optimizer=paged_lion_8bit", "optimizer=paged_lion_8bit: transformers cannot make it (You need"),
    ("galore_torch", "optimizer=galore_adamw", "optimizer=galore_adamw: transformers cannot make it (You need to install"),
    ("lomo_optim", "optimizer=lomo", "optimizer=lomo: transformers cannot make it (You need to install `lomo_optim`"),
    ("wandb", "report_to=wandb", "report_to=wandb needs the package wandb; install it with: pip install wandb"),
    ("trackio", "report_to=trackio", "report_to=trackio needs the package trackio; install it with: pip install"),
    ("deepspeed", "launcher=zero2", "launcher=zero2 needs the package deepspeed; install it with: pip install"),
    ("flash_attn", "model.attn=flash_attention_2", "model.attn=flash_attention_2: needs the package flash-attn"),
    ("flash_attn", "model.attn=flash_attention_3", "model.attn=flash_attention_3: needs the package flash-attn"),
]


@pytest.mark.parametrize("package, override, wanted", LACKING)
def test_a_missing_package_is_known_before_a_model_is_loaded(tmp_path, nothing_loads, package, override, wanted):
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    assert sentence(tmp_path, "unlearn", [override]).startswith(wanted)
    assert not list(tmp_path.iterdir())
