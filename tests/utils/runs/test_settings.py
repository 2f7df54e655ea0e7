"""Settings: bad input is refused before anything is loaded, in one sentence with key, value and remedy."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from omegaconf import OmegaConf

import utils.runs.load
from tests.runs import compose_settings, run, target
from utils.files import resolve, write_json
from utils.runs import settings
from utils.runs.capsule import NOT_PART_OF_THE_RESULT
from utils.runs.settings import SettingsError, check_evaluation, check_training, default_folder

TRAINED = "model.path=runs/target"

WRONG_VALUES = [
    ("lr=-1", "lr=-1: write a number above 0"),
    ("lr=fast", "lr=fast: write a number above 0"),
    ("lr=inf", "lr=inf: write a number above 0"),
    ("epochs=0", "epochs=0: write a number above 0"),
    ("epochs=inf", "epochs=inf: write a number above 0"),
    ("batch_size=0", "batch_size=0: write a whole number from 1 (the global batch)"),
    ("batch_size=1.5", "batch_size=1.5: write a whole number from 1 (the global batch)"),
    ("per_device_batch_size=many", "per_device_batch_size=many: write auto, or a whole number from 1"),
    ("seed=a", "seed=a: write a whole number from 0"),
    ("seed=true", "seed=True: write a whole number from 0"),
    ("warmup=epch", "warmup=epch: write epoch, a whole number of steps, or a share"),
    ("weight_decay=-1", "weight_decay=-1: write a number from 0"),
    ("max_grad_norm=null", "max_grad_norm=None: write a number from 0 (0: no clipping)"),
    ("gradient_checkpointing=maybe", "gradient_checkpointing=maybe: write true or false"),
    ("overwrite=1", "overwrite=1: write true or false"),
    ("checkpoint=never", "checkpoint=never: write minutes such as 10m, epoch, none, or a number of steps"),
    ("log_every=0", "log_every=0: write a whole number from 1 (steps)"),
    ("reference=cachd", "reference=cachd: write one of auto, adapter, cached, resident; did you mean cached?"),
    ("precision=bf16", "precision=bf16: write one of auto, float32, bfloat16, bfloat16_pure; did you mean bfloat16?"),
    (
        "compat=tofu",
        "compat=tofu: write one of none, tofu_original, open_unlearning, flat_released, muse_released, meow",
    ),
    ("scheduler=cosin", "scheduler=cosin: write one of linear, cosine, constant, constant_with_warmup; did you mean cosine?"),
    (
        "optimizer=adamw_troch",
        "optimizer=adamw_troch: write an optimizer of transformers, such as adamw_torch; did you mean adamw",
    ),
    ("report_to=wand", "report_to=wand: write one of none, tensorboard, wandb, trackio; did you mean wandb?"),
    ("model.dtype=float99", "model.dtype=float99: write one of float32, bfloat16; did you mean float32 or bfloat16?"),
    ("model.attn=flash", "model.attn=flash: write one of auto, sdpa, eager, flash_attention_2, flash_attention_3"),
    ("model.max_length=long", "model.max_length=long: write a whole number from 2 (tokens of prompt and answer)"),
    ("model.lora.r=0", "model.lora.r=0: write a whole number from 1"),
    ("model.template.kind=char", "model.template: template.kind=char: write one of plain, chat"),
    ("split=forget7", "split=forget7: write one of forget01, forget05, forget10"),
    ("split=retain90", "split=retain90: write one of forget01, forget05, forget10"),
    ("split=7", "split=7: write one of forget01"),
    ("benchmark.rows=no", "benchmark.rows=no: write all, or a whole number from 1"),
    ("benchmark.retain_rows=0", "benchmark.retain_rows=0: write null, or a whole number from 1"),
    ("benchmark.max_new_tokens=0", "benchmark.max_new_tokens=0: write a whole number"),
    ("benchmark.truth_ratio=mean", "benchmark.truth_ratio=mean: write one of geometric, arithmetic"),
    ("method.loss.divergence=tvv", "method.loss: divergence=tvv: write one of kl, tv,"),
    ("+method.loss.beta=1", "method.loss: Flat.__init__() got an unexpected keyword argument 'beta'"),
    ("method.templates.kind=refuse", "method.templates: kind=refuse: write one of refusal, normal; did you mean refusal?"),
    ("method.templates.policy=once", "method.templates: policy=once: write one of per_access, fixed"),
    ("refusals=nowhere.txt", "refusals=nowhere.txt: write the name of a text file that exists, one refusal per line"),
    ("per_device_batch_size=3", "per_device_batch_size=3: does not divide the 16 items"),
]


@pytest.mark.parametrize("override, message", WRONG_VALUES)
def test_wrong_values_are_refused_by_key_and_value(override, message):
    with pytest.raises(ValueError) as refusal:
        check_training(compose_settings("unlearn", "batch_size=16", TRAINED, override), "unlearn")
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


IMPOSSIBLE_PAIRS = [
    ("unlearn", [], "model.path=null: unlearning starts from a trained model; make one with: python finetune.py model=tiny"),
    ("unlearn", [TRAINED, "method=memorise"], "method=memorise: belongs to finetune.py, not to unlearn.py"),
    ("finetune", ["method=flat"], "method=flat: belongs to unlearn.py, not to finetune.py"),
    ("unlearn", [TRAINED, "reference=adapter"], "reference=adapter: there is no adapter to switch off; use reference=cached"),
    ("unlearn", [TRAINED, "launcher=fsdp2"], "launcher=fsdp2: shards a model over several processes; start with torchrun"),
    ("unlearn", [TRAINED, "reference=resident", "launcher=zero2"], "reference=resident: a second model is not sharded"),
    (
        "unlearn",
        [TRAINED, "method=ascent_plus_kl_divergence", "launcher=zero2"],
        "launcher=zero2: method.reference_dropout=true runs the reference at every step, and a second model is not sharded; use",
    ),
    ("finetune", ["adapter=lora"], "adapter=lora: model.path=null draws random weights"),
    (
        "unlearn",
        [TRAINED, "method=kl", "compat=flat_released", "model.attn=flash_attention_2"],
        "model.attn=flash_attention_2: computes nothing at padding, which the loss averages over; use model.attn=sdpa",
    ),
    ("unlearn", [TRAINED, "method=kl", "+method.loss.kl_spam=flat"], "method.loss: GradientAscent.__init__() got an unexpected"),
    ("unlearn", [TRAINED, "method=kl", "method.loss.kl_span=padded"], "method.loss: kl_span=padded: write one of paper, text,"),
    (
        "unlearn",
        [TRAINED, "method=kl", "method.loss.padded_length=0"],
        "method.loss: padded_length=0: write a whole number",
    ),
    ("unlearn", [TRAINED, "adapter=lora", "adapter.lora.dropout=1"], "adapter.lora.dropout=1: write a number from 0"),
]


@pytest.mark.parametrize("script, overrides, message", IMPOSSIBLE_PAIRS)
def test_impossible_pairs_are_refused_with_the_remedy(script, overrides, message):
    with pytest.raises(ValueError) as refusal:
        check_training(compose_settings(script, *overrides), script)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_sharding_over_gpus_that_are_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(settings, "world_size", lambda: 2)
    monkeypatch.setattr(settings, "device", lambda: torch.device("cpu"))
    with pytest.raises(ValueError, match="launcher=fsdp2: shards a model over GPUs, and there is none here; leave launcher out"):
        check_training(compose_settings("unlearn", TRAINED, "launcher=fsdp2"), "unlearn")


@pytest.mark.parametrize(
    ("overrides", "span"),
    [
        ([], "paper"),
        (["compat=open_unlearning"], "open_unlearning"),
        (["compat=tofu_original"], "tofu"),
        (["compat=flat_released"], "flat"),
        (["compat=meow_released"], "meow"),
        (["compat=flat_released", "method.loss.kl_span=paper"], "paper"),
    ],
)
@pytest.mark.parametrize("method", ["kl", "npo_kl", "dpo_kl", "llmu", "ga_forget_kl", "meow", "simnpo"])
def test_compat_says_where_a_kl_looks(method, overrides, span):
    """As a resolved key of the method: a run of before, which knew no such key, does not count as finished."""
    cfg = compose_settings("unlearn", TRAINED, f"method={method}", *overrides)
    settings = check_training(cfg, "unlearn")
    assert OmegaConf.to_container(cfg, resolve=True)["method"]["loss"]["kl_span"] == settings.method.loss.kl_span == span
    assert default_folder(cfg, "unlearn") == cfg.out


def test_a_benchmark_without_a_form_of_a_code_refuses_its_name():
    with pytest.raises(SettingsError, match="compat=meow_released: means nothing on benchmark=muse; write one of none"):
        check_training(compose_settings("unlearn", TRAINED, "benchmark=muse", "compat=meow_released"), "unlearn")


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="batch_size=33: cannot be divided between 2 processes; use 32 or 34"):
        check_training(compose_settings("unlearn", TRAINED, "batch_size=33"), "unlearn")


EVALUATIONS = [
    (["split=forget7"], "split=forget7: write one of forget01"),
    (["resamples=3"], "resamples=3: write a whole number from 100"),
    (["tokens_per_batch=0"], "tokens_per_batch=0: write a whole number from 1"),
    (["from_logs=x.json"], "from_logs=x.json: there is no such file"),
    ([f"from_logs={__file__}", "oracle=runs/x"], "oracle=runs/x: there is no such file; with from_logs both are logs"),
    (["model=llama2-7b", "model.path=null"], "model=llama2-7b: set model.path to what is to be evaluated"),
]


@pytest.mark.parametrize("overrides, message", EVALUATIONS)
def test_evaluations_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(ValueError) as refusal:
        check_evaluation(compose_settings("evaluate", *overrides))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_quantisation_is_asked_for_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="adapter=qlora needs the package bitsandbytes; install it with: pip install"):
        check_training(compose_settings("unlearn", f"model.path={target()}", "adapter=qlora"), "unlearn")


LATE = [
    ("unlearn", "data_root=nowhere", "nowhere/tofu is missing"),
    ("finetune", "split=retain7", "split=retain7: write one of"),
    ("finetune", "split=7", "split=7: write one of"),
    ("finetune", "split=full+forget7", "split=forget7: write one of"),
]


@pytest.mark.parametrize("script, override, message", LATE)
def test_bad_data_are_refused_before_the_tokenizer_is_loaded(monkeypatch, tmp_path, script, override, message):
    def load(*_):
        pytest.fail("the tokenizer was loaded first")

    monkeypatch.setattr(utils.runs.load, "load_tokenizer", load)
    with pytest.raises(ValueError) as refusal:
        run(tmp_path, script, f"model.path={target()}", override, "out=run")
    assert message in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.path=runs/nowhere", "model.path=runs/nowhere does not exist; give a run folder, a checkpoint folder or a Hub"),
        ("model.max_length=10", "no item is left: all 10 prompts fill max_length=10; raise it"),
    ],
)
def test_what_the_tokenizer_shows_is_refused_before_the_model_is_loaded(monkeypatch, tmp_path, override, message):
    def load(*_):
        pytest.fail("the model was loaded first")

    monkeypatch.setattr(utils.runs.load, "load_model", load)
    with pytest.raises(ValueError) as refusal:
        run(tmp_path, "unlearn", "split=forget05", f"model.path={target()}", override, "out=run")
    assert message in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_default_folders_differ_exactly_where_results_do():
    def folder(*overrides: str) -> str:
        return default_folder(compose_settings("unlearn", TRAINED, *overrides), "unlearn")

    plain = folder()
    assert plain.startswith("runs/unlearn/tofu_forget10_tiny_flat_lr0.0003_seed42-") and folder() == plain
    assert folder("lr=1e-5", "seed=0").startswith("runs/unlearn/tofu_forget10_tiny_flat_lr1e-5_seed0-")
    differing = [folder(f"seed={seed}", f"method={method}") for seed in (0, 1) for method in ("flat", "npo")]
    differing += [folder("lr=0.1"), folder("method.loss.divergence=kl"), folder("model.path=runs/other"), plain]
    assert len(set(differing)) == len(differing)
    same = {
        "out": "null",
        "resume": "false",
        "overwrite": "true",
        "cache": "elsewhere",
        "cache_gib": "3",
        "report_to": "wandb",
        "per_device_batch_size": "2",
        "log_every": "7",
        "checkpoint": "none",
        "checkpoints_kept": "1",
        "show_prompts": "3",
        "workers": "2",
    }
    assert {folder(f"{key}={value}") for key, value in same.items()} == {plain}
    assert set(NOT_PART_OF_THE_RESULT) == {*same, "tokens_per_batch", "rescore", "override_model", "trust_oracle", "recipe"}


@pytest.mark.parametrize(
    ("method", "counts"),
    [
        (["method=kto"], True),
        (["method=kto", "method.loss.reference_point=zero"], False),
        (["method=flat_released"], True),
        (["method=kl", "compat=open_unlearning"], True),
        (["method=kl", "compat=flat_released"], False),
        (["method=npo"], False),
    ],
)
def test_the_size_of_a_micro_batch_counts_where_the_loss_depends_on_it(method, counts):
    """auto is left to the machine: what it came to is compared when a run goes on."""
    folders = []
    for size in ("auto", 1, 2):
        cfg = compose_settings("unlearn", TRAINED, "batch_size=16", *method, f"per_device_batch_size={size}")
        settings = check_training(cfg, "unlearn")
        assert settings.counts == ({"per_device_batch_size"} if counts and size != "auto" else set())
        folders.append(cfg.out)
    assert len(set(folders)) == (3 if counts else 1)


def test_rescoring_finds_the_folder_of_the_evaluation():
    def folder(*overrides: str) -> str:
        return default_folder(compose_settings("evaluate", TRAINED, *overrides), "evaluate")

    assert folder() == folder("rescore=true") == folder("tokens_per_batch=100") != folder("split=forget05")


def test_the_folder_of_an_evaluation_says_what_made_its_model(tmp_path):
    trained = {"method": {"name": "npo"}, "lr": 2e-05, "seed": 3, "model": {"name": "tiny"}}
    write_json(tmp_path / "run.json", {"script": "unlearn", "status": "finished", "settings": trained})
    cfg = compose_settings("evaluate", f"model.path={tmp_path}")
    assert default_folder(cfg, "evaluate").startswith("runs/evaluate/tofu_forget10_tiny_npo_lr2e-5_seed3-")


def test_paths_are_the_users_or_the_projects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve("data/refusals.txt").is_absolute() and resolve("data/refusals.txt").is_file()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "refusals.txt").write_text("mine")
    assert resolve("data/refusals.txt").read_text() == "mine"
    assert str(resolve("nowhere.txt")) == "nowhere.txt"
