r"""What a change of the code's structure must leave as it is: numbers and weights, recorded before and after.

    python scripts/dev/unchanged.py record before.json --root CHECKOUT         another working tree; default: this one
    python scripts/dev/unchanged.py record after.json
    python scripts/dev/unchanged.py compare before.json after.json --renamed forget_prob=forget_probability

`record` drives the command lines of a checkout on the shipped fixtures with the tiny model, in a fresh folder outside of it (kept
with --runs DIR; log.txt there holds what the programs said), and writes one JSON file. Entries are named after their folders:

packing      hashes of what packing makes of fixed examples
golden       metrics of the logs of TOFU's own code in $LETHE_SHARED/golden/tofu_logs; left out where LETHE_SHARED is not set
quickstart   weights, losses and evaluations of the eight models of scripts/quickstart.sh
methods      weights and losses after two steps of every file in config/method, on the benchmark that its launch line names
benchmarks   evaluations of the quick start's target on every other file in config/benchmark
measures     the same of every file in config/measure, and of some in config/probe, on TOFU

`compare` prints a line per entry and exits with 1 if one differs by more than the tolerance, is missing or is new. Hashes and
counts must be equal; other numbers may differ by a share of their size. Record both on one machine with the same libraries:
elsewhere arithmetic rounds otherwise, and every hash of weights is another.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyarrow.parquet import read_table

# Keys of evaluate.py under all names they ever had, the newest first: a checkout is given the first one that it knows.
KEYS = {"oracle": ("oracle", "reference_run"), "oracle_logs": ("oracle_logs", "retain_logs", "oracle")}
QUICKSTART = "flat,flat_kl,ga,graddiff,npo,po"
STEPS = ("steps=2", "batch_size=4", "warmup=0", "checkpoint=none")
# What methods need beyond that: published thresholds of a region belong to 7B models; MEMO at every fifth token takes long.
EXTRA = {
    "memflex": ("method.region.copies=1", "method.region.mu_quantile=0.5", "method.region.sigma_quantile=0.5"),
    "meow": ("method.prepare.memo.stride=10", "+method.prepare.memo.max_new_tokens=20"),
}
PROBES = "paraphrase"
COMPATS = "none,tofu_original,open_unlearning"
ENVIRONMENT = {  # as in scripts/setup.sh; one thread, since two share out sums as it happens and the last digits differ
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "67108864",
}
PACKING = """
import hashlib, json, torch
try:
    from utils.engine.packing import pack
    from utils.tokens.example import Example
except ImportError:
    from utils.packing import pack
    from data.prompts import Example

def ids(seed, length):
    return tuple(30 + (seed * 17 + place * place * 5 + place) % 90 for place in range(length))

