"""Own data from files to requests, with whatever of it there is; what cannot be done is said before any model is loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data.benchmarks.own import Own
from data.files.sources import FIXTURES
from scripts.fixtures.files import as_text
from scripts.fixtures.own import build_files
from tests.models import encoder
from tests.runs import compose_settings, metrics, run, shared_folder, succeed, target
from utils.items.requests import as_example, start
from utils.items.rows import Text
from utils.reading import DataError
from utils.runs.inherited_settings import settings_of
from utils.runs.score import model_before
from utils.runs.settings import SettingsError, check_training
from utils.tokens.chat import Turn

FILES = FIXTURES / "own"


def own(**options: object) -> Own:
    return Own("own", "fixture", **options)


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_shipped_example_is_what_its_script_writes():
    for name, content in build_files().items():
        assert (FILES / name).read_text(encoding="utf-8") == as_text(name, content)


def test_splits_of_the_shipped_example():
    sizes = {split: len(own().training(split)) for split in ("forget", "retain", "holdout", "full")}
    assert sizes == {"forget": 40, "retain": 160, "holdout": 40, "full": 200}
    assert own().training("forget")[0].before[0].role == "system"
    assert {request.task for request in own().requests("forget")} == {"forget", "retain", "holdout"}


def test_a_forget_file_is_enough(tmp_path):
    file = write(tmp_path / "mine.jsonl", {"question": "Who?", "answer": "Ann."})
    mine = own(forget=file)
    assert mine.training("retain") == [] == mine.training("holdout") and len(mine.training("full")) == 1
    (asked,) = mine.requests("forget")
    assert (asked.task, asked.question, asked.answers, asked.truth) == ("forget", "Who?", (("answer", 0, "Ann."),), "Ann.")


def test_other_texts_may_stand_for_what_is_kept(tmp_path):
    (tmp_path / "general.txt").write_text("The sea is wide. " * 30)
    mine = own(forget=str(FILES / "forget.jsonl"), retain="general", general=str(tmp_path / "general.txt"), words=40)
    assert all(isinstance(pair, Text) for pair in mine.training("retain")) and not mine.lacks_retain
    assert {request.task for request in mine.requests("forget")} == {"forget", "retain", "general"}
    with pytest.raises(ValueError, match="^benchmark.retain=general: name the texts or instructions"):
        own(forget="x", retain="general")


def test_running_text_is_asked_to_go_on(tmp_path):
    (tmp_path / "a.txt").write_text("Ann came at noon, and Bo came late at night.")
    (asked,) = own(forget=str(tmp_path / "a.txt")).requests("forget")
    encode = replace(encoder(), max_length=64)
    (_, _, rest), *_ = asked.answers
    example = as_example(encode, asked, rest)
    whole = Text("", "Ann came at noon, and Bo came late at night.").example(encode)
    assert example.prompt + example.answer == whole.prompt + whole.answer  # asked as it was learned
    assert start(encode, asked) == example.prompt
    assert asked.question == "Ann came at noon, and" and asked.truth == "Bo came late at night."
    assert own().with_question(asked, str.upper) == asked


def test_earlier_turns_stand_before_the_question():
    encode = replace(encoder(), max_length=128)
    before = (Turn("system", "Be brief."), Turn("user", "Hi."), Turn("assistant", "Yes?"))
    template = encode.template
    text = "Be brief.\n\n" + template.question_start + "Hi." + template.question_end + template.answer_tag + "Yes?\n\n"
    whole = encode.example("Who came?", "Ann.", before)
    assert encode.tokenizer.decode(whole.prompt, skip_special_tokens=True).startswith(text)
    assert (
        whole.prompt == encode.generation_prompt("Who came?", before)
        and whole.answer == encode.example("Who came?", "Ann.").answer
    )


def test_rows_are_evaluated_evenly_spread():
    asked = own(rows=40, forget_rows=10).requests("forget")
    questions = [request.question for request in asked if request.task == "retain"]
    everything = [pair.question for pair in own().training("retain")]
    assert questions == everything[::4]
    assert sum(request.task == "forget" for request in asked) == 10


def test_wrong_answers_add_the_truth_ratio(tmp_path):
    row = {"question": "Who?", "answer": "Ann.", "paraphrased_answer": "It was Ann.", "perturbed_answer": ["Bo.", "Cy."]}
    (asked,) = own(forget=write(tmp_path / "a.jsonl", row)).requests("forget")
    assert [answer[:2] for answer in asked.answers] == [("answer", 0), ("paraphrased", 0), ("perturbed", 0), ("perturbed", 1)]
    other = {"question": "When?", "answer": "At noon.", "perturbed_answer": ["At night."]}
    with pytest.raises(DataError, match="row 2: has 1 wrong answers, another row of the file has 2"):
        own(forget=write(tmp_path / "b.jsonl", row, other)).requests("forget")


def test_a_row_in_two_files_is_named_in_both(tmp_path):
    rows = [{"question": "Who?", "answer": "Ann."}, {"question": "When?", "answer": "At noon."}]
    forget, kept = (
        write(tmp_path / "forget.jsonl", *rows),
        write(tmp_path / "kept.jsonl", {"question": "Why?", "answer": "Rain."}, *rows),
    )
    with pytest.raises(
        DataError, match=r"kept.jsonl, row 2: is also .*forget.jsonl, row 1 \(2 rows are in both\); nothing can be"
    ):
        own(forget=forget, retain=kept).training("retain")
    with pytest.raises(DataError, match="what is to be forgotten was learned"):
        own(forget=forget, holdout=kept).requests("forget")


def test_a_method_that_keeps_rows_names_those_that_need_none(tmp_path):
    words = [f"benchmark.forget={FILES / 'forget.jsonl'}", "benchmark=own", f"model.path={target()}", "model=tiny"]
    with pytest.raises(SettingsError) as error:
        check_training(compose_settings("unlearn", *words, "method=graddiff"), "unlearn")
    said = str(error.value)
    assert said.startswith(
        "method=graddiff: needs rows to keep, and there are none; name rows to keep with benchmark.retain=FILE"
    )
    assert {"ga", "npo", "flat_kl"} <= {*said.rpartition("none: ")[2].split(", ")} and "graddiff" not in said[20:]
    check_training(compose_settings("unlearn", *words, "method=npo"), "unlearn")


def test_the_forget_file_is_needed_elsewhere():
    with pytest.raises(ValueError, match="^benchmark.forget=null: name the file that holds what must be forgotten"):
        Own("own", "hub")


@pytest.fixture(scope="module")
def forgotten() -> Path:
    """A run that forgot a file of two questions and was evaluated by what it says itself, in the folder that is returned."""
    folder = shared_folder() / "own_data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(FILES / "forget.jsonl", folder / "mine.jsonl")
    shutil.copy(FILES / "retain.csv", folder / "kept.csv")
    quick = ["benchmark.forget=mine.jsonl", "benchmark.retain=kept.csv", "benchmark.rows=4", "benchmark.forget_rows=4"]
    quick += ["benchmark.max_new_tokens=6", "benchmark.utility=none", f"cache={folder}/cache"]
    words = [
        "benchmark=own",
        "model=tiny",
        f"model.path={target()}",
        "method=ga",
        "lr=1e-2",
        "steps=2",
        "batch_size=4",
        "override_model=true",
    ]
    run(folder, "unlearn", *words, *quick, "out=forgotten", "checkpoint=none")
    finished = succeed(folder, "evaluate", "model.path=forgotten", "out=forgotten/eval", f"cache={folder}/cache", "resamples=100")
    (folder / "said").write_text(finished.out)
    return folder


def test_the_second_command_knows_files_and_model_before(forgotten):
    numbers = metrics(forgotten / "forgotten" / "eval")
    assert {"forget_prob", "forget_prob_before", "retain_recited", "extraction_strength_forget_before"} <= numbers.keys()
    assert numbers["forget_prob"]["value"] < numbers["forget_prob_before"]["value"] and numbers["forget_prob"]["n"] == 4
    assert not [name for name in numbers if name.startswith(("holdout_", "mia_", "forget_quality"))]


def test_an_option_of_the_run_s_benchmark_needs_no_benchmark_on_the_command_line(forgotten, monkeypatch):
    monkeypatch.chdir(forgotten)
    cfg = settings_of("evaluate", ["model.path=forgotten", "benchmark.forget_rows=2"])
    assert (cfg.benchmark.name, cfg.benchmark.forget_rows, cfg.benchmark.rows, cfg.benchmark.forget) == (
        "own",
        2,
        4,
        "mine.jsonl",
    )


def test_a_rescore_needs_neither_model(forgotten):
    before = metrics(forgotten / "forgotten" / "eval")
    words = ["rescore=true", "out=forgotten/eval", "model.path=forgotten", "benchmark=own", "benchmark.forget=mine.jsonl"]
    with_more = [*words, "benchmark.retain=kept.csv", "resamples=100"]
    run(forgotten, "evaluate", *with_more)
    assert metrics(forgotten / "forgotten" / "eval") == before


def test_a_model_before_that_is_gone_is_said_and_left_out(tmp_path, monkeypatch, caplog):
    """A run folder, also by a relative name, which could be one of the Hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forgotten").mkdir()
    settings = {"model": {"path": "runs/taught"}}
    capsule = {"script": "unlearn", "status": "finished", "settings": settings, "sources": {"model.path": "0123"}}
    (tmp_path / "forgotten" / "run.json").write_text(json.dumps(capsule))
    cfg = OmegaConf.create({"before": "auto", "model": {"path": "forgotten"}})
    assert model_before(cfg, own()) is None and "runs/taught" in caplog.text
    (tmp_path / "runs" / "taught").mkdir(parents=True)
    assert model_before(cfg, own()) == "runs/taught"
    assert model_before(OmegaConf.create({**cfg, "before": "none"}), own()) is None
