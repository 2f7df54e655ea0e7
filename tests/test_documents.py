"""README.md and docs/*.md say what is so: commands, paths, dials, methods and figures are checked against the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig

from data.benchmarks.tofu import Tofu
from tests.losses.cases import method_config, method_loss
from tests.test_contributing import documented_files
from utils import ROOT
from utils.engine.packing import pack
from utils.engine.reference import needs_reference
from utils.runs import cli
from utils.tokens.example import Example


def read(*patterns: str) -> dict[str, str]:
    """Path, relative to the root -> text."""
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}


DOCUMENTS = read("README.md", "docs/*.md")
CONFIGS = read("config/**/*.yaml")
SCRIPTS = ("finetune", "unlearn", "evaluate")
PATH = r"(?:config|data|losses|metrics|utils|scripts|tests|docs)/[\w./*-]*|[\w-]+\.(?:py|toml)|requirements[\w-]*\.txt"
LOCAL = r"(?i)(?<![\w.~])/(?:\w+/)+\w|\.\./\w|localhost|\btodo\b"  # absolute paths, paths out of the project, what is unfinished
NEW = {name for text in DOCUMENTS.values() for name in documented_files(text)}  # written out on a page as an example
NEW_METHODS = {Path(name).stem for name in NEW if name.startswith("config/method/")}
METHODS = {path.stem for path in (ROOT / "config" / "method").glob("*.yaml")} - {"memorise"}

every_document = pytest.mark.parametrize("name", DOCUMENTS)


def tables(text: str) -> list[list[list[str]]]:
    """Every Markdown table as rows of cells, its header first; the line of dashes is left out."""
    blocks = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    rows = [[re.split(r"(?<!\\)\|", line.strip("|")) for line in block.splitlines()] for block in blocks]
    return [[[cell.strip() for cell in row] for row in [table[0], *table[2:]]] for table in rows]


def table_of(text: str, first: str) -> list[list[str]]:
    """Rows of the table whose header begins with `first`."""
    (found,) = [table[1:] for table in tables(text) if table[0][0].strip("`") == first]
    return found


def ticked(text: str) -> list[str]:
    """The code spans of a line or cell."""
    return re.findall(r"`([^`\n]+)`", text)


def spoken(text: str) -> str:
    """A document without fenced blocks and without the cells that quote other code bases."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for table in tables(text):
        if table[0][0] == "there":
            for row in table[1:]:
                text = text.replace(row[0], "", 1)
    return text


def commands(text: str) -> Iterator[str]:
    """Lines of fenced blocks and code spans that start python, torchrun or bash."""
    fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).splitlines()
    for line in [*fenced, *ticked(spoken(text))]:
        if re.match(r"(?:[A-Z_]+=\S+ )*(?:python|torchrun|bash) ", line):
            yield line


def config_commands(text: str) -> Iterator[str]:
    """Launch lines in comments and in the help of a YAML file; what stands behind a wide gap explains them."""
    for line in re.findall(r"^\s*(?:# *)?((?:python|torchrun) .*)$", text, re.MULTILINE):
        yield re.split(r"\s{3,}", line)[0]


def all_commands() -> dict[str, str]:
    """Command -> the first file that gives it."""
    found: dict[str, str] = {}
    for name, text in DOCUMENTS.items():
        found |= {line: name for line in commands(text) if line not in found}
    for name, text in CONFIGS.items():
        found |= {line: name for line in config_commands(text) if line not in found}
    return {line: name for line, name in found.items() if not any(f"method={new}" in line for new in NEW_METHODS)}


COMMANDS = all_commands()


@pytest.fixture(scope="module", autouse=True)
def composed_once() -> Iterator[None]:
    """Many commands choose the same groups: the same choices are composed once in this module."""
    plain, known = cli.compose_settings, {}

    def compose_once(config_name, overrides):
        key = (config_name, *overrides)
        if key not in known:
            known[key] = plain(config_name, overrides)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "compose_settings", compose_once)
        yield


@cache
def config(script: str, *overrides: str) -> DictConfig:
    return cli.compose_settings(script, overrides)


def flat(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in node:
        yield prefix + key
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from flat(child, f"{prefix}{key}.")


@cache
def dials() -> frozenset[str]:
    """Every key of every script under every method, and the groups."""
    found = {key for script in SCRIPTS for key in flat(config(script))}
    found |= {key for method in METHODS for key in flat(method_config(method), "method.")}
    benchmarks = [path.stem for path in (ROOT / "config" / "benchmark").glob("*.yaml")]
    found |= {key for benchmark in benchmarks for key in flat(config("evaluate", f"benchmark={benchmark}"))}
    found |= {
        key for path in (ROOT / "config" / "measure").glob("*.yaml") for key in flat(config("evaluate", f"measure=[{path.stem}]"))
    }
    return frozenset(found | {path.name for path in (ROOT / "config").iterdir() if path.is_dir()})


def parse(line: str) -> tuple[str, list[str]]:
    """(script or program, overrides) of a command, without the variables and the launcher's options in front."""
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    words = [word for word in words[1:] if not word.startswith("--nproc") and not word.startswith("--master")]
    return words[0], [word for word in words[1:] if not word.startswith("-")]


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line[:80])
def test_command_is_understood(line):
    program, overrides = parse(line)
    if program == "-m":
        assert line.startswith("python -m pytest ")
    elif program.removesuffix(".py") in SCRIPTS:
        assert cli.find_problem(program.removesuffix(".py"), overrides) is None, f"in {COMMANDS[line]}"
    else:
        assert program.startswith("scripts/") and (ROOT / program).is_file(), f"in {COMMANDS[line]}"


