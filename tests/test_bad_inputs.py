"""Bad input, row by row: one sentence with key, value and remedy, before a model is loaded, and nothing left behind."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

import utils.runs.load
from tests.bad_inputs import accepted, command_line, dials, methods, model, questions
from tests.runs import compose_settings, target
from tests.runs import script as run_script
from utils.runs.cli import as_override, check_command_line, errors_in_one_sentence, find_problem, parse_overrides
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


@pytest.mark.parametrize("part", chunks(rows(command_line.ROWS), 12), ids=lambda part: part[0][1][0])
def test_a_command_line_is_refused_in_one_sentence(part):
    for name, words, wanted in part:
        said = find_problem(name, [word for word in words if word != "-m"], sweeps="-m" in words)
        assert said is not None and said.startswith(wanted) and len(said.splitlines()) == 1, (words, said)


SEEN = [
    ("unlearn", "lr=1e39", "lr=1e+39: write a number above 0 to 1.7e+38"),
    ("unlearn", "method.name=x/../../../evil", "method.name=x/../../../evil: write a name of letters, digits and . _ + -"),
    ("unlearn", "measure=[leak]", "measure=[leak]: unlearn.py has no measure (it belongs to evaluate.py); leave it out"),
    ("unlearn", "out=runs/a=b,c", "out=runs/a=b,c: not understood; write key=value, with quotes around a value that holds"),
    ("unlearn", "lr=${nowhere}", "settings: Interpolation key 'nowhere' not found; write a value for it"),
    ("finetune", "model.architecture.hidden_size=130", "model.architecture: no model can be made of it (ValueError: The hidden"),
    ("evaluate", "benchmark.judges.endpoint.url=https://me:word@host/v1", "benchmark.judges.endpoint.url=***: holds a password"),
]


@pytest.mark.parametrize("name, word, wanted", SEEN)
def test_the_sentence_is_all_that_a_user_sees(tmp_path, nothing_loads, name, word, wanted):
    start = [] if name == "finetune" else [f"model.path={target()}"]
    benchmark = ["benchmark=safety"] if "judges" in word else []
    refused = run_script(tmp_path, name, "model=tiny", *start, *benchmark, word)
    assert refused.code == 1 and refused.out == "" and len(refused.err.strip().splitlines()) == 1
    assert refused.err.startswith(wanted) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["a=b", "a#1", "it's", 'a"b', "übung", "日本", "a b", "a:b", "a%b&c"])
def test_a_path_may_hold_what_the_grammar_of_overrides_has_no_letters_for(folder):
    (override,) = parse_overrides([f"out=runs/{folder}"])
    assert override.value() == f"runs/{folder}" and find_problem("unlearn", [f"out=runs/{folder}"]) is None


def test_such_a_path_is_where_the_run_lies(tmp_path, nothing_loads):
    with pytest.raises(Loaded):
        run_script(tmp_path, "unlearn", "model=tiny", f"model.path={target()}", "out=runs/a=b #ü")
    assert (tmp_path / "runs" / "a=b #ü" / "run.json").is_file()


def test_bytes_that_are_not_utf8_are_refused():
    said = find_problem("unlearn", ["out=runs/\udcff"])
    assert said == "out=runs/\\udcff: holds bytes that are not UTF-8; write it in UTF-8"


def test_flags_may_stand_anywhere(monkeypatch):
    monkeypatch.setattr("sys.argv", ["unlearn.py", "model=tiny", "-m", "seed=1,2", "out=a=b"])
    check_command_line("unlearn")
    assert sys.argv == ["unlearn.py", "-m", "model=tiny", "seed=1,2", "out='a=b'"]


VALUES = st.text(max_size=12) | st.sampled_from(
    ["[a", "{a: 1}", "${x}", "a,b", "'", '"', "null", "1e400", "\\", "range(1", "@", "~"]
)
KEYS = st.sampled_from(["seed", "out", "method", "method.loss", "+x", "++x.y", "~seed", "hydra.run.dir", "", "a@b", "metod"])


def understood_or_refused(pairs: Sequence[tuple[str, str]]) -> None:
    said = find_problem("unlearn", [f"{key}={value}" for key, value in pairs], sweeps=False)
    assert said is None or said and len(said.splitlines()) == 1


LINES = given(st.lists(st.tuples(KEYS, VALUES), max_size=2))
ALIKE = {"derandomize": True, "database": None, "deadline": None}  # the same examples on every machine


@settings(max_examples=12, **ALIKE)
@LINES
def test_any_command_line_is_understood_or_refused_in_one_sentence(pairs):
    understood_or_refused(pairs)


@pytest.mark.slow
@settings(max_examples=500, **ALIKE)
@LINES
def test_many_command_lines_are_understood_or_refused_in_one_sentence(pairs):
    understood_or_refused(pairs)


@settings(max_examples=60, **ALIKE)
@given(st.text(max_size=20))
def test_any_text_can_be_written_as_an_override(text):
    assume("${" not in text)
    (override,) = parse_overrides([as_override("out", text)])
    assert override.value() == text
