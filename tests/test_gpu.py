"""What only CUDA can show. One command, on a machine that has it: bash scripts/test.sh -m gpu"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from tests.models import moved_copy, tiny_model, toy_streams
from tests.naive import naive_tables
from tests.runs import QUICK_EVALUATION, assert_same_curve, assert_same_weights, launch, losses, metrics, target, weights
from utils.engine.engine import Engine
from utils.engine.reference import make_reference
from utils.files import read_json

pytestmark = pytest.mark.gpu

NEEDS = {"forget": ("logp", "reference_logp"), "retain": ("logp", "kl", "entropy")}
PAD = 0
STEPS = ("method=npo_kl", "split=forget05", "batch_size=4", "epochs=2", "warmup=1", "optimizer=sgd", "lr=0.05")


def unlearn(folder: Path, *overrides: object, processes: int = 1, **environment: str) -> Path:
    """A run in a process of its own, so that CUDA is set up as for a user."""
    folder.mkdir()
    arguments = ("model=tiny", f"model.path={target()}", *STEPS, "out=run", *overrides)
    finished = launch(folder, "unlearn.py", *arguments, processes=processes, fresh=True, **environment)
    assert finished.code == 0, finished.err
    return folder / "run"


def lacks(package: str) -> bool:
    return importlib.util.find_spec(package) is None


@pytest.mark.parametrize("kind", ["cached", "resident"])
def test_statistics_on_cuda_are_those_of_full_logits(kind, tmp_path):
    streams = toy_streams(NEEDS)
    original = tiny_model().cuda()
    reference = make_reference(kind, Engine(original, PAD), NEEDS, streams, tmp_path)
    model = moved_copy(original)
    engine = Engine(model, PAD, chunk_bytes=7 * 4 * model.config.vocab_size)
    packed = engine.pack(streams).to(engine.device)
    tables = engine.tables(packed, NEEDS, reference.values(packed))
    wanted = naive_tables(model, original, NEEDS, streams, PAD)
    for stream, names in NEEDS.items():
        for name in names:
            torch.testing.assert_close(tables[stream].sum(name).double(), wanted[stream].sum(name), rtol=1e-4, atol=1e-4)


def test_a_run_on_cuda_equals_one_on_the_cpu(tmp_path):
    gpu = unlearn(tmp_path / "gpu", "precision=float32")
    cpu = unlearn(tmp_path / "cpu", "precision=float32", CUDA_VISIBLE_DEVICES="")
    assert read_json(gpu / "run.json")["hardware"]["gpus"] and not read_json(cpu / "run.json")["hardware"]["gpus"]
    assert_same_curve(gpu, cpu, 1e-3)
    assert_same_weights(weights(gpu), weights(cpu), 1e-4)


@pytest.mark.parametrize("precision, dtype", [("bfloat16", torch.float32), ("bfloat16_pure", torch.bfloat16)])
def test_bfloat16_trains_and_saves_in_the_dtype_it_should(precision, dtype, tmp_path):
    exact = losses(unlearn(tmp_path / "exact", "precision=float32"))
    run = unlearn(tmp_path / "run", f"precision={precision}")
    for record, wanted in zip(losses(run), exact, strict=True):
        assert record["loss"] == pytest.approx(wanted["loss"], rel=0.05)
    assert {tensor.dtype for tensor in weights(run).values()} == {dtype}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU: nothing to shard over")
def test_sharding_in_bfloat16_starts_at_its_reference(tmp_path):
    sharded = unlearn(tmp_path / "sharded", "precision=bfloat16", "launcher=fsdp2", "reference=cached", processes=2)
    assert losses(sharded)[0]["retain_kl"] < 1e-3


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU: nothing to shard over")
@pytest.mark.parametrize("launcher", ["fsdp2", "zero2"])
def test_sharding_changes_no_curve(launcher, tmp_path):
    plain = unlearn(tmp_path / "plain", "precision=float32")
    if launcher == "zero2" and lacks("deepspeed"):
        pytest.skip("no deepspeed")
    processes = min(4, torch.cuda.device_count())  # 4 divides the batch
    sharded = unlearn(tmp_path / "sharded", "precision=float32", f"launcher={launcher}", processes=processes)
    assert_same_curve(plain, sharded, 1e-3)
    assert_same_weights(weights(plain), weights(sharded), 1e-4)


@pytest.mark.skipif(lacks("flash_attn"), reason="no flash-attn")
def test_flash_attention_gives_the_same_with_plain_rows(tmp_path):
    sdpa = unlearn(tmp_path / "sdpa", "precision=bfloat16_pure", "model.attn=sdpa")
    flash = unlearn(tmp_path / "flash", "precision=bfloat16_pure", "model.attn=flash_attention_2")
    for one, other in zip(losses(sdpa), losses(flash), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.05)


@pytest.mark.skipif(lacks("bitsandbytes"), reason="no bitsandbytes")
@pytest.mark.parametrize("recompute", ["false", "true"])
def test_qlora_trains_every_matrix(recompute, tmp_path):
    run = unlearn(tmp_path / "run", "adapter=qlora", "method=npo", f"gradient_checkpointing={recompute}")
    assert losses(run)[-1]["loss"] < losses(run)[0]["loss"] + 1e-3
    adapter = weights(run, "model/adapter_model.safetensors")
    assert all(tensor.any() for tensor in adapter.values()) and len(adapter) == 2 * 7  # B begins at zero; one layer


def test_an_evaluation_runs_on_cuda(tmp_path):
    finished = launch(
        tmp_path,
        "evaluate.py",
        "split=forget05",
        "model=tiny",
        f"model.path={target()}",
        *QUICK_EVALUATION,
        "oracle=none",
        "out=e",
        fresh=True,
    )
    assert finished.code == 0, finished.err
    assert "retain_prob" in metrics(tmp_path / "e") and read_json(tmp_path / "e" / "run.json")["peak_memory_bytes"] > 0