def test_the_stable_commands_are_in_the_readme():
    assert list(commands(DOCUMENTS["README.md"]))[:2] == ["bash scripts/quickstart.sh", "bash scripts/test.sh"]
    programs = {parse(line)[0] for line in commands(DOCUMENTS["README.md"])}
    assert programs >= {"finetune.py", "unlearn.py", "evaluate.py", "scripts/report.py", "scripts/reproduce/tofu_smollm2.sh"}


@every_document
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", DOCUMENTS[name]):
        assert target.startswith("https://") or ((ROOT / name).parent / target).exists(), target


@every_document
def test_paths_exist(name):
    paths = [span for span in ticked(spoken(DOCUMENTS[name])) if re.fullmatch(PATH, span)]
    assert paths, "this pattern finds nothing any more"
    for path in set(paths) - NEW:
        assert list(ROOT.glob(path.rstrip("/"))), f"{path} does not exist"


@every_document
def test_targets_exist(name):
    for module, member in re.findall(r"`(?:_target_: )?(losses\.\w+)\.(\w+)`", DOCUMENTS[name]):
        assert f"class {member}" in (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")


@every_document
def test_settings_in_the_text_exist(name):
    """A code span key=value names a dial; the value of a group names a file of that group."""
    for key, value in re.findall(r"`([a-z][a-z0-9_.]*)=([^`\s]*)`", spoken(DOCUMENTS[name])):
        assert key in dials(), f"{key}={value}"
        group = ROOT / "config" / key
        for choice in re.findall(r"[^\[\],]+", value) if group.is_dir() else ():
            assert (group / f"{choice}.yaml").is_file(), f"{key}={value}"


@every_document
def test_nothing_of_the_workshop_leaks(name):
    assert not re.findall(LOCAL, DOCUMENTS[name])


@every_document
def test_no_times_in_the_documents(name):
    assert not re.findall(r"\d+ ?(?:s|min|h|seconds|minutes|hours)\b", DOCUMENTS[name])


def test_readme_fits_on_a_tired_page():
    assert len(DOCUMENTS["README.md"].splitlines()) <= 200


def test_readme_lists_every_method():
    listed = [name for row in table_of(DOCUMENTS["README.md"], "method=") for name in ticked(row[0])]
    assert sorted(listed) == sorted(METHODS)


@pytest.mark.parametrize("row", table_of(DOCUMENTS["README.md"], "method="), ids=lambda row: row[0])
def test_method_row(row):
    for method in ticked(row[0]):
        needs = method_loss(method).needs
        assert (row[2], row[3]) == (yes("retain" in needs), yes(needs_reference(needs)))
        assert re.fullmatch(r"arXiv \d{4}\.\d{5}", row[4])
        assert row[4] in DOCUMENTS["docs/methods.md"]


@pytest.mark.parametrize("row", table_of(DOCUMENTS["docs/methods.md"], "method="), ids=lambda row: row[0])
def test_row_of_the_methods_page(row):
    for method in ticked(row[0]):
        needs: Mapping = method_loss(method).needs
        assert sorted(row[2].split(", ")) == sorted(needs)
        assert (row[3], row[4]) == (yes(needs_reference(needs)), yes("retain" in needs))


def test_methods_page_lists_every_method():
    listed = [name for row in table_of(DOCUMENTS["docs/methods.md"], "method=") for name in ticked(row[0])]
    assert sorted(listed) == sorted(METHODS | {"memorise"})


def test_members_of_a_benchmark():
    members = [name for row in table_of(DOCUMENTS["docs/contributing.md"], "member") for name in ticked(row[0])]
    fields = set(Tofu.__dataclass_fields__) | set(dir(Tofu))
    assert {re.sub(r"\(.*", "", member) for member in members} <= fields


def test_packing_figure():
    """The figure of docs/architecture.md, number by number, against what the code makes of the same three pairs."""
    figure = re.search(r"^asked .*?^```$", DOCUMENTS["docs/architecture.md"], re.MULTILINE | re.DOTALL)[0]
    rows = {words[0]: words[1:] for words in map(str.split, figure.splitlines()) if len(words) > 1}
    pairs = [[part.split() for part in pair.split("→")] for pair in re.split(r"\s{3,}", figure.splitlines()[0])[1:]]
    ids = {name: number for number, name in enumerate(dict.fromkeys([*rows["line"], *figure.split()]), start=1)}
    asked = [Example(*(tuple(ids[name] for name in part) for part in pair)) for pair in pairs]
    packed = pack({"asked": asked}, pad=0)
    assert len(asked) == 3 and packed.input_ids.tolist() == [[ids[name] for name in rows["line"]]]
    for name, values in {"position": packed.position_ids, "reach": packed.reach}.items():
        assert [[int(number) for number in rows[name]]] == values.tolist()
    assert [int(number) for number in rows["column"]] == list(range(len(rows["line"])))


def yes(answer: bool) -> str:
    return "yes" if answer else "no"
