"""Run folders: what was cut off goes on to the same end, what is finished is left alone, what is in the way is refused."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests.runs import assert_same_curve, assert_same_weights, compose_settings, losses, run, target, weights
from utils.files import read_json, read_rows, write_json
from utils.runs import train as training
from utils.runs.capsule import changed_settings, result_hash
from utils.runs.run import Run, RunError
from utils.training.callbacks import SaveByTheClock, SealCheckpoints
from utils.training.resumable import last_checkpoint

# 10 items in batches of 4: 6 steps, checkpoints after steps 2, 4 and 6.
STEPS = ("split=forget05", "batch_size=4", "epochs=2.4", "lr=1e-3", "warmup=1", "method=npo_rt", "checkpoint=2")


class PowerCut(Exception):
    """Ends a run where a test wants it to end."""


def unlearn(out: Path, *overrides: object) -> Path:
    run(out.parent, "unlearn", f"model.path={target()}", *STEPS, f"out={out}", *overrides)
    return out


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return unlearn(tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture
def cut_off(monkeypatch, tmp_path):
    """Starts a run that dies when the record of a step would be written."""

    def start(at_step: int, *overrides: object) -> Path:
        def record(self, entry):
            if entry["step"] == at_step:
                raise PowerCut
            original(self, entry)

        original = Run.record
        with monkeypatch.context() as patch, pytest.raises(PowerCut):
            patch.setattr(Run, "record", record)
            unlearn(tmp_path / "run", *overrides)
        assert read_json(tmp_path / "run" / "run.json")["status"] == "running"
        return tmp_path / "run"

    return start


@pytest.mark.parametrize(
    "at_step, reached, again",
    [
        pytest.param(1, None, (), marks=pytest.mark.slow),
        pytest.param(4, 2, (), marks=pytest.mark.slow),
        (5, 4, ("per_device_batch_size=2",)),
    ],
)
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(cut_off, undisturbed, at_step, reached, again):
    out = cut_off(at_step)
    found = last_checkpoint(out / "checkpoints")
    assert (found and found.name) == (reached and f"checkpoint-{reached}")
    unlearn(out, *again)
    assert [record["step"] for record in losses(out)] == [1, 2, 3, 4, 5, 6]
    assert_same_curve(out, undisturbed)
    assert_same_weights(weights(out), weights(undisturbed), 1e-5)
    assert read_json(out / "run.json")["status"] == "finished" and not (out / "checkpoints").exists()


@pytest.mark.slow
def test_dropout_goes_on_where_it_stopped(cut_off, tmp_path):
    lora = ("adapter=lora", "adapter.lora.dropout=0.3")
    unlearn(cut_off(5, *lora), *lora)
    unlearn(tmp_path / "whole", *lora)
    assert_same_curve(tmp_path / "run", tmp_path / "whole")
    without = losses(unlearn(tmp_path / "without", "adapter=lora"))
    assert losses(tmp_path / "whole")[-1]["loss"] != pytest.approx(without[-1]["loss"], abs=1e-3)


def test_a_run_that_died_while_saving_its_model_has_nothing_left_to_train(monkeypatch, tmp_path, undisturbed):
    def save(*_):
        raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(training, "save_model", save)
        unlearn(tmp_path / "run")
    out = tmp_path / "run"
    assert last_checkpoint(out / "checkpoints").name == "checkpoint-6" and not (out / "model").exists()
    unlearn(out)
    assert_same_curve(out, undisturbed)
    assert_same_weights(weights(out), weights(undisturbed), 1e-6)


def test_a_run_that_died_while_writing_a_checkpoint_goes_on_from_the_one_before(monkeypatch, tmp_path, undisturbed):
    def on_save(self, args, state, control, **_):
        if state.global_step == 4:
            (tmp_path / "run" / "checkpoints" / "checkpoint-4" / "optimizer.pt").write_bytes(b"half of it")
            raise PowerCut
        original(self, args, state, control)

    original = SealCheckpoints.on_save
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(SealCheckpoints, "on_save", on_save)
        unlearn(tmp_path / "run")
    assert last_checkpoint(tmp_path / "run" / "checkpoints").name == "checkpoint-2"
    unlearn(tmp_path / "run")
    assert_same_curve(tmp_path / "run", undisturbed)


def test_the_log_is_cut_back_to_the_checkpoint(cut_off):
    out = cut_off(4)
    with open(out / "log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')  # written by a process that died in the middle of a line
    unlearn(out)
    steps = [record.get("step") for record in read_rows(out / "log.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6, 6]  # the last line sums up


def test_a_run_that_is_resumed_at_its_end_sums_up_once(tmp_path, monkeypatch):
    def save(*_):
        raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(training, "save_model", save)
        unlearn(tmp_path / "run")
    unlearn(tmp_path / "run")
    records = read_rows(tmp_path / "run" / "log.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6, 6] and "train_runtime" in records[-1]


def test_checkpoints_go_by_the_clock_unless_told_otherwise(monkeypatch, tmp_path):
    saved, now = [], [0.0]

    def on_save(self, args, state, control, **_):
        saved.append(state.global_step)
        original(self, args, state, control)

    def record(self, entry):  # one step lasts four minutes
        now[0] += 240

    original = SealCheckpoints.on_save
    monkeypatch.setattr(SealCheckpoints, "on_save", on_save)
    monkeypatch.setattr(Run, "record", record)
    monkeypatch.setattr(training, "SaveByTheClock", functools.partial(SaveByTheClock, clock=lambda: now[0]))
    unlearn(tmp_path / "ten", "checkpoint=10m")
    assert saved == [4]  # after 12 minutes; the record of a step comes after it
    saved.clear()
    unlearn(tmp_path / "four", "checkpoint=4m")
    assert saved == [2, 4, 6]  # each at the end of a step, before the four minutes of its record


def test_run_json_tells_which_data_were_read_and_changed_data_are_refused(cut_off, tmp_path):
    out = cut_off(5)
    data = read_json(out / "run.json")["data"]
    assert set(data) == {"tofu/full.json", "tofu/forget05.json"} or {"tofu/forget05.json", "tofu/retain95.json"} <= set(data)
    known = read_json(out / "run.json")
    write_json(out / "run.json", {**known, "data": {**data, "tofu/forget05.json": "0" * 16}})
    with pytest.raises(RunError, match="the data file tofu/forget05.json has changed since; choose another out="):
        unlearn(out)


DEPENDENT = ("method=kto", "model.max_length=96")  # its reference point is a mean over the micro-batch


def test_a_run_that_depends_on_the_micro_batch_says_so_once(tmp_path, caplog):
    said = "the loss depends on the micro-batch, here of 2 items; another per_device_batch_size gives other numbers"
    with caplog.at_level("INFO"):
        unlearn(tmp_path / "run", *DEPENDENT, "steps=2", "per_device_batch_size=2")
    assert caplog.text.count(f"method=kto: {said}") == 1
    known = read_json(tmp_path / "run" / "run.json")
    assert known["micro_batch"] == 2
    caplog.clear()
    with caplog.at_level("INFO"):
        unlearn(tmp_path / "other", "steps=1", "per_device_batch_size=2")
        with pytest.raises(RunError, match=r"holds a finished run with other settings \(per_device_batch_size: 2 -> 4\)"):
            unlearn(tmp_path / "run", *DEPENDENT, "steps=2", "per_device_batch_size=4")
        unlearn(tmp_path / "run", *DEPENDENT, "steps=2")  # auto: whatever it was
    assert "micro-batch" not in caplog.text and "micro_batch" not in read_json(tmp_path / "other" / "run.json")
    assert read_json(tmp_path / "run" / "run.json") == known


@pytest.mark.slow
def test_under_auto_the_plan_must_be_that_of_the_run_that_goes_on(cut_off, monkeypatch, tmp_path):
    whole = unlearn(tmp_path / "whole", *DEPENDENT)
    out = cut_off(5, *DEPENDENT)
    monkeypatch.setattr(training, "largest_micro_batch", lambda *_: 2)  # a smaller device
    for _ in range(2):  # what was refused stays refused
        with pytest.raises(RunError) as refusal:
            unlearn(out, *DEPENDENT)
        assert str(refusal.value) == (
            f"out={out} holds a half-written run in micro-batches of 4, on which its loss depends, and "
            "per_device_batch_size=auto gives 2 here; use per_device_batch_size=4, or overwrite=true"
        )
    unlearn(out, *DEPENDENT, "per_device_batch_size=4")
    assert_same_curve(out, whole, 0.0)
    assert_same_weights(weights(out), weights(whole), 0.0)


def opened(out: Path, *overrides: object, script: str = "unlearn") -> Run:
    return Run.open(compose_settings(script, f"out={out}", *overrides), script, {})


def finished(out: Path, *overrides: object) -> Path:
    opened(out, *overrides).finish()
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_finished_run_is_skipped_and_left_as_it_is(tmp_path, caplog):
    out = finished(tmp_path / "run")
    before = contents(out)
    with caplog.at_level("INFO"):
        again = opened(out, "per_device_batch_size=1", "log_every=5", "cache=elsewhere", "workers=3", "show_prompts=2")
    assert again.skip and contents(out) == before
    assert f"{out} is finished with these settings; skipped" in caplog.text


def test_other_settings_are_refused_by_name(tmp_path):
    out = finished(tmp_path / "run", "lr=0.1")
    before = contents(out)
    with pytest.raises(RunError) as refusal:
        opened(out, "model.lora.r=3", "model.lora.alpha=3", "model.name=tiny2", "lr=0.5", "seed=7")
    message = str(refusal.value)
    assert f"out={out} holds a finished run with other settings" in message
    assert "(seed: 42 -> 7; lr: 0.1 -> 0.5; model.name: tiny -> tiny2; " in message  # the plainest dials first
    assert "; and 1 more); choose another out=, or overwrite=true" in message
    assert contents(out) == before


def test_overwrite_starts_anew(tmp_path):
    out = finished(tmp_path / "run")
    (out / "log.jsonl").write_text('{"step": 1}\n')
    again = opened(out, "lr=0.5", "overwrite=true")
    assert not again.skip and not (out / "log.jsonl").exists()
    known = read_json(out / "run.json")
    assert known["status"] == "running" and known["settings"]["lr"] == 0.5


def test_resume_can_be_forbidden(tmp_path):
    opened(tmp_path / "run").record({"step": 1})
    with pytest.raises(RunError, match="holds a half-written run; use resume=true to go on, overwrite=true to start"):
        opened(tmp_path / "run", "resume=false")
    assert read_rows(tmp_path / "run" / "log.jsonl", appended=True) == [{"step": 1}]


def test_a_run_that_got_nowhere_is_in_nobodys_way(tmp_path):
    opened(tmp_path / "run", "model.attn=eager")  # died while loading the model: no record, no checkpoint
    assert not opened(tmp_path / "run", "model.attn=sdpa", "resume=false").skip
    assert read_json(tmp_path / "run" / "run.json")["settings"]["model"]["attn"] == "sdpa"


@pytest.mark.parametrize("overwrite", ["false", "true"])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("five years of work")
    with pytest.raises(RunError, match="not a run folder .it holds thesis.txt.; choose another out="):
        opened(tmp_path, f"overwrite={overwrite}")
    with pytest.raises(RunError, match="there is a file of that name; choose another out="):
        opened(tmp_path / "thesis.txt", f"overwrite={overwrite}")
    assert contents(tmp_path) == {"thesis.txt": b"five years of work"}


@pytest.mark.parametrize("text", ['{"script": "unl', "[1, 2]", '{"status": "finished"}'])
def test_a_damaged_run_json_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"its run.json is damaged; delete the folder or choose another out="):
        opened(tmp_path, "overwrite=true")


def test_another_scripts_run_is_refused(tmp_path):
    out = finished(tmp_path / "run")
    with pytest.raises(RunError, match="holds a run of unlearn, not of evaluate; choose another out="):
        opened(out, "overwrite=true", script="evaluate")


def test_a_run_whose_start_was_made_anew_is_refused(tmp_path):
    def make_target(weights: str) -> None:
        run = opened(tmp_path / "target", "overwrite=true", script="finetune")
        run.note(weights=weights)
        run.finish()

    make_target("aaaa")
    path = f"model.path={tmp_path}/target"
    assert opened(finished(tmp_path / "run", path), path).skip
    make_target("aaaa")  # the same weights again
    assert opened(tmp_path / "run", path).skip
    make_target("bbbb")
    with pytest.raises(RunError, match="model.path was made anew since and has other weights; choose another out="):
        opened(tmp_path / "run", path)
    assert not opened(tmp_path / "run", path, "overwrite=true").skip


def test_run_json_tells_how_to_repeat_the_run(undisturbed):
    known = read_json(undisturbed / "run.json")
    assert known["settings"] == read_config(undisturbed) and known["settings"]["seed"] == 42
    assert set(known["libraries"]) >= {"torch", "transformers", "peft", "hydra-core"}
    assert known["hardware"]["processes"] == 1 and known["peak_memory_bytes"] > 2**20 and known["seconds"] > 0
    assert len(known["weights"]) == len(known["settings_hash"]) == 16 and known["code"]


def read_config(out: Path) -> dict:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(out / "config.yaml"))


def test_tensorboard_records_outlive_the_checkpoints(tmp_path):
    run(tmp_path, "unlearn", f"model.path={target()}", *STEPS, "report_to=tensorboard", "out=run")
    assert list((tmp_path / "run" / "tensorboard").glob("events.*")) and not (tmp_path / "run" / "checkpoints").exists()


def test_a_dial_that_came_later_makes_no_other_run_unless_it_is_set():
    old = {"lr": 1.0, "out": "a"}
    assert result_hash(old) == result_hash({**old, "before": "auto", "out": "b"}) != result_hash({**old, "before": "none"})
    assert changed_settings(old, {**old, "before": "auto"}) == {}
    assert changed_settings(old, {**old, "before": "none"}) == {"before": "none"}