def example(i):  # a system prompt that all share, three answers to each question, every fourth answer supervised in part
    answer = ids(i, 1 + i * 7 % 13)
    labels = tuple(-100 if place % 3 else label + 1 for place, label in enumerate(answer)) if i % 4 == 0 else None
    return Example(tuple(range(10, 22)) + ids(i // 3, 3 + i * i // 9 % 11), answer, labels)

examples, found = [example(i) for i in range(60)], {}
for shared in (True, False):
    packed = pack({"forget": examples[:25], "template": examples[5:30], "retain": examples[30:]}, 0, shared)
    tensors = {name: getattr(packed, name) for name in ("input_ids", "position_ids", "reach", "source", "labels")}
    tensors["attention_mask"] = packed.attention_mask(torch.float32)
    for name, tensor in tensors.items():
        content = f"{tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.contiguous().numpy().tobytes()
        found[f"packing/{'shared' if shared else 'plain'}/{name}"] = hashlib.sha256(content).hexdigest()
print(json.dumps(found))
"""


@dataclass
class Checkout:
    """The working tree `root`, whose programs are run in the folder `runs`; `failed` counts what did not end well."""

    root: Path
    runs: Path
    failed: int = 0
    entries: dict[str, Any] = field(default_factory=dict)

    def python(self, *words: str, cwd: Path | None = None) -> str:
        """Standard output of `python words`. A failure is shown and counted; what it should have made will be missing."""
        command, env = [sys.executable, *words], {**os.environ, **ENVIRONMENT}
        done = subprocess.run(command, cwd=cwd or self.runs, env=env, capture_output=True, text=True)
        with open(self.runs / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
        if done.returncode:
            self.fail(f"{' '.join(command).splitlines()[0]}\n  {(done.stderr.splitlines() or ['without a word'])[-1]}")
        return done.stdout

    def fail(self, what: str) -> None:
        self.failed += 1
        print(f"  FAILED: {what}", flush=True)

    def __call__(self, program: str, *overrides: str) -> None:
        """Runs finetune, unlearn or evaluate with the tiny model; values with commas are swept."""
        self.python(str(self.root / f"{program}.py"), "-m", "model=tiny", *overrides)

    def key(self, name: str) -> str:
        """What this checkout calls a key of evaluate.py."""
        text = (self.root / "config" / "evaluate.yaml").read_text(encoding="utf-8")
        for known in KEYS[name]:
            if re.search(rf"^{known}:", text, re.MULTILINE):
                return known
        sys.exit(f"config/evaluate.yaml knows none of {', '.join(KEYS[name])}: add the new name to KEYS")

    def files(self, group: str) -> list[str]:
        return sorted(path.stem for path in (self.root / "config" / group).glob("*.yaml"))

    @cached_property
    def target(self) -> str:
        """The quick start's target, made when it is first asked for; so is its retain oracle."""
        self("finetune", "benchmark=tofu", "split=full,retain90", "out=quickstart/${split}")
        return "quickstart/full"

    @property
    def oracle(self) -> str:
        return f"{self.key('oracle')}=quickstart/retain90"


def packing(lethe: Checkout) -> None:
    printed = lethe.python("-c", PACKING, cwd=lethe.root)
    lethe.entries |= json.loads(printed) if printed else {}


def golden(lethe: Checkout) -> None:
    if "LETHE_SHARED" not in os.environ:
        return
    shutil.copytree(Path(os.environ["LETHE_SHARED"]) / "golden" / "tofu_logs", lethe.runs / "golden" / "logs")
    logs = sorted(f"golden/logs/{path.name}" for path in (lethe.runs / "golden" / "logs").iterdir())
    oracle = f"{lethe.key('oracle_logs')}={next(log for log in logs if 'retain90' in log)}"
    lethe("evaluate", f"from_logs={','.join(logs)}", f"compat={COMPATS}", oracle, "out=${from_logs}.${compat}")


def quickstart(lethe: Checkout) -> None:
    words = ("benchmark=tofu", "split=forget10")
    lethe("unlearn", *words, f"model.path={lethe.target}", f"method={QUICKSTART}", "out=quickstart/${method.name}")
    models = ",".join(f"quickstart/{name}" for name in ("full", "retain90", *QUICKSTART.split(",")))
    lethe("evaluate", *words, f"model.path={models}", lethe.oracle, "out=${model.path}/eval")


def methods(lethe: Checkout) -> None:
    groups: dict[tuple[str, ...], list[str]] = {}  # what can be swept together
    for name in lethe.files("method"):
        text = (lethe.root / "config" / "method" / f"{name}.yaml").read_text(encoding="utf-8")
        launch = re.search(rf"python (\w+)\.py method={name} (benchmark=\w+)", text)
        if launch is None:
            lethe.fail(f"config/method/{name}.yaml has no launch line")
        else:
            groups.setdefault((*launch.groups(), *EXTRA.get(name, ())), []).append(name)
    for (program, *words), names in groups.items():
        words += [f"method={','.join(names)}", f"model.path={lethe.target}", *STEPS]
        lethe(program, *words, "out=methods/${method.name}")


def benchmarks(lethe: Checkout) -> None:
    names = ",".join(name for name in lethe.files("benchmark") if name != "tofu")
    lethe("evaluate", f"benchmark={names}", f"model.path={lethe.target}", lethe.oracle, "out=benchmarks/${benchmark.name}")


def measures(lethe: Checkout) -> None:
    words = ("benchmark=tofu", "split=forget10", f"model.path={lethe.target}", lethe.oracle)
    lethe("evaluate", *words, f"measure=[{','.join(lethe.files('measure'))}]", "out=measures/all")
    lethe("evaluate", *words, f"probe={PROBES}", "out=measures/${probe.name}")


STAGES = {stage.__name__: stage for stage in (packing, golden, quickstart, methods, benchmarks, measures)}


def results(runs: Path) -> dict[str, Any]:
    """What the run folders below `runs` hold, by name: hashes of weights and answers, losses, metrics, mean token scores."""
    found: dict[str, Any] = {}
    for path in sorted(runs.glob("*/**/model/*.safetensors")):
        found.setdefault(f"{path.parent.parent.relative_to(runs)}/weights", {})[path.name] = sha256(path.read_bytes()).hexdigest()
    for path in sorted(runs.glob("*/**/log.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        steps = [{key: line[key] for key in ("step", "loss", "grad_norm")} for line in lines if "loss" in line]
        if steps:
            found[f"{path.parent.relative_to(runs)}/steps"] = [steps[0], steps[-1]]
    for path in sorted(runs.glob("*/**/metrics.json")):
        for name, metric in json.loads(path.read_text(encoding="utf-8")).items():  # definitions may be reworded
            found[f"{path.parent.relative_to(runs)}/{name}"] = {key: metric[key] for key in ("value", "n", "ci95")}
    for path in sorted(runs.glob("*/**/scores.parquet")):
        if values := [value for row in read_table(path)["logp"].to_pylist() for value in row]:
            found[f"{path.parent.relative_to(runs)}/logp"] = {"mean": math.fsum(values) / len(values), "n": len(values)}
    for path in sorted(runs.glob("*/**/generations.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        told = json.dumps([[row.get("question"), row.get("generation"), row.get("truth", row.get("reference"))] for row in rows])
        found[f"{path.parent.relative_to(runs)}/answers"] = {"sha256": sha256(told.encode()).hexdigest(), "n": len(rows)}
    return found


def record(file: Path, root: Path, stages: Iterable[str], runs: Path) -> int:
    """Runs the stages in the empty folder `runs` and writes `file`; 1 if a command failed."""
    if any(runs.iterdir()):
        sys.exit(f"--runs {runs}: is not empty, and what is finished would not be run again; name a new folder")
    about = {"python": platform.python_version(), "cpus": os.cpu_count()}
    about |= {name: version(name) for name in ("torch", "transformers", "numpy")}
    lethe, seconds = Checkout(root.resolve(), runs.resolve()), {}
    for name in stages:
        begun, before = time.monotonic(), len(lethe.entries)
        STAGES[name](lethe)
        lethe.entries |= results(lethe.runs)
        seconds[name] = round(time.monotonic() - begun, 1)
        print(f"{name}: {len(lethe.entries) - before} entries, {seconds[name]} s", flush=True)
    content = {"about": about, "seconds": seconds, "entries": lethe.entries}
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{file}: {len(lethe.entries)} entries, {lethe.failed} failed commands")
    return min(lethe.failed, 1)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(path, scalar) of everything in an entry."""
    if not isinstance(value, dict | list):
        yield name, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(inner, f"{name}.{key}" if name else str(key))


def distance(old: Any, new: Any) -> float:
    """How far two scalars are apart, as a share of the larger: 0 if they are the same, infinity if they should be and are not."""
    if repr(old) == repr(new):
        return 0.0
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in (old, new))
    counts = all(isinstance(value, int) for value in (old, new))
    return abs(old - new) / max(abs(old), abs(new)) if numbers and not counts else math.inf


def compare(before: Path, after: Path, stages: Iterable[str], tolerance: float, renamed: Sequence[str]) -> int:
    """Prints what became of every entry of the stages; 1 if one differs by more than the tolerance, is missing or is new."""
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    for name in (name for name in old["about"] if old["about"][name] != new["about"][name]):
        print(f"recorded with another {name}: {old['about'][name]}, then {new['about'][name]}")
    for here, there in (pair.split("=", 1) for pair in renamed):
        old["entries"] = {key.replace(here, there): value for key, value in old["entries"].items()}
    counts = dict.fromkeys(("equal", "within tolerance", "different", "missing", "new"), 0)
    for key in sorted(key for key in old["entries"] | new["entries"] if key.split("/")[0] in stages):
        left, right = (dict(leaves(found["entries"].get(key, {}))) for found in (old, new))
        far = {name: distance(left.get(name), right.get(name)) for name in left | right}
        worst = max(far.values())
        same = "equal" if not worst else "within tolerance" if worst <= tolerance else "different"
        state = same if left and right else "missing" if left else "new"
        counts[state] += 1
        print(f"{state:<18}{key}")
        for name in (name for name in far if far[name] and left and right):
            print(f"{'':<20}{name}: {left.get(name)} -> {right.get(name)}, relative difference {far[name]:.1e}")
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    return int(counts["different"] + counts["missing"] + counts["new"] > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record", help="run a checkout and write what it computes")
    one.add_argument("file", type=Path, help="JSON file to write")
    one.add_argument("--root", type=Path, metavar="DIR", help="checkout to run (default: the one this script lies in)")
    one.add_argument("--runs", type=Path, metavar="DIR", help="new folder for the runs, which is kept")
    two = commands.add_parser("compare", help="compare two such files")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    two.add_argument("--tolerance", type=float, default=1e-6, metavar="X", help="relative (default: 1e-6)")
    two.add_argument("--renamed", nargs="+", default=(), metavar="OLD=NEW", help="parts of names in BEFORE that are now NEW")
    for command in (one, two):
        command.add_argument("--only", nargs="+", choices=STAGES, default=STAGES, help="these stages alone", metavar="STAGE")
    options = parser.parse_args(arguments)
    if options.command == "compare":
        return compare(options.before, options.after, options.only, options.tolerance, options.renamed)
    root = options.root or Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="unchanged-") as folder:
        runs = options.runs or Path(folder)
        runs.mkdir(parents=True, exist_ok=True)
        return record(options.file, root, options.only, runs)


if __name__ == "__main__":
    sys.exit(main())
