"""MUSE's protocols: which model each request is made to, the rule of selection by hand, and that nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from scripts.muse_protocols import main
from tests.runs import SMALL, run, target
from utils.files import read_json, write_json


def write_evaluation(out: Path, utility: float, knowledge: float, **more: Any) -> None:
    """What evaluate.py leaves behind, as far as the protocols read it."""
    out.mkdir(parents=True, exist_ok=True)
    numbers = {"knowmem_retain": utility, "knowmem_forget": knowledge}
    entries = {name: {"value": value, "n": 4, "ci95": [0, 1], "definition": "made up", **more} for name, value in numbers.items()}
    write_json(out / "metrics.json", entries)
    write_json(out / "run.json", {"status": "finished"})


class Scripts:
    """In the place of the two scripts. A model holds a number: the target 0, and each unlearning adds 1 to what it started from.
    Utility is 50 less that, knowledge 60 less ten times that."""

    def __init__(self):
        self.called: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, script: str, overrides: Sequence[str]) -> None:
        dials = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(list(overrides))}
        dials = {key: str(value) if key.endswith(("path", "out")) else value for key, value in dials.items()}
        self.called.append((script, dials))
        number = json.loads((Path(dials["model.path"]) / "number").read_text())
        out = Path(dials["out"])
        if script == "evaluate":
            write_evaluation(out, 50 - number, 60 - 10 * number)
            return
        out.mkdir(parents=True)
        (out / "number").write_text(str(number + 1))
        write_json(out / "run.json", {"status": "finished", "settings": {"split": dials["split"]}})

    @property
    def steps(self) -> list[str]:
        """unlearn <split> <- <where it started>, or evaluate <model>."""
        return [f"{s} {d['split']} <- {d['model.path']}" if s == "unlearn" else f"{s} {d['model.path']}" for s, d in self.called]


@pytest.fixture
def scripts(tmp_path, monkeypatch) -> Scripts:
    """The current folder holds a target, the evaluation of a retrained model, and a run with snapshots after steps 9, 10, 20."""
    for name, number in {"target": 0, "run/snapshots/9": 1, "run/snapshots/10": 2, "run/snapshots/20": 3}.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "number").write_text(str(number))
    write_json(tmp_path / "run" / "run.json", {"status": "finished", "settings": {"split": "forget"}, "weights": "w"})
    write_evaluation(tmp_path / "retrained" / "eval", 55, 40)
    monkeypatch.chdir(tmp_path)
    return Scripts()


def requests(scripts: Scripts, kind: str, line: str = "") -> dict[str, Any]:
    main(f"{kind} --target target --out out {line}".split(), scripts)
    return read_json(Path("out/protocol.json"))


def utilities(found: dict[str, Any]) -> dict[str, float]:
    return {row["split"]: row["metrics"]["knowmem_retain"]["value"] for row in found["rows"]}


def test_scalability_unlearns_every_fold_from_the_target(scripts):
    found = requests(scripts, "scalability")
    assert [step for step in scripts.steps if step.startswith("unlearn")] == [f"unlearn scal_{k} <- target" for k in (1, 2, 3, 4)]
    assert utilities(found) == {"target": 50, "scal_1": 49, "scal_2": 49, "scal_3": 49, "scal_4": 49}
    assert found["status"] == "finished"


def test_sustainability_unlearns_every_fold_from_the_result_before(scripts, capsys):
    found = requests(scripts, "sustainability")
    assert scripts.steps == [
        "evaluate target",
        "unlearn sust_1 <- target", "evaluate out/sust_1",
        "unlearn sust_2 <- out/sust_1", "evaluate out/sust_2",
        "unlearn sust_3 <- out/sust_2", "evaluate out/sust_3",
        "unlearn sust_4 <- out/sust_3", "evaluate out/sust_4",
    ]  # fmt: skip
    assert utilities(found) == {"target": 50, "sust_1": 49, "sust_2": 48, "sust_3": 47, "sust_4": 46}
    table = Path("out/protocol.md").read_text()
    assert table == capsys.readouterr().out and table.splitlines()[:4] == [
        "| split   |   knowmem_retain |   knowmem_forget |   verbmem |   privleak |",
        "|:--------|-----------------:|-----------------:|----------:|-----------:|",
        "| target  |            50.00 |            60.00 |         – |          – |",
        "| sust_1  |            49.00 |            50.00 |         – |          – |",
    ]


def test_dials_reach_the_script_that_they_are_for(scripts):
    requests(scripts, "scalability", "--both model=tiny --unlearn method=npo epochs=3 --evaluate resamples=100")
    for script, dials in scripts.called:
        own = {
            "model": "tiny",
            "benchmark": "muse",
            "split": dials["split"],
            "model.path": dials["model.path"],
            "out": dials["out"],
        }
        assert dials == own | ({"method": "npo", "epochs": 3} if script == "unlearn" else {"resamples": 100})


def test_finished_steps_are_not_run_again(scripts):
    first = requests(scripts, "scalability")
    count = len(scripts.called)
    assert requests(scripts, "scalability") == first and len(scripts.called) == count == 9


def test_an_interrupted_protocol_goes_on(scripts):
    def stop(script, overrides):
        if script == "evaluate" and "sust_2" in str(overrides):
            raise KeyboardInterrupt
        scripts(script, overrides)

    with pytest.raises(KeyboardInterrupt):
        requests(stop, "sustainability")
    assert read_json(Path("out/protocol.json"))["status"] == "running" and len(scripts.called) == 4
    assert utilities(requests(scripts, "sustainability"))["sust_4"] == 46
    assert scripts.steps[4:6] == ["evaluate out/sust_2", "unlearn sust_3 <- out/sust_2"]


def selection(scripts: Scripts, line: str = "") -> dict[str, Any]:
    main(f"select --run run --oracle retrained --out chosen {line}".split(), scripts)
    return read_json(Path("chosen/selection.json"))


def test_selection_by_hand(scripts, capsys):
    """Knowledge is 50, 40, 30 after steps 9, 10, 20; the retrained model's is 40: the first at most that is step 10."""
    found = selection(scripts)
    assert (found["chosen"], found["reached"], found["model"]) == ("10", True, "run/snapshots/10")
    assert [row["step"] for row in found["rows"]] == ["oracle", "9", "10"] and found["status"] == "finished"
    assert scripts.steps == ["evaluate run/snapshots/9", "evaluate run/snapshots/10"]
    assert capsys.readouterr().out == "model.path=run/snapshots/10\n"
    assert "| **10** |            48.00 |            40.00 |" in Path("chosen/selection.md").read_text()


