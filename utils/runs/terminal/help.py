"""What `--help` and `--version` of the three scripts say, from the files of config/ and the documentation of the code alone.

python unlearn.py --help              the story of the script, and its dials by what they are about
python unlearn.py --help method       what there is to choose from
python unlearn.py --help method=npo   one choice: what it does, and its own dials
"""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
import tomllib
from collections.abc import Iterator, Sequence

from utils import ROOT
from utils.checks import did_you_mean_or_all
from utils.runs.terminal.dials import ConfigFile, Dial, files

FLAGS = ("-h", "--help")
TARGET = re.compile(r"_target_: ([\w.]+)\.\w+")
SECTIONS = {"finetune": "target", "unlearn": "unlearn", "evaluate": "evaluate"}  # of a recipe
EVERYWHERE = "model.path"  # the one dial of a choice that every run is told
NARROWEST, WIDEST, COLUMN = 60, 130, 34


def asked_for(script: str, arguments: Sequence[str]) -> str | None:
    """What a command line wants to know instead of a run; None if it wants a run. Raises ValueError for a name that is none."""
    if "--version" in arguments:
        return f"lethe {version()}"
    if not set(FLAGS) & set(arguments):
        return None
    words = [word for word in arguments if not word.startswith("-")]
    return "\n\n".join(_about(script, word) for word in words) if words else overview(script)


def version() -> str:
    """This project's."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def overview(script: str) -> str:
    """Everything that a script may be told."""
    file = ConfigFile(script)
    sections: dict[str, list[Dial]] = {}
    for dial in dials_of(script):
        sections.setdefault(dial.section, []).append(dial)
    lines = [*file.words, "", *(f"  {command}" for command in file.commands), ""]
    for section, dials in sections.items():
        lines += [section.capitalize()]
        for dial in dials:
            lines += _lines(dial, _choices(script, dial))
            lines += _lines(_named(dial).dials()[EVERYWHERE]) if EVERYWHERE.startswith(f"{dial.key}.") else []
        lines += [""]
    example = next(dial for dial in dials_of(script) if dial.group)
    lines += _wrapped(
        "Settings are written key=value, in any order; shown are the defaults, and <key> follows another setting. "
        f"`--help {example.key}` says what there is to choose from, `--help {example.key}={example.default}` what that can be "
        "told, `--cfg job` prints all settings of a run. -m before several values, as in seed=0,1, makes one run of each."
    )
    return "\n".join(lines)


def dials_of(script: str) -> list[Dial]:
    """Groups and dials of a script, those of its own file first."""
    found: dict[str, Dial] = {}
    for name in (script, *ConfigFile(script).parts):
        found = {**ConfigFile(name).dials(), **found}
    names = [script, *ConfigFile(script).parts]
    return [found[key] for key in dict.fromkeys(key for name in names for key in ConfigFile(name).dials())]


def offered(script: str, group: str) -> list[ConfigFile]:
    """The choices of a group that mean something to a script: a file's first launch line says whose it is.

    A method belongs to one script. Of other things, what can be unlearned with or from can be memorised and evaluated too. A
    recipe has a section for each script that it means.
    """
    if group == "recipe":
        return [file for file in files(group) if file.says_to(SECTIONS[script])]
    wider = () if group == "method" else ("unlearn",)
    return [file for file in files(group) if file.script in (script, *wider)]


def _about(script: str, word: str) -> str:
    """A group, or one choice of it."""
    group, _, name = word.partition("=")
    groups = [dial.key for dial in dials_of(script) if dial.group]
    if group not in groups:
        raise ValueError(f"--help {word}: there is no such group{did_you_mean_or_all(group, groups)}")
    choices = {_name(file): file for file in offered(script, group)}
    if not name:
        return "\n".join([f"{group}=", *(line for name, file in choices.items() for line in _pair(name, _title(file)))])
    if name not in choices:
        raise ValueError(f"--help {word}: {script}.py has no such {group}{did_you_mean_or_all(name, choices)}")
    return _choice(choices[name], word)


def _choice(file: ConfigFile, word: str) -> str:
    """What a choice does, and its dials."""
    title = next(iter(file.commands.values()), "")
    documented = list(dict.fromkeys(_documented(file)))
    paragraphs = [
        [word],
        [f"  {command}" for command in file.commands],
        [title] if title else [],
        file.words,
        documented[:1],
        [line for text in documented[1:] for line in _wrapped(f"With: {text.splitlines()[0]}")],
        [f"As {file.group}={_name(file.base)}, {_changes(file)}."] if file.base is not None else [],
        [line for dial in file.dials().values() for line in _lines(dial)] or ["  It has no settings of its own."],
    ]
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines)


def _changes(file: ConfigFile) -> str:
    """What a file says otherwise than its base."""
    return f"with {', '.join(f'{dial.key}={dial.shown}' for dial in file.own() if dial.shown)}"


def _documented(file: ConfigFile) -> Iterator[str]:
    """The documentation of the modules that a file plugs in, or the file that it builds on; read, not imported."""
    targets = TARGET.findall(file.text) or (TARGET.findall(file.base.text) if file.base else [])
    for module in sorted(targets, key=lambda name: not name.startswith("losses")):
        if text := ast.get_docstring(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))):
            yield text


def _title(file: ConfigFile) -> str:
    """A choice in one line."""
    beside = next(iter(file.commands.values()), "")
    if file.base is not None and not file.words:
        return f"as {_name(file.base)}, {_changes(file)}"
    return beside or next(iter([*file.words, *_documented(file)]), "").partition("\n")[0]


def _choices(script: str, dial: Dial) -> str:
    return f": {', '.join(map(_name, offered(script, dial.key)))}" if dial.group else ""


def _named(dial: Dial) -> ConfigFile:
    """The file that a group takes unless another is chosen."""
    return ConfigFile(f"{dial.key}/{dial.default}")


def _name(file: ConfigFile) -> str:
    return file.name.partition("/")[2]


def _lines(dial: Dial, more: str = "") -> list[str]:
    """A dial with its default, and what it means."""
    return _pair(f"{dial.key}={dial.shown}" if dial.shown else dial.key, dial.meaning + more)


def _pair(left: str, right: str) -> list[str]:
    start = f"  {left}"
    if not right:
        return [start]
    beside = len(start) < COLUMN
    text = textwrap.wrap(right, _width() - COLUMN, break_on_hyphens=False, break_long_words=False)
    indented = [" " * COLUMN + line for line in text]
    return [start.ljust(COLUMN) + text[0], *indented[1:]] if beside else [start, *indented]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _width(), break_on_hyphens=False, break_long_words=False)


def _width() -> int:
    return min(max(shutil.get_terminal_size((110, 24)).columns, NARROWEST), WIDEST)
