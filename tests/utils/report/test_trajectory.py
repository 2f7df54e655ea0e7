"""Following a run: which models it left, with which settings they are evaluated, what is made of the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from tests.runs import compose_settings
from tests.utils.report.test_page import Page
from utils.files import read_json, write_json
from utils.report.columns import Column
from utils.report.read import Estimate, ReportError
from utils.report.trajectory import EvaluatedModel, ModelAtStep, Trajectory, follow, models_of, plan
from utils.report.trajectory_page import columns, page, plot, to_json, to_markdown
from utils.runs import capsule, inherited_settings
from utils.runs.cli import as_override
from utils.runs.inherited_settings import evaluation_settings, inherited
from utils.runs.run import Run
from utils.runs.settings import SettingsError

SHARE = Column("P", "forget_prob", "probability", better="low")


def write_model(folder: Path, value: float) -> None:
    """A model folder, as far as following looks into it, and what the evaluator below finds in it."""
    write_json_in(folder / "config.json", {})
    (folder / "value").write_text(str(value), encoding="utf-8")


def write_json_in(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


@cache
def settings_of(*overrides: str) -> dict[str, Any]:
    return OmegaConf.to_container(compose_settings("unlearn", *overrides), resolve=True)


@pytest.fixture(scope="module", autouse=True)
def composed_once() -> Iterator[None]:
    """The same settings are composed once in this module."""
    compose_once = cache(inherited_settings.compose_settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inherited_settings, "compose_settings", lambda script, given: compose_once(script, tuple(given)).copy())
        yield


def write_run(folder: Path, *overrides: str, snapshots: Sequence[int] = (2, 4), status: str = "finished", last: int = 4) -> Path:
    """A run that began at target/ and ended after `last` steps; the probability of a model after s steps is 1 / (1 + s)."""
    settings = settings_of("method=npo", "model=tiny", "model.path=target", "split=forget05", *overrides)
    known = {"script": "unlearn", "status": status, "settings": settings, "steps": 9, "weights": folder.name}
    write_json_in(folder / "run.json", known)
    (folder / "log.jsonl").write_text("".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in range(1, last + 1)), "utf-8")
    for step in snapshots:
        write_model(folder / "snapshots" / str(step), 1 / (1 + step))
    if status == "finished":
        write_model(folder / "model", 1 / (1 + last))
    return folder


class Evaluator:
    """In the place of evaluate.py: opens the folder as it does, and writes the number that it finds in the model."""

    def __init__(self):
        self.asked: list[str] = []
        self.damaged: dict[str, Exception] = {}

    def __call__(self, cfg: DictConfig) -> None:
        run = Run.open(cfg, "evaluate", {})
        if run.skip:
            return
        self.asked.append(cfg.model.path)
        if cfg.model.path in self.damaged:
            raise self.damaged[cfg.model.path]
        folder = Path(cfg.model.path)
        value = float(((folder / "model" if (folder / "model").is_dir() else folder) / "value").read_text("utf-8"))
        entry = {"n": 4, "definition": "made up", "value": value, "ci95": [value / 2, min(2 * value, 1.0)]}
        write_json(run.folder / "metrics.json", {"forget_prob": entry, "made_up": {**entry, "ci95": None}})
        run.finish()


@pytest.fixture
def evaluator(tmp_path, monkeypatch) -> Evaluator:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(capsule, "git_commit", lambda: "unknown")  # asking takes longer than all else here
    write_model(tmp_path / "target" / "model", 1.0)
    return Evaluator()


def names(run: Path) -> list[tuple[str, str]]:
    return [(at.name, at.model) for at in models_of(run)]


def test_points_in_the_order_of_steps_the_last_snapshot_being_the_model(evaluator):
    run = write_run(Path("run"), snapshots=(2, 10, 4), last=10)
    assert names(run) == [("0", "target"), ("2", "run/snapshots/2"), ("4", "run/snapshots/4"), ("10", "run")]


def test_an_early_stop_ends_before_the_next_snapshot(evaluator):
    run = write_run(Path("run"), snapshots=(2, 4), last=5)
    assert names(run)[-2:] == [("4", "run/snapshots/4"), ("5", "run")]


def test_a_run_that_still_trains_has_its_snapshots(evaluator):
    assert names(write_run(Path("run"), status="running")) == [
        ("0", "target"),
        ("2", "run/snapshots/2"),
        ("4", "run/snapshots/4"),
    ]


def test_what_the_method_made_at_the_end_is_a_point_of_its_own(evaluator):
    run = write_run(Path("run"), "method=task_vector")
    assert models_of(run)[-2:] == [ModelAtStep(4, "run/snapshots/4"), ModelAtStep(4, "run", finished=True)]
    assert names(run)[-1][0] == "finished"


def test_without_its_first_model_at_hand_a_run_begins_at_the_first_snapshot(evaluator):
    run = write_run(Path("run"), "model.path=some/hub-name")
    assert [name for name, _ in names(run)] == ["2", "4"]


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda: Path("nowhere"), "nowhere is no run of unlearn.py or finetune.py; give a run folder"),
        (lambda: write_run(Path("run"), snapshots=()), "run holds no snapshots; train it with snapshots=N"),
        (lambda: Path("target"), "target is no run of unlearn.py or finetune.py"),
    ],
)
def test_what_cannot_be_followed_is_one_sentence(evaluator, make, problem):
    with pytest.raises(ReportError, match=problem):
        plan([make()])


def test_evaluations_have_the_options_that_the_run_was_trained_with(evaluator):
    odd = "it's a \\ and\n{that}"
    trained = settings_of(
        "method=npo", "model=tiny", "model.path=target", "split=forget05", "benchmark.rows=3", "benchmark.truth_ratio=arithmetic",
        "data_root=some/where", "compat=open_unlearning", as_override("model.template.question_end", odd), "lr=1",
    )  # fmt: skip
    cfg = evaluation_settings(trained, ["resamples=100"])
    assert (cfg.split, cfg.benchmark.rows, cfg.benchmark.data_root, cfg.compat) == (
        "forget05",
        3,
        "some/where",
        "open_unlearning",
    )
    assert cfg.benchmark.metrics.truth_ratio == "arithmetic" and cfg.model.template.question_end == odd
    assert cfg.resamples == 100 and cfg.model.path is None
    # What is told otherwise reaches all that follows it.
    cfg = evaluation_settings(trained, ["data_root=fixture", "benchmark.truth_ratio=geometric"])
    assert (cfg.benchmark.data_root, cfg.benchmark.metrics.truth_ratio, cfg.benchmark.rows) == ("fixture", "geometric", 3)


def test_another_benchmark_brings_its_own_split_and_options(evaluator):
    trained = settings_of("method=npo", "model=tiny", "split=forget05", "benchmark.rows=3", "data_root=some/where")
    assert inherited(trained, ["benchmark=knowundo"]) == ["model=tiny", "data_root='some/where'"]
    assert evaluation_settings(trained, ["benchmark=knowundo"]).split == "unlearn"
    assert "benchmark.rows=3" in inherited(trained, ["benchmark=tofu"])


@pytest.mark.parametrize(
    "value", ["a'b", "a\\", "a\\'b", "a\\\\b", "x\ny", "", " [1,2] ", 1e-5, 3, True, None, [1, "b,c", None], {"a": [1, "'"]}]
)
def test_any_value_is_an_override(value):
    read = OverridesParser.create().parse_override(as_override("key", value)).value()
    assert json.loads(json.dumps(read, default=str)) == value


@pytest.mark.parametrize("word", ["model.path=x", "out=x", "reinforced.path=x", "from_logs=x"])
def test_what_differs_from_model_to_model_cannot_be_set(evaluator, word):
    with pytest.raises(ValueError, match="is set for every run by itself; leave it out"):
        plan([write_run(Path("run"))], [word])


def test_every_model_is_evaluated_once(evaluator):
    (trajectory,) = plan([write_run(Path("run"))])
    follow([trajectory], evaluator)
    assert evaluator.asked == ["target", "run/snapshots/2", "run"]
    assert [model.metrics["forget_prob"].value for model in trajectory.evaluated] == [1.0, 1 / 3, 1 / 5]
    assert [str(model.folder) for model in trajectory.evaluated] == [f"run/trajectory/{step}" for step in (0, 2, 4)]
    follow(plan([Path("run")]), evaluator)
    assert len(evaluator.asked) == 3


def test_an_interrupted_following_goes_on(evaluator):
    evaluator.damaged["run/snapshots/2"] = KeyboardInterrupt()
    write_run(Path("run"))
    with pytest.raises(KeyboardInterrupt):
        follow(plan([Path("run")]), evaluator)
    evaluator.damaged.clear()
    follow(plan([Path("run")]), evaluator)
    assert evaluator.asked == ["target", "run/snapshots/2", "run/snapshots/2", "run"]


def test_a_snapshot_that_fails_is_named_and_the_others_count(evaluator, capsys):
    evaluator.damaged["run/snapshots/2"] = OSError("no file named\n model.safetensors")
    (trajectory,) = plan([write_run(Path("run"))])
    follow([trajectory], evaluator)
    assert [model.at.step for model in trajectory.evaluated] == [0, 4]
    assert trajectory.failed == {"step 2": "OSError: no file named model.safetensors"}
    said = "run, step 2 (run/snapshots/2) failed and is left out: OSError: no file named model.safetensors"
    assert said in capsys.readouterr().err
    shown = columns([trajectory])
    assert "- step 2: OSError: no file named" in to_markdown([trajectory], shown, "x")
    assert "OSError: no file named" in page([trajectory], shown, "x")


def test_with_nothing_left_it_ends_with_the_reason(evaluator):
    for model in ("target", "run/snapshots/2", "run"):
        evaluator.damaged[model] = RuntimeError("out of memory")
    with pytest.raises(ReportError, match="run: no model of it could be evaluated; RuntimeError: out of memory"):
        follow(plan([write_run(Path("run"))]), evaluator)


def test_settings_that_suit_no_model_end_at_once(evaluator):
    evaluator.damaged["target"] = SettingsError("oracle=null: forget quality compares with a retain oracle")
    with pytest.raises(ReportError, match=r"^run, step 0 \(target\): oracle=null: forget quality"):
        follow(plan([write_run(Path("run"))]), evaluator)
    assert evaluator.asked == ["target"]


def test_numbers_of_other_settings_are_not_overwritten(evaluator):
    follow(plan([write_run(Path("run"))]), evaluator)
    with pytest.raises(ReportError, match=r"run, step 0 .* with other settings \(resamples: 1000 -> 100\)"):
        follow(plan([Path("run")], ["resamples=100"]), evaluator)
    follow(plan([Path("run")], ["benchmark=knowundo"]), evaluator)
    assert Path("run/trajectory-knowundo/2/metrics.json").is_file()


@pytest.mark.slow
def test_runs_from_one_model_share_its_evaluation(evaluator):
    pair = plan([write_run(Path("a")), write_run(Path("b"))])
    follow(pair, evaluator)
    assert evaluator.asked.count("target") == 1
    assert str(pair[1].evaluated[0].folder) == "a/trajectory/0" and not Path("b/trajectory/0").exists()
    assert [trajectory.label for trajectory in pair] == ["npo · a", "npo · b"]


def test_runs_of_two_benchmarks_are_refused_unless_one_is_chosen(evaluator):
    write_run(Path("a"))
    write_run(Path("b"), "benchmark=knowundo", "split=unlearn")
    with pytest.raises(ReportError, match="a is about tofu, b about knowundo; follow them apart"):
        plan([Path("a"), Path("b")])
    assert [t.folder.name for t in plan([Path("a"), Path("b")], ["benchmark=knowundo"])] == ["trajectory-knowundo", "trajectory"]


def test_a_misspelt_metric_is_told_after_the_first_model(evaluator):
    write_run(Path("run"))
    with pytest.raises(ReportError, match="--metrics forget_rob: was not measured; did you mean forget_prob?"):
        follow(plan([Path("run")]), evaluator, ["forget_rob"])
    assert evaluator.asked == ["target"]


def made_up(label: str, *values: float | None, finished: bool = False) -> Trajectory:
    """Ten steps between the values; every interval is a tenth wide on either side."""
    cfg = OmegaConf.create({"benchmark": {"name": "tofu"}, "model": {"name": "tiny"}, "split": "forget05"})
    trajectory = Trajectory(Path("runs") / label, label, (), cfg, Path("runs"))
    for place, value in enumerate(values):
        numbers = {} if value is None else {"forget_prob": Estimate(value, (value - 0.1, value + 0.1), 7, "mean")}
        last = finished and place == len(values) - 1
        at = ModelAtStep(10 * place - 10, "m", finished=True) if last else ModelAtStep(10 * place, "m")
        trajectory.evaluated.append(EvaluatedModel(at, Path("runs") / str(place), numbers))
    return trajectory


class Shapes(Page):
    """The shapes of a picture, with their attributes."""

    def __init__(self, source: str):
        self.shapes: list[tuple[str, dict[str, str]]] = []
        super().__init__(source)

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        self.shapes.append((tag, dict(attrs)))

    def of(self, tag: str, key: str) -> list[str]:
        return [attributes[key] for name, attributes in self.shapes if name == tag and key in attributes]


def test_picture_by_hand():
    """0.2 and 0.8, intervals from 0.1 to 0.9: the axis reaches from 0.02 to 0.98 over 168 units, so 0.2 is 31.5 from below."""
    drawn = Shapes(plot([made_up("npo", 0.2, 0.8)], SHARE))
    assert drawn.of("polyline", "points") == ["56.2,144.5 329.8,39.5"]
    assert drawn.of("polygon", "points") == ["56.2,162.0 329.8,57.0 329.8,22.0 56.2,127.0"]
    assert drawn.of("circle", "cx") == ["56.21", "329.79"] and not drawn.of("rect", "x")
    assert "".join(drawn.text).count("step 10: 0.800 [0.700, 0.900]") == 1


def test_the_finished_model_is_apart():
    drawn = Shapes(plot([made_up("task_vector", 0.2, 0.8, 0.1, finished=True)], SHARE))
    assert len(drawn.of("polyline", "points")[0].split()) == 2 and len(drawn.of("rect", "x")) == 1
    assert "".join(drawn.text).count("finished model: 0.100") == 1


def test_gaps_and_single_points_are_drawn_and_nothing_is_left_out():
    assert plot([made_up("npo", None)], SHARE) is None
    drawn = Shapes(plot([made_up("npo", 0.5), made_up("ga", 0.2, None, float("nan"), 0.4)], SHARE))
    assert len(drawn.of("circle", "cx")) == 3 and len(drawn.of("polyline", "points")) == 1


def test_a_p_value_is_drawn_over_powers_of_ten():
    found = made_up("npo", 0.2)
    found.evaluated[0].metrics["forget_prob"] = Estimate(1e-6, (0.0, 1e-5), 7, "")
    drawn = Shapes(plot([found], Column("FQ", "forget_prob", scale="p")))
    assert "10⁻⁶" in drawn.text and "p = 0.05" in drawn.text and "10⁻³⁰⁰" not in drawn.text


def test_the_oracle_is_a_line(tmp_path):
    """Of an evaluation about the same questions; one about others is none."""
    found = made_up("npo", 0.2, 0.8)
    metrics = {"forget_prob": {"value": 0.05, "n": 7, "ci95": [0.0, 0.1], "definition": "mean"}}
    settings = {"benchmark": {"name": "tofu"}, "split": "forget05"}
    write_json_in(tmp_path / "retain" / "eval" / "metrics.json", metrics)
    write_json_in(tmp_path / "retain" / "eval" / "run.json", {"script": "evaluate", "status": "finished", "settings": settings})
    found.cfg.oracle = str(tmp_path / "retain")
    drawn = Shapes(plot([found], SHARE))
    assert "oracle 0.050" in drawn.text and "level" in drawn.of("line", "class")
    write_json_in(
        tmp_path / "retain" / "eval" / "run.json",
        {"script": "evaluate", "status": "finished", "settings": {**settings, "split": "x"}},
    )
    other = made_up("npo", 0.2, 0.8)
    other.cfg.oracle = str(tmp_path / "retain")
    assert "level" not in Shapes(plot([other], SHARE)).of("line", "class")


def test_the_page_has_a_picture_per_metric_and_a_line_per_run():
    both = [made_up("npo", 0.2, 0.8), made_up("<ga>", 0.3, 0.4)]
    source = page(both, [SHARE, Column("M", "not_measured")], "python x")
    parsed = Shapes(source)
    assert parsed.tags.count("figure") == 1 and len(parsed.of("polyline", "points")) == 2 and "script" not in parsed.tags
    assert "&lt;ga&gt;" in source and "<ga>" not in source and parsed.tags.count("table") == 2
    assert [value for value in parsed.of("meta", "content") if value.startswith("default-src 'none'")]
    assert "npo from step 0 to 10 (2 models), <ga> from step 0 to 10 (2 models)." in parsed.text


TABLE = [
    "| step   |                  P ↓ |",
    "|:-------|---------------------:|",
    "| 0      | 0.250 [0.150, 0.350] |",
    "| 10     |                    – |",
]


def test_markdown_by_hand():
    text = to_markdown([made_up("npo", 0.25, None)], [SHARE], "python x")
    assert text.splitlines()[2:7] == ["## npo", "", *TABLE[:3]]
    assert TABLE[3] in text and text.endswith("Made with `python x`\n")


def test_json_holds_every_number_in_the_order_of_steps():
    (run,) = to_json([made_up("npo", 0.25, None, 0.75)], "python x")["runs"]
    assert run["steps"] == [0, 10, 20] and run["label"] == "npo" and run["failed"] == {}
    assert run["metrics"]["forget_prob"]["value"] == [0.25, None, 0.75] and run["metrics"]["forget_prob"]["n"] == [7, None, 7]
    assert run["metrics"]["forget_prob"]["ci95"] == [[0.15, 0.35], None, [0.65, 0.85]]


def test_named_metrics_are_shown_as_the_benchmark_declares_them():
    found = [made_up("npo", 0.25)]
    assert columns(found, ["forget_prob", "other"])[0].header == "F-Prob → oracle"
    assert [column.metric for column in columns(found)] == ["forget_prob"]
    assert columns(found, ["other"]) == [Column("other", "other", scale="free")]


def test_settings_of_evaluations_are_kept_with_them(evaluator):
    follow(plan([write_run(Path("run"))]), evaluator)
    known = read_json(Path("run/trajectory/2/run.json"))
    assert known["settings"]["model"]["path"] == "run/snapshots/2" and known["settings"]["split"] == "forget05"