def test_every_snapshot_can_be_looked_at_and_the_choice_stays(scripts):
    found = selection(scripts, "--every")
    assert found["chosen"] == "10" and len(scripts.called) == 3
    assert selection(scripts)["chosen"] == "10" and len(scripts.called) == 3


def test_without_any_that_will_do_the_last_is_taken_and_told(scripts, capsys):
    write_evaluation(Path("retrained/eval"), 55, 29)
    found = selection(scripts)
    assert (found["chosen"], found["reached"]) == ("20", False)
    assert "no snapshot brought knowmem_forget to the oracle; this is the last" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("scalability --target target --out out --unlearn split=forget", "split=forget: split is set for every run by itself"),
        ("scalability --target target --out out --both model", "model: not understood; write key=value"),
        ("scalability --target target --out target", "--out target exists and holds no protocol.json; choose another"),
        ("select --run target --oracle retrained --out out", "--run target holds no finished run"),
        ("select --run run --oracle target --out out", "--oracle target holds no finished evaluation"),
        (
            "select --run run --oracle retrained --out out --metric rouge",
            "--metric rouge: retrained/eval has no such metric",
        ),
        ("select --run run --oracle retrained --out out --evaluate out=x", "out=x: out is set for every run by itself"),
    ],
)
def test_errors_are_one_sentence(scripts, line, reason):
    with pytest.raises(SystemExit, match=reason) as refusal:
        main(line.split(), scripts)
    assert "\n" not in str(refusal.value) and not scripts.called


def test_a_run_without_snapshots_is_refused(scripts):
    write_json(Path("target/run.json"), {"status": "finished", "settings": {"split": "forget"}})
    with pytest.raises(SystemExit, match="--run target has no snapshots; unlearn with snapshots=STEPS"):
        main("select --run target --oracle retrained --out out".split(), scripts)


@pytest.mark.parametrize("line", ["--target retrained", "--unlearn method=ga"])
def test_a_folder_with_numbers_of_other_settings_is_refused(scripts, line):
    requests(scripts, "scalability")
    with pytest.raises(SystemExit, match="--out out holds results with other settings"):
        main(f"scalability --target target --out out {line}".split(), scripts)
    with pytest.raises(SystemExit, match="kind: scalability -> sustainability"):
        requests(scripts, "sustainability")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n": 5}, "they differ in n;"),
        ({"definition": "another"}, "they differ in definition;"),
        ({"value": float("nan")}, "it is nan in retrained/eval, which nothing can be compared with"),
    ],
)
def test_only_like_is_compared_with_like(scripts, change, reason):
    write_evaluation(Path("retrained/eval"), 55, 40, **change)
    with pytest.raises(SystemExit, match=reason):
        selection(scripts)


def test_an_evaluation_that_leaves_nothing_is_an_error(scripts):
    with pytest.raises(SystemExit, match="the evaluation left no finished result in out/target; see its output"):
        requests(lambda *_: None, "scalability")


def test_a_failing_script_stops_the_protocol(scripts, capfd):
    """The real evaluate.py, in a process of its own; it refuses before its slow imports."""
    with pytest.raises(SystemExit, match="evaluate.py failed, for the reason above; the same command goes on"):
        main("scalability --target target --out out --evaluate resample=100".split())
    assert "there is no key resample; did you mean resamples" in capfd.readouterr().err


def test_the_overrides_are_those_that_the_scripts_understand(tmp_path):
    """Two requests with the real scripts, in this process; what they write is what the protocol reads."""
    steps = ("steps=1", "batch_size=2", "checkpoint=none", "lr=1e-3", "benchmark.piece_length=64", "benchmark.texts=1")
    few = ("benchmark.rows=2", "benchmark.max_new_tokens=4", "benchmark.knowmem_max_new_tokens=2", "resamples=100")

    def call(script: str, overrides: Sequence[str]) -> None:
        if any("_3" in word for word in overrides):
            raise KeyboardInterrupt
        run(tmp_path, script, *overrides)

    line = ["sustainability", "--target", str(target()), "--out", str(tmp_path / "out"), "--both", "model=tiny", *SMALL]
    with pytest.raises(KeyboardInterrupt):
        main([*line, "--unlearn", "method=graddiff", *steps, "--evaluate", "oracle=none", *few], call)
    found = read_json(tmp_path / "out" / "protocol.json")
    assert [row["split"] for row in found["rows"]] == ["target", "sust_1", "sust_2"]
    assert all(0 <= row["metrics"]["knowmem_retain"]["value"] <= 100 for row in found["rows"])
    assert read_json(tmp_path / "out" / "sust_2" / "run.json")["settings"]["model"]["path"] == str(tmp_path / "out" / "sust_1")
