"""The coefficient search: MUSE's rule by hand, nothing is computed twice, only the chosen weights stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from transformers import AutoModelForCausalLM

from scripts import search_coefficient
from scripts.search_coefficient import main, override
from tests.models import moved, tokenizer
from tests.runs import QUICK_EVALUATION, run, target
from tests.utils.weights.checkpoint_files import folder, tensors
from utils.files import read_json, write_json
from utils.weights.models import save_model

DEFINITION = "made up for this test"


def write_evaluation(out: Path, forget: float, utility: float = 0.5, **known: Any) -> None:
    """What evaluate.py leaves behind, as far as the search reads it."""
    out.mkdir(parents=True, exist_ok=True)
    numbers = {"forget": forget, "utility": utility}
    entries = {name: {"value": value, "n": 4, "ci95": [0, 1], "definition": DEFINITION} for name, value in numbers.items()}
    write_json(out / "metrics.json", entries)
    write_json(out / "run.json", {"status": "finished", "requests": "same", **known})


class Evaluator:
    """In the place of evaluate.py: forget = 0.9 + w / 10 of the model that it is given, or - alpha / 10 for two models."""

    def __init__(self):
        self.asked: list[dict[str, Any]] = []

    def __call__(self, script: str, overrides: Sequence[str]) -> None:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        dials = {o.key_or_group: o.value() for o in parsed}
        dials = {key: str(value) if key.endswith(("path", "out")) else value for key, value in dials.items()}
        self.asked.append(dials)
        w = -float(dials["reinforced.alpha"]) if "reinforced.path" in dials else tensors(Path(dials["model.path"]))["w"].item()
        write_evaluation(Path(dials["out"]), round(0.9 + w / 10, 9), utility=1 / (1 + len(self.asked)))

    @property
    def outs(self) -> list[str]:
        return [dials["out"] for dials in self.asked]


@pytest.fixture
def evaluator(tmp_path, monkeypatch) -> Evaluator:
    """The current folder holds base (w = 1), reinforced (w = 3) and oracle/eval (forget = 0.6): w = 1 - 2 C."""
    for name, value in (("base", 1.0), ("reinforced", 3.0)):
        folder(tmp_path / name / "model", w=torch.tensor([value]))
    write_evaluation(tmp_path / "oracle" / "eval", forget=0.6)
    monkeypatch.chdir(tmp_path)
    return Evaluator()


BASIC = "--base base --reinforced reinforced --metric forget --oracle oracle --out out"


def call(evaluate: Evaluator, line: str = "") -> dict[str, Any]:
    """Runs the search; what search.json says."""
    main(f"{BASIC} {line}".split(), evaluate)
    return json.loads(Path("out/search.json").read_text())


def models(out: str = "out") -> list[str]:
    return sorted(str(path.parent.relative_to(out)) for path in Path(out).glob("*/model"))


def test_rule_by_hand(evaluator, capsys):
    """C = 1, 2, 4 give w = -1, -3, -7 and forget = 0.8, 0.6, 0.2: the first at most 0.6 is C = 2."""
    found = call(evaluator)
    assert (found["chosen"], found["reached"], found["status"]) == (2.0, True, "finished")
    assert [(t["coefficient"], t["forget"]["value"]) for t in found["tried"]] == [(1.0, 0.8), (2.0, 0.6)]
    assert found["model"] == {"model.path": "out/alpha_2/model"} and models() == ["alpha_2"]
    assert tensors(Path("out/alpha_2/model"))["w"].tolist() == [-3.0]
    assert capsys.readouterr().out.splitlines() == [
        "C = 1: forget 0.8, oracle 0.6",
        "C = 2: forget 0.6, oracle 0.6",
        "model.path=out/alpha_2/model",
    ]


def test_without_any_that_will_do_the_last_is_taken_and_told(evaluator, capsys):
    found = call(evaluator, "--grid 0.25,0.5,1")
    assert (found["chosen"], found["reached"]) == (1.0, False) and models() == ["alpha_1"]
    assert evaluator.outs == ["out/alpha_0.25/eval", "out/alpha_0.5/eval", "out/alpha_1/eval"]
    assert "no coefficient of --grid brought forget to the oracle; this is the last" in capsys.readouterr().out


def test_table(evaluator):
    call(evaluator)
    assert Path("out/search.md").read_text() == (
        "| metric     |   oracle |   1 |   **2** |\n"
        "|:-----------|---------:|----:|--------:|\n"
        "| **forget** |      0.6 | 0.8 |     0.6 |\n"
        "| utility    |      0.5 | 0.5 |  0.3333 |\n"
    )


def test_two_models_need_no_weights(evaluator):
    """C = 1, 2, 4 give forget = 0.8, 0.7, 0.5."""
    found = call(evaluator, "--combine whp")
    assert found["chosen"] == 4.0 and models() == []
    assert found["model"] == {"model.path": "base", "reinforced.path": "reinforced", "reinforced.alpha": 4.0}
    assert evaluator.asked[1] == {
        "model.path": "base",
        "reinforced.path": "reinforced",
        "reinforced.alpha": 2,
        "out": "out/alpha_2/eval",
    }


def test_weights_of_a_rejected_coefficient_are_gone_before_the_next_is_written(evaluator):
    there: list[list[str]] = []

    def evaluate(script, overrides):
        there.append(models())
        evaluator(script, overrides)

    call(evaluate)
    assert there == [["alpha_1"], ["alpha_2"]]


def test_keep(evaluator):
    call(evaluator, "--keep --grid 1,2,4")
    assert models() == ["alpha_1", "alpha_2"]


def test_overrides_go_to_every_evaluation(evaluator):
    call(evaluator, "-- split=forget05 +extra=1")
    assert [(dials["split"], dials["extra"]) for dials in evaluator.asked] == [("forget05", 1)] * 2


def test_finished_evaluations_are_not_run_again(evaluator):
    first = call(evaluator)
    assert call(evaluator) == first and len(evaluator.asked) == 2


def test_an_interrupted_search_goes_on(evaluator):
    def stop(script, overrides):
        if "alpha_2" in str(overrides):
            raise KeyboardInterrupt
        evaluator(script, overrides)

    with pytest.raises(KeyboardInterrupt):
        call(stop)
    assert read_json(Path("out/search.json"))["status"] == "running" and models() == ["alpha_2"]
    written = Path("out/alpha_2/model/model.safetensors").stat().st_mtime_ns
    assert call(evaluator)["chosen"] == 2.0
    assert evaluator.outs == ["out/alpha_1/eval", "out/alpha_2/eval"]
    assert Path("out/alpha_2/model/model.safetensors").stat().st_mtime_ns == written


def test_an_evaluation_that_is_not_finished_is_run(evaluator):
    write_evaluation(Path("out/alpha_1/eval"), forget=0.0, status="running")
    write_json(Path("out/search.json"), {"status": "running", "settings": call_settings()})
    assert call(evaluator)["chosen"] == 2.0


def call_settings() -> dict[str, Any]:
    made = dict.fromkeys(("weights of base", "weights of reinforced"))
    return {"base": "base", "reinforced": "reinforced", "combine": "task_vector", "overrides": [], **made}


def test_a_longer_grid_and_another_reference_go_on(evaluator):
    """forget = 0.8, 0.6, 0.2; back to C = 1, whose weights were deleted, when 0.8 will do."""
    call(evaluator, "--grid 1")
    write_evaluation(Path("strict/eval"), forget=0.5)
    assert call(evaluator, "--grid 1,2,4 --oracle strict")["chosen"] == 4.0 and models() == ["alpha_4"]
    write_evaluation(Path("lax/eval"), forget=0.85)
    assert call(evaluator, "--oracle lax/eval")["chosen"] == 1.0
    assert len(evaluator.asked) == 3 and models() == ["alpha_1"]
    assert tensors(Path("out/alpha_1/model"))["w"].tolist() == [-1.0]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("--grid 1,two", "--grid 1,two: write numbers with commas between them, such as 1,2,4,8,16"),
        ("--grid 2,1", "--grid 2,1: write rising numbers above 0"),
        ("--grid 1,1", "--grid 1,1: write rising numbers above 0"),
        ("--grid 0,1", "--grid 0,1: write rising numbers above 0"),
        ("--grid 1,inf", "--grid 1,inf: write rising numbers above 0"),
        ("-- split", "split: not understood; write key=value"),
        ("-- model.path=other", "model.path=other: model.path is set for every run by itself; leave it out"),
        ("-- +reinforced.alpha=2", r"\+reinforced.alpha=2: reinforced.alpha is set for every run by itself"),
        ("--oracle nowhere", "--oracle nowhere holds no finished evaluation; make one with evaluate.py"),
        ("--metric rouge", "--metric rouge: oracle/eval has no such metric; there are forget, utility"),
        ("--out base", "--out base holds base, which is read; choose another"),
        ("--out .", "--out . holds base, which is read; choose another"),
        ("--out oracle", "--out oracle exists and holds no search.json; choose another"),
        ("--reinforced base", "hold the same weights, so their task vector is zero"),
        ("--reinforced runs/no", "runs/no holds no model; give a run folder, a model folder or a Hub name"),
    ],
)
def test_errors_are_one_sentence(evaluator, line, reason):
    with pytest.raises(SystemExit, match=reason) as refusal:
        call(evaluator, line)
    assert "\n" not in str(refusal.value) and not evaluator.asked
    assert {path.name for path in Path().iterdir()} - {"out"} == {"base", "reinforced", "oracle"} and not models()


@pytest.mark.parametrize("line", ["--reinforced other", "--combine whp", "-- split=forget05"])
def test_a_folder_with_numbers_of_other_settings_is_refused(evaluator, line):
    call(evaluator)
    with pytest.raises(SystemExit, match="--out out holds results with other settings"):
        call(evaluator, line)
    assert len(evaluator.asked) == 2


def test_a_wrong_start_is_not_held_against_the_user(evaluator):
    """The first evaluation failed: nothing of it counts, also not the weights that were written for it."""
    folder(Path("other/model"), w=torch.tensor([7.0]))

    def fail(script, overrides):
        raise ValueError("there is no key nonsense")

    with pytest.raises(SystemExit, match="there is no key nonsense"):
        call(fail, "--reinforced other -- nonsense=1")
    assert models() == ["alpha_1"]
    assert call(evaluator)["chosen"] == 2.0


def test_a_base_that_was_trained_anew_is_noticed(evaluator):
    write_json(Path("base/run.json"), {"weights": "before"})
    call(evaluator)
    write_json(Path("base/run.json"), {"weights": "after"})
    with pytest.raises(SystemExit, match="with other settings .weights of base: before -> after.; choose another"):
        call(evaluator)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"n": 5}, "they differ in n;"),
        ({"definition": "another"}, "they differ in definition;"),
        ({"value": None}, "it is None in oracle/eval, which nothing can be compared with"),
        ({"value": float("nan")}, "it is nan in oracle/eval, which nothing can be compared with"),
    ],
)
def test_only_like_is_compared_with_like(evaluator, change, reason):
    entries = read_json(Path("oracle/eval/metrics.json"))
    write_json(Path("oracle/eval/metrics.json"), {**entries, "forget": {**entries["forget"], **change}})
    with pytest.raises(SystemExit, match=reason):
        call(evaluator)


def test_other_questions_are_not_compared(evaluator):
    write_evaluation(Path("oracle/eval"), forget=0.6, requests="other")
    with pytest.raises(SystemExit, match="cannot be compared: they differ in questions or tokens; evaluate the retain oracle"):
        call(evaluator)


def test_an_evaluator_that_leaves_nothing_is_an_error(evaluator):
    with pytest.raises(SystemExit, match="the evaluation left no finished result in out/alpha_1/eval"):
        call(lambda *_: None)


def test_any_path_reaches_the_evaluation(evaluator):
    name = "a b, it's (1) = {x} $y [z]"
    main([*BASIC.split()[:-1], name], evaluator)
    assert evaluator.asked[0]["out"] == f"{name}/alpha_1/eval" and models(name) == ["alpha_2"]
    assert override("reinforced.alpha", 4.0) == "reinforced.alpha=4" and override("out", "it's") == r"out='it\'s'"


def test_a_failing_evaluation_stops_the_search(evaluator, capfd):
    """The real evaluate.py, in a process of its own; it refuses before its slow imports."""
    with pytest.raises(SystemExit, match="evaluate.py failed, for the reason above; the same command goes on"):
        main([*BASIC.split(), "--", "benchmrk=tofu"])
    assert "there is no key benchmrk; did you mean benchmark" in capfd.readouterr().err
    assert "--base" in search_coefficient.__doc__ and models() == ["alpha_1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with `reinforced`, the target of the runs a little moved, and `oracle`, an evaluation of the target itself."""
    place = tmp_path_factory.mktemp("search")
    save_model(moved(AutoModelForCausalLM.from_pretrained(target()), by=0.01), tokenizer(), place / "reinforced", torch.float32)
    run(place, "evaluate", *EVALUATION, f"model.path={target()}", "out=oracle")
    return place


