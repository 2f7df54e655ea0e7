"""Breaks the source in small ways, one at a time, and asks the tests whether they notice.

    python -m scripts.dev.mutants --count 200 --seed 0

A mutant is one changed place: a comparison turned round or its boundary moved, a sign, an operator, a constant, a condition
negated or taken for granted, a statement or a returned value dropped. Docstrings, types, messages and logs are left alone. The
draw depends on the seed and on each mutant itself: a larger --count keeps those of a smaller one, and so does an edit elsewhere.

All happens in a copy of the tree. A mutant meets test files one after the other until one fails: its own, those that name its
module, others of the same folder. Each runs in a fork of a process that has loaded the libraries. Results are kept in
--folder: the same command goes on where it was stopped, and --survivors tries those again that nobody noticed. In the end the
tests that noticed something run on the sources as they are: what fails there too has noticed nothing.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("losses", "metrics", "data", "utils")
LEFT_OUT = ("utils/report/",)  # unless asked for by --only: most of its numbers are the measures of a drawing
# Loaded once, before any fork; nothing of the project, which every fork loads from the copy.
LIBRARIES = """pytest torch.distributed transformers.trainer transformers.models.llama.modeling_llama peft accelerate hydra
    omegaconf pandas pyarrow.parquet scipy.stats scipy.special safetensors.torch""".split()
# Which test files may be asked: 0 the own one, 1 of its folder and naming the module, 2 naming it, 3 of its folder, 4 others.
REACH = {"file": (0,), "folder": (0, 1, 3), "near": (0, 1, 2, 3), "all": (0, 1, 2, 3, 4)}
# How a sign is found between its two sides, and what is written instead.
SIGNS = {
    ast.Lt: ("<", "<=", ">="), ast.LtE: ("<=", "<", ">"), ast.Gt: (">", ">=", "<="), ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.In: (r"\bin\b", "not in"), ast.NotIn: (r"\bnot\s+in\b", "in"),
    ast.Is: (r"\bis\b", "is not"), ast.IsNot: (r"\bis\s+not\b", "is"), ast.And: (r"\band\b", "or"), ast.Or: (r"\bor\b", "and"),
    ast.Add: (r"\+", "-"), ast.Sub: ("-", "+"), ast.Mult: (r"\*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"), ast.Pow: (r"\*\*", "*"), ast.BitOr: (r"\|", "&"), ast.BitAnd: ("&", "|"),
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
SPOKEN = re.compile(r"(log|logger|logging|warnings)\.|print\b|warn_once\b")


class Mutant(NamedTuple):
    """`file` with the bytes from `start` to `end` replaced by `new`, in `function` (`<module>`: in none)."""

    file: str
    function: str
    line: int
    start: int
    end: int
    new: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]

    def name(self, source: bytes) -> str:
        """What tells it apart, whatever is edited elsewhere: file, function, the first changed line before and after."""
        first, last = source.rfind(b"\n", 0, self.start) + 1, source.find(b"\n", self.start)
        before = source[first:last].decode().strip()
        after = f"{source[first : self.start].decode()}{self.new}{source[self.end : max(self.end, last)].decode()}".strip()
        return f"{self.file} {self.function}: {before}  ->  {after}"

    def speaks(self, source: bytes) -> bool:
        """Whether it compiles and says something else; an operator that was looked for may stand in a comment."""
        try:
            return ast.dump(ast.parse(self.apply(source))) != ast.dump(ast.parse(source))
        except SyntaxError:
            return False


def mutants(file: str, source: bytes) -> Iterator[Mutant]:
    """All of a file, a few of which may not compile."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    for function, start, end, new in _Places(source, lines).of(ast.parse(source)):
        yield Mutant(file, function, source.count(b"\n", 0, start) + 1, start, end, new)


class _Places:
    def __init__(self, source: bytes, lines: Sequence[int]):
        self.source, self.lines = source, lines

    def of(self, node: ast.AST, function: str = "<module>") -> Iterator[tuple[str, int, int, str]]:
        """Function, first and last byte, and what to write there."""
        for start, end, new in self._here(node):
            yield function, start, end, new
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            function = node.name if function == "<module>" else f"{function}.{node.name}"
        for child in _children(node):
            yield from self.of(child, function)

    def _span(self, node: Any) -> tuple[int, int]:
        return self.lines[node.lineno - 1] + node.col_offset, self.lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self.source[start:end].decode()

    def _here(self, node: Any) -> Iterator[tuple[int, int, str]]:
        for left, sign, right in _signs(node):
            first, last = self._span(left)[1], self._span(right)[0]
            old, *others = SIGNS.get(type(sign), ("$^",))
            if match := re.search(old.encode(), self.source[first:last]):
                yield from ((first + match.start(), first + match.end(), new) for new in others)
        for new, place in self._instead(node):
            yield *self._span(place), new

    def _instead(self, node: Any) -> Iterator[tuple[str, ast.AST]]:
        """What may be written in the place of a node, or of a part of it."""
        match node:
            case ast.If() | ast.IfExp():
                yield from ((new, node.test) for new in self._other_conditions(node.test))
            case ast.comprehension():
                yield from ((new, test) for test in node.ifs for new in self._other_conditions(test))
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                yield self._text(node.operand), node
            case ast.Constant(value=bool()):
                yield str(not node.value), node
            case ast.Constant(value=int() | float()):
                yield from ((str(number), node) for number in (node.value + 1, node.value - 1))
            case ast.Call(func=ast.Name(id="min" | "max" | "any" | "all" as name)):
                yield NAMES[name], node.func
            case ast.Return() if node.value is not None and self._text(node.value) != "None":
                yield "return None", node
            case ast.Continue() | ast.Break() | ast.Raise() | ast.Expr(value=ast.Call()):
                yield "pass", node

    def _other_conditions(self, test: ast.AST) -> tuple[str, ...]:
        return f"not ({self._text(test)})", "True", "False"


