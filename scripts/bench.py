"""Compares this project with the way released code does the same: arithmetic, peak memory, wall-clock time.

    python scripts/bench.py step --method npo_kl --template chat --data-root DIR
    python scripts/bench.py step --method flat --template short --data-root DIR --repeats 5 --out bench.json
    python scripts/bench.py score --template chat --data-root DIR
    python scripts/bench.py memo --data-root DIR

step: one training step, forward and backward, on rows of TOFU forget10 in training order (retain90 beside them). The
released way pads every stream to its longest row, makes one forward pass per stream with all logits, and asks a second
copy of the model for the reference. score: 1 + 1 + 5 answers per question of forget10_perturbed; the released way has
one row per answer, in file order. memo: MEMO of forget10's answers, one prompt after another against batches: how often the
model is called. Both sides compute the same values, which is checked. DIR holds tofu/*.json; without
it the shipped fixture is read.

Arithmetic does not depend on the machine; `--repeats 0` leaves the clock out. What the cached reference costs once is
printed on a line of its own.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import _path
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.benchmarks.tofu import Tofu
from data.prepare.memo import Memo, memo_generate_steps
from scripts.dev.counting import MEBIBYTE, count_flops, median_seconds, peak_bytes, weight_bytes
from tests.losses.cases import method_loss
from tests.naive import NAIVE, tofu_scores
from utils import ROOT
from utils.engine.engine import Engine
from utils.engine.reference import make_reference, needs_reference
from utils.engine.token_cache import TokenCache
from utils.evaluation.scoring import score
from utils.items.streams import StepDataset, Streams, merged
from utils.reading import read_lines
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder, Template

SPLIT = "forget10"
TOLERANCE = 2e-4
MEMO_TOKENS = 50  # of a continuation; released 200: the more, the larger the gain of batches
TEMPLATES = {
    "short": Template("plain", "Question: ", "\n", "Answer: "),
    "chat": Template("chat"),  # with the system prompt that the tokenizer's template adds by itself
}
ANSWERS = ("answer", "paraphrased", "perturbed")


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same values. held: bytes that each keeps beside the model. once: what ours did beforehand."""

    naive: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    held: dict[str, int]
    once: dict[str, float] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> dict:
    """Runs one comparison, prints it, returns what it writes to --out. Raises ValueError if the two sides differ."""
    options = parse(arguments)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).to(device).eval()
    encoder = Encoder(AutoTokenizer.from_pretrained(options.model), TEMPLATES[options.template])
    benchmark = Tofu("tofu", "", "", options.data_root)
    with tempfile.TemporaryDirectory() as cache:
        if options.what == "memo":
            found = compare_memo(options, model, encoder, benchmark)
        elif options.what == "step":
            found = measure(compare_steps(options, model, encoder, benchmark, Path(cache)), options.repeats, device)
        else:
            found = measure(compare_scoring(options, model, encoder, benchmark), options.repeats, device)
    result = {**vars(options), **found}
    result["machine"] = {"device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    result["machine"]["processor"] = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    show(result)
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "score", "memo"))
    parser.add_argument("--model", default=str(ROOT / "models" / "smollm2-135m"), help="folder with model and tokenizer")
    parser.add_argument("--data-root", default="fixture", help="folder that holds tofu/*.json")
    parser.add_argument("--template", choices=tuple(TEMPLATES), default="chat")
    parser.add_argument("--method", choices=tuple(NAIVE), default="npo_kl", help="step: name in config/method")
    parser.add_argument("--batch", type=int, default=None, help="rows (step: 8) or questions (score: 12, memo: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side after one warm-up; 0: none")
    parser.add_argument("--out", default=None, help="JSON file to write")
    options = parser.parse_args(arguments)
    options.batch = options.batch or {"step": 8, "score": 12, "memo": 2}[options.what]
    if not (Path(options.model) / "config.json").is_file():
        parser.error(f"--model {options.model} holds no model; make one with: bash scripts/get_smollm2.sh")
    return options


def compare_steps(options, model: nn.Module, encoder: Encoder, benchmark: Tofu, cache: Path) -> Comparison:
    """One training step with full weights, a little after the start, so that model and reference differ."""
    loss = method_loss(options.method)
    streams = draw_streams(tuple(loss.needs), options.batch, encoder, benchmark)
    with_reference = needs_reference(loss.needs)
    engine = Engine(model, encoder.pad_id)
    resident = copy.deepcopy(model).requires_grad_(False) if with_reference else None
    cached, once = fill_cache(engine, loss.needs, streams, cache) if with_reference else (None, {})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-3 * parameter.std() * torch.randn_like(parameter)

    def naive() -> Tensor:
        model.zero_grad()
        value = NAIVE[options.method](model, resident, streams, encoder.pad_id)
        value.backward()
        return value.detach()

    def ours() -> Tensor:
        model.zero_grad()
        packed = engine.pack(streams).to(engine.device)
        tables = engine.tables(packed, loss.needs, cached.values(packed) if with_reference else None)
        value = loss(**tables).loss
        value.backward()
        return value.detach()

    held = {"naive": weight_bytes(resident), "ours": weight_bytes(cached.project) if with_reference else 0}
    return Comparison(naive, ours, held, once)


def draw_streams(names: tuple[str, ...], batch: int, encoder: Encoder, benchmark: Tofu) -> dict[str, list[Example]]:
    """The first step's rows, as training draws them."""
    retain = benchmark.training(benchmark.retain_split(SPLIT))
    templates = read_lines(ROOT / "data" / "refusals.txt")
    drawn = Streams(names, benchmark.training(SPLIT), encoder, seed=0, retain=retain, templates=templates)
    dataset = StepDataset(drawn, 1, batch)
    return merged([dataset[index] for index in range(batch)], names)