EVALUATION = ("split=forget05", "oracle=none", *QUICK_EVALUATION)


@pytest.mark.parametrize("combine", ["task_vector", "whp"])
def test_with_the_real_evaluation(trained, tmp_path, combine):
    """Random models: which coefficient is chosen is arbitrary, but it follows from the metrics that are on disk."""
    out = tmp_path / "out"
    line = f"--base {target()} --reinforced {trained}/reinforced --combine {combine} --grid 1,16 --metric forget_prob"
    words = [*line.split(), "--oracle", str(trained / "oracle"), "--out", str(out), "--", *EVALUATION]
    main(words, lambda script, overrides: run(tmp_path, script, *overrides))
    found = json.loads((out / "search.json").read_text())
    threshold = read_json(trained / "oracle" / "metrics.json")["forget_prob"]["value"]
    values = [read_json(Path(t["evaluation"]) / "metrics.json")["forget_prob"]["value"] for t in found["tried"]]
    assert [value <= threshold for value in values] == [False] * (len(values) - 1) + [found["reached"]]
    assert found["chosen"] == (1.0, 16.0)[len(values) - 1] and len(set(values)) == len(values)
    assert models(str(out)) == ([f"alpha_{int(found['chosen'])}"] if combine == "task_vector" else [])
    shutil.rmtree(out)