def _signs(node: Any) -> Iterable[tuple[ast.AST, ast.AST, ast.AST]]:
    """Left side, sign, right side."""
    match node:
        case ast.Compare():
            return zip([node.left, *node.comparators], node.ops, node.comparators, strict=False)
        case ast.BoolOp():
            return [(left, node.op, right) for left, right in pairwise(node.values)]
        case ast.BinOp():
            return [(node.left, node.op, node.right)]
        case ast.AugAssign():
            return [(node.target, node.op, node.value)]
    return []


def _children(node: Any) -> Iterator[ast.AST]:
    """What a mutant may touch: no types, decorators, messages, or texts."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns", "decorator_list", "bases"):
            children = value if isinstance(value, list) else [value]
            yield from (child for child in children if isinstance(child, ast.AST) and not _left_alone(child))


def _left_alone(node: Any) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or SPOKEN.match(ast.unparse(node)) is not None
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
    if isinstance(node, ast.BinOp):
        sides = (node.left, node.right)
        return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in sides)
    return isinstance(node, ast.keyword) and node.arg == "strict"


def draw(root: Path, seed: int, count: int, only: str = "") -> dict[str, Mutant]:
    """Name -> mutant, in the order of trying: `count` of the files whose path begins with `only`, or as many as there are."""
    named: dict[str, tuple[Mutant, bytes]] = {}
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        file = str(path.relative_to(root))
        if not file.startswith(only or ROOMS) or not only and file.startswith(LEFT_OUT):
            continue
        source = path.read_bytes()
        for mutant in mutants(file, source):
            name, number = mutant.name(source), 2
            while name in named:
                name, number = f"{mutant.name(source)} #{number}", number + 1
            named[name] = mutant, source
    order = sorted(named, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    return dict(islice(((name, named[name][0]) for name in order if named[name][0].speaks(named[name][1])), count))


def choose_tests(root: Path, mutant: Mutant, reach: str, most: int) -> list[str]:
    """Test files in the order of asking (REACH); alike ones by how many parts of the function's name they hold."""
    folder = Path("tests", mutant.file).parent
    room, _, stem = mutant.file.removesuffix(".py").replace("/", ".").rpartition(".")
    named = re.compile(rf"\b{re.escape(room)}(\.| import .*\b){stem}\b")
    ranks = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        test, text = path.relative_to(root), path.read_text(encoding="utf-8")
        near, here = named.search(text) is not None, test.parent == folder
        rank = 0 if test == folder / f"test_{stem}.py" else 1 if near and here else 2 if near else 3 if here else 4
        if rank in REACH[reach]:
            ranks[str(test)] = rank, -sum(part in text for part in mutant.function.split("."))
    return sorted(ranks, key=ranks.__getitem__)[: None if reach == "all" else most]


def run_tests(root: Path, tests: Sequence[str], seconds: int) -> tuple[str, str]:
    """passed, failed or timed out, and the test that failed first. seconds: of the processor; five times as many by the clock."""
    log = root.with_name("log")
    process = os.fork()
    if process == 0:
        _child(root, tests, log, seconds)
    timer = threading.Timer(5 * seconds, os.kill, (process, signal.SIGXCPU))
    timer.start()
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    finally:
        timer.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # also what a test has left running
    if code == -signal.SIGXCPU:
        return "timed out", tests[0]
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", log.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return ("passed", "") if code in (0, 5) else ("failed", failed[1] if failed else tests[0])  # 5: all are left out, as slow