def fill_cache(engine: Engine, needs, streams: dict[str, list[Example]], folder: Path):
    """The cached reference of these rows, and what it cost: flops, seconds, bytes on disk."""
    found: list = []
    make = lambda where: found.append(make_reference("cached", engine, needs, streams, where))  # noqa: E731
    seconds = median_seconds({"once": lambda: make(Path(tempfile.mkdtemp(dir=folder)))}, 1, engine.device)["once"]
    flops = count_flops(lambda: make(folder / "cache"))
    stored = sum(file.stat().st_size for file in TokenCache(folder / "cache", engine, adapters=False).folder.iterdir())
    return found[-1], {"flops": flops, "seconds": seconds, "bytes": stored}


def compare_scoring(options, model: nn.Module, encoder: Encoder, benchmark: Tofu) -> Comparison:
    """Every answer's mean negative log-likelihood per token."""
    requests = [request for request in benchmark.requests(SPLIT) if request.task == "forget"]
    requests = requests[:: max(1, len(requests) // options.batch)][: options.batch]
    engine = Engine(model, encoder.pad_id)
    budget = OmegaConf.load(ROOT / "config" / "evaluate.yaml").tokens_per_batch
    groups = [
        [[encoder.example(r.question, text) for kind, _, text in r.answers if kind == role] for r in requests] for role in ANSWERS
    ]

    def naive() -> Tensor:
        found = tofu_scores(model, groups, encoder.pad_id)
        return torch.tensor([value for group in found for values in group for value in values])

    def ours() -> Tensor:
        table = score(engine, encoder, requests, budget)
        table["role"] = table["role"].map(ANSWERS.index)
        ordered = table.sort_values(["role", "index", "number"])
        return torch.tensor([-float(logp.mean()) for logp in ordered["logp"]])

    return Comparison(naive, ours, {"naive": 0, "ours": 0})


def compare_memo(options, model: nn.Module, encoder: Encoder, benchmark: Tofu) -> dict:
    """Forward passes of both ways to MEMO. Raises ValueError if the scores differ."""
    pairs = [(pair.question, pair.answer) for pair in benchmark.training(SPLIT)[: options.batch]]
    steps = memo_generate_steps(model, encoder.tokenizer, pairs, Memo(max_new_tokens=MEMO_TOKENS))
    if steps.difference > TOLERANCE:
        raise ValueError(f"the two sides differ by {steps.difference:.2e} (at most {TOLERANCE} is rounding)")
    passes = with_ratio({"naive": steps.one_by_one, "ours": steps.batched})
    return {"difference": steps.difference, "passes": passes, "max_new_tokens": MEMO_TOKENS}


def measure(comparison: Comparison, repeats: int, device: torch.device) -> dict:
    """Values, flops, bytes and seconds of both sides, and their ratios. Raises ValueError if the values differ."""
    sides = {"naive": comparison.naive, "ours": comparison.ours}
    values = {}

    def run(name: str) -> None:
        values[name] = sides[name]()

    flops = {name: count_flops(lambda name=name: run(name)) for name in sides}
    gap = ((values["naive"] - values["ours"]).abs() / values["naive"].abs().clamp(min=1)).max().item()
    if not gap <= TOLERANCE:
        raise ValueError(f"the two sides differ by {gap:.2e} (at most {TOLERANCE} is rounding): {values}")
    peak = {name: comparison.held[name] + peak_bytes(side, device) for name, side in sides.items()}
    result = {"difference": gap, "flops": with_ratio(flops), "bytes": with_ratio(peak)}
    if repeats:
        result["seconds"] = with_ratio(median_seconds(sides, repeats, device))
    if comparison.once:
        unshared = flops["naive"] / (flops["ours"] + comparison.once["flops"])
        result["reference_once"] = {**comparison.once, "flops_ratio_if_never_reused": unshared}
    return result


def with_ratio(sides: dict[str, float]) -> dict[str, float]:
    return {**sides, "ratio": sides["naive"] / sides["ours"]}


def show(result: dict) -> None:
    """Prints a result as a small table."""
    what = f"step, method {result['method']}" if result["what"] == "step" else result["what"]
    print(f"\n{what}, template {result['template']}, batch {result['batch']}, {Path(result['model']).name}")
    print(f"{'':<12}{'naive':>12}{'ours':>12}{'ratio':>8}")
    units = {"passes": ("model calls", 1), "flops": ("GFLOP", 1e9), "bytes": ("peak MiB", MEBIBYTE), "seconds": ("seconds", 1.0)}
    for key, (label, unit) in units.items():
        if key in result:
            row = result[key]
            print(f"{label:<12}{row['naive'] / unit:>12.2f}{row['ours'] / unit:>12.2f}{row['ratio']:>8.2f}")
    print(f"values differ by {result['difference']:.1e}")
    if "reference_once" in result:
        once = result["reference_once"]
        print(
            f"cached reference of these rows, once: {once['flops'] / 1e9:.2f} GFLOP, {once['seconds']:.2f} s, "
            f"{once['bytes'] / MEBIBYTE:.2f} MiB on disk; flops ratio if no row were ever read again: "
            f"{once['flops_ratio_if_never_reused']:.2f}"
        )


if __name__ == "__main__":
    main()
