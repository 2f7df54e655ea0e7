"""Cells: commands that a person could type, and folders named by everything that changes their result and nothing else."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.runs import compose_settings
from utils.studies.cells import CONFIG_OF, Cell, Graph, composed_settings
from utils.studies.study import Study

MODELS = {"target": {"split": "full"}, "oracle": {"split": "retain90", "seeds": [100, 101, 102]}}
ROWS: dict[str, Any] = {"npo": {"lr": 1e-5}, "flat_kl": {}}
POOL = Path("runs/cells")
TRAINED = {"target_s42", "npo_s0", "flat_kl_s0"}


def graph(pool: Path = POOL, **content: Any) -> Graph:
    """Every row and model of a small study, untuned."""
    common = {"model": "tiny", "benchmark": "tofu"} | content.pop("common", {})
    parts: dict[str, Any] = {
        "unlearn": {"model.path": "@target", "split": "forget10"},
        "evaluate": {"split": "forget10", "oracle": "@oracle", "null_runs": "@oracle+"},
        "models": MODELS,
        "rows": ROWS,
        "seeds": [0],
    }
    study = Study("a", "A study", common=common, **(parts | content))
    made = Graph(study, pool)
    for entry in study.entries.values():
        for seed in entry.seeds if entry.script else (None,):
            made.add_with_evaluations(entry, seed)
    return made


def folders(made: Graph) -> dict[str, str]:
    return {name: cell.folder.name for name, cell in made.cells.items()}


@pytest.fixture(scope="module")
def plain() -> Graph:
    return graph()


def test_names_needs_and_order(plain):
    needs = {name: cell.needs for name, cell in plain.cells.items()}
    assert needs["target_s42"] == () and needs["npo_s0"] == ("target_s42",)
    assert needs["npo_s0.plain"] == ("npo_s0", "oracle_s100", "oracle_s101", "oracle_s102")
    assert needs["oracle_s101.plain"] == ("oracle_s101", "oracle_s100", "oracle_s102")  # + is all but the one that is meant
    names = list(needs)
    assert all(names.index(need) < names.index(name) for name in names for need in needs[name])
    assert folders(plain)["npo_s0"].startswith("tofu_forget10_tiny_npo_s0-")
    assert folders(plain)["npo_s0.plain"].startswith("tofu_forget10_tiny_npo_s0_plain-")
    assert [cell.name for cell in plain.evaluations()] == [name for name in names if name.endswith(".plain")]


def test_references_mean_folders(plain):
    npo, asked, oracle = (plain.cells[name] for name in ("npo_s0", "npo_s0.plain", "oracle_s102.plain"))
    of = {name: str(cell.folder) for name, cell in plain.cells.items()}
    assert npo.settings["model.path"] == of["target_s42"]
    assert asked.settings["model.path"] == of["npo_s0"] and asked.settings["oracle"] == of["oracle_s100"]
    assert asked.settings["null_runs"] == [of["oracle_s101"], of["oracle_s102"]]
    assert oracle.settings["oracle"] == of["oracle_s102"]  # the same seed, where there is one
    assert oracle.settings["null_runs"] == [of["oracle_s100"], of["oracle_s101"]]


def test_references_to_all_to_parts_and_to_evaluations():
    log = {"log": {"evaluate": {"from_logs": "@target/plain/scores.parquet"}}}
    every = {"split": "forget10", "null_runs": "@oracle*"}
    made = graph(rows=log, evaluate=every, models=MODELS | {"base": {"path": "a/b"}})
    of = {name: str(cell.folder) for name, cell in made.cells.items()}
    log = made.cells["log.plain"]
    assert log.settings["null_runs"] == [of["oracle_s100"], of["oracle_s101"], of["oracle_s102"]]
    assert log.settings["from_logs"] == f"{of['target_s42.plain']}/scores.parquet" and "target_s42.plain" in log.needs
    assert made.cells["base.plain"].settings["model.path"] == "a/b"
    region = graph(rows={"memflex": {"method.region.file": "@target/region.json"}}).cells["memflex_s0"]
    assert region.settings["method.region.file"] == f"{of['target_s42']}/region.json"


def test_the_place_of_the_pool_changes_no_name(plain, tmp_path):
    for pool in (tmp_path, Path("a pool/with = and spaces"), Path("runs/cells/")):
        assert folders(graph(pool)) == folders(plain)


@pytest.mark.parametrize(
    "content, changed",
    [
        ({"rows": ROWS | {"npo": {"lr": 2e-5}}}, {"npo_s0", "npo_s0.plain"}),
        ({"rows": {"npo": {"lr": 1e-5, "method.loss.beta": 0.3}, "flat_kl": {}}}, {"npo_s0", "npo_s0.plain"}),
        ({"evaluations": {"plain": {"resamples": 7}}}, {name for name in graph().cells if name.endswith(".plain")}),
        # What everything starts from changes everything that starts from it.
        ({"models": MODELS | {"target": {"split": "full", "lr": 3e-4}}}, TRAINED | {f"{name}.plain" for name in TRAINED}),
        # The first oracle is that of every row; how it is run, and words about it, change nothing.
        ({"rows": {"npo": {"lr": 1e-5, "label": "NPO", "processes": 2}, "flat_kl": {}}, "title": "Another"}, set()),
        ({"finetune": {"workers": 3, "log_every": 7}, "keep": "scores", "parallel": 3}, set()),
    ],
)  # fmt: skip
def test_what_counts_changes_the_folder_and_nothing_else_does(plain, content, changed):
    content = {key: value for key, value in content.items() if key != "title"}
    now = folders(graph(**content))
    assert {name for name, folder in folders(plain).items() if now[name] != folder} == changed


def test_two_studies_share_what_is_alike(plain):
    other = graph(rows={"simnpo": {}, "flat_kl": {}}, seeds=[0, 1], evaluations={"plain": {}, "again": {"probe": "paraphrase"}})
    shared = {*folders(plain).values()} & {*folders(other).values()}
    assert shared == {folder for name, folder in folders(plain).items() if not name.startswith("npo")}


def test_a_number_that_is_the_default_is_no_other_setting(plain):
    lr = composed_settings(plain.cells["flat_kl_s0"]).lr
    assert folders(graph(rows={"npo": {"lr": 1e-5}, "flat_kl": {"lr": lr}})) == folders(plain)


def words(cell: Cell) -> list[str]:
    """What a shell makes of the command that a plan prints."""
    return shlex.split(shlex.join(cell.command()))


@pytest.mark.parametrize("pool", [POOL, Path("a pool/with = and 'quotes'"), Path("/tmp/größer")], ids=["plain", "odd", "umlaut"])
def test_commands_typed_by_hand_mean_the_same_settings(pool):
    made = graph(pool, rows={"npo": {"lr": 1e-5, "data_root": "fixture", "method.loss.beta": 0.3}})
    for name in ("target_s42", "npo_s0", "npo_s0.plain"):
        cell = made.cells[name]
        python, script, *typed = words(cell)
        assert (python, script) == ("python", f"{cell.script}.py")
        found = compose_settings(CONFIG_OF[cell.script], *typed)
        assert found.out == str(cell.folder)
        for key, value in cell.settings.items():
            meant = OmegaConf.select(found, key)
            if key in ("model", "benchmark", "method", "adapter"):
                assert meant.name == value
            else:
                assert meant == value, key


def test_commands_are_as_people_write_them(plain):
    cell = plain.cells["npo_s0"]
    target = plain.cells["target_s42"].folder
    line = f"python unlearn.py model=tiny benchmark=tofu method=npo model.path={target} split=forget10 lr=1e-05 seed=0"
    assert shlex.join(cell.command()) == f"{line} out={cell.folder}"
    assert cell.command(again=True)[-1] == "overwrite=true"
    several = graph(rows={"npo": {"processes": 2}}).cells["npo_s0"]
    assert several.command()[:4] == ["torchrun", "--standalone", "--nproc_per_node=2", "unlearn.py"]


LOG = {"log": {"evaluate": {"from_logs": "x"}}}


@pytest.mark.parametrize(
    "content, said",
    [
        ({"rows": {"npo": {"lrr": 3}}}, "study a, rows.npo: lrr=3: there is no key lrr; did you mean lr"),
        ({"rows": {"nop": {}}}, "study a, rows.nop: method=nop: there is no such method; did you mean npo"),
        (
            {"models": MODELS | {"b": {"adapter": "lroa"}}},
            "study a, models.b: adapter=lroa: there is no such adapter; did you mean",
        ),
        (
            {"models": MODELS | {"b": {"model.path": "@c"}, "c": {"model.path": "@b"}}},
            "study a: b_s42 starts from itself (b_s42 -> c_s42 -> b_s42); refer to another entry",
        ),
        (
            {"models": MODELS | {"npo_s0": {"path": "x"}}},
            "study a: npo_s0 and npo both have a cell npo_s0.plain; rename one of them",
        ),
        ({"rows": LOG | {"npo": {"model.path": "@log"}}}, "@log: log has no folder of its own; give it a path"),
    ],
)
def test_what_does_not_compose_is_one_sentence(content, said):
    with pytest.raises(ValueError) as error:
        graph(**content)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