def _child(root: Path, tests: Sequence[str], log: Path, seconds: int) -> None:
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(root)
        for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
            del sys.modules[name]  # pytest finds those of the copy first, by pythonpath in pyproject.toml
        quietly = ["-q", "-x", "-p", "no:cacheprovider", f"--basetemp={root.with_name('tmp')}"]
        code = int(sys.modules["pytest"].main([*quietly, *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def try_mutant(root: Path, mutant: Mutant, tests: Sequence[str], seconds: int) -> tuple[str, str]:
    """noticed, timed out or survived, and by which test. The copy below `root` is as before afterwards."""
    path = root / mutant.file
    source, stamp = path.read_bytes(), path.stat().st_mtime
    outcome = by = ""
    try:
        path.write_bytes(mutant.apply(source))
        os.utime(path, (stamp, stamp + 1 + time.time() % 1e6))  # no compiled file fits it that was made of another mutant
        for test in tests:
            outcome, by = run_tests(root, [test], seconds)
            if outcome != "passed":
                break
    finally:
        path.write_bytes(source)
        os.utime(path, (stamp, stamp))
    return {"failed": "noticed", "timed out": "timed out"}.get(outcome, "survived"), by


def summary(results: dict[str, str]) -> str:
    """A line for each folder and for all of them, and the names of the survivors."""
    rooms = {name: str(Path(name.split()[0]).parent) for name in results}
    counts = {room: Counter(results[name] for name in results if rooms[name] == room) for room in sorted(set(rooms.values()))}
    counts["all"] = Counter(results.values())
    lines = [f"{'':24} noticed  timed out  survived"]
    lines += [f"{room:24} {c['noticed']:7}  {c['timed out']:9}  {c['survived']:8}" for room, c in counts.items()]
    return "\n".join([*lines, *(f"survived: {name}" for name, outcome in results.items() if outcome == "survived")])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, metavar="N", help="mutants (default: 200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: 0)")
    parser.add_argument("--only", default="", metavar="PATH", help="mutants of files that begin so: losses, utils/engine/pack")
    reach = "test files to ask: its own, those of its folder, also others that name the module (near, default), or all"
    parser.add_argument("--reach", choices=REACH, default="near", help=reach)
    parser.add_argument("--files", type=int, default=8, metavar="N", help="most test files for a mutant (default: 8)")
    parser.add_argument("--seconds", type=int, default=120, metavar="S", help="of the processor for a test file (default: 120)")
    parser.add_argument("--survivors", action="store_true", help="try again those that were not noticed")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "mutants", metavar="DIR", help="where results are kept")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of times the same modules
    sys.dont_write_bytecode = False
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)  # threads do not survive a fork
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
    place = Path(tempfile.mkdtemp(prefix="lethe-mutants-")).resolve()
    try:
        results = try_all(copy_tree(place / "tree"), options)
    finally:
        shutil.rmtree(place)
    print(summary(results))
    return sum(outcome == "survived" for outcome in results.values())


def copy_tree(root: Path) -> Path:
    def left_out(folder: str, names: Sequence[str]) -> set[str]:
        outputs = {"runs", "outputs", "multirun", "models", "checkpoints"} if Path(folder) == ROOT else set()
        return {name for name in names if name in outputs or name.startswith(".") or name == "__pycache__"}

    shutil.copytree(ROOT, root, ignore=left_out)
    return root


def try_all(root: Path, options: argparse.Namespace) -> dict[str, str]:
    """Outcome of each drawn mutant by name; those of an earlier run are kept."""
    kept = options.folder / "results.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    known = {result["mutant"]: result for result in map(json.loads, lines)}
    drawn = draw(root, options.seed, options.count, options.only)
    for number, (name, mutant) in enumerate(drawn.items(), 1):
        if name not in known or options.survivors and known[name]["outcome"] == "survived":
            tests, start = choose_tests(root, mutant, options.reach, options.files), time.monotonic()
            outcome, by = try_mutant(root, mutant, tests, options.seconds)
            took = round(time.monotonic() - start, 1)
            known[name] = {"mutant": name, "line": mutant.line, "outcome": outcome, "by": by, "tests": tests, "seconds": took}
            with open(kept, "a", encoding="utf-8") as file:
                file.write(json.dumps(known[name], ensure_ascii=False) + "\n")
            print(f"{number}/{len(drawn)} {outcome} in {took} s: {mutant.line} {name} | {by or len(tests)}", flush=True)
    functions = {name: known[name]["by"].partition("[")[0] for name in drawn}
    failing = failing_tests(root, set(functions.values()) - {""}, options.seconds)
    for test in failing:
        print(f"{test} fails without any mutant", flush=True)
    return {name: "survived" if functions[name] in failing else known[name]["outcome"] for name in drawn}


def failing_tests(root: Path, tests: set[str], seconds: int) -> list[str]:
    """Those that fail on the sources as they are."""
    if not tests or run_tests(root, sorted(tests), seconds * len(tests))[0] == "passed":
        return []
    return [test for test in sorted(tests) if run_tests(root, [test], seconds)[0] != "passed"]


if __name__ == "__main__":
    sys.exit(main())
