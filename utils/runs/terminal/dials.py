"""Dials as the files of config/ write them: key, default, and the comment beside it, which says meaning, values and source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import yaml

from utils import ROOT

CONFIG = ROOT / "config"
SECTION = re.compile(r"\s*# --- (.+) ---")  # a line that stands above dials, of a group's choices too
LAUNCH = re.compile(r"#\s+((?:python|torchrun) .*?(\w+)\.py .*?)(?:\s{3,}(\S.*))?")
COMMENT = re.compile(r"\s*(?:#\s*(.*))?")
STRUCTURE = ("_target_", "_convert_", "name", "defaults")  # what makes a node what it is; nobody turns it
ALIKE = {"model": "tiny"}  # group whose files all have the same keys -> the file that says what they mean
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Dial:
    """A key as one writes it on a command line, or a node of several with no default. meaning: the comment beside it.

    section: what stands over it. group: whether it chooses a file. node: the comment of the node that it lies in.
    """

    key: str
    default: str
    meaning: str = ""
    section: str = ""
    group: bool = False
    node: str = ""

    @property
    def follows(self) -> str | None:
        """The dial whose value it takes unless it is set."""
        found = re.fullmatch(r"\$\{([\w.]+)\}", self.default)
        return found[1] if found else None

    @property
    def value(self) -> Any:
        """The default as it is read: 0.1 as a number."""
        return yaml.load(self.default, Loader)

    @property
    def shown(self) -> str:
        """The default, and in angle brackets what it follows."""
        return f"<{self.follows}>" if self.follows else self.default.replace("${code:}", "<compat>")


@dataclass(frozen=True)
class ConfigFile:
    """A file of config/: `name` is `unlearn` or `<group>/<choice>`."""

    name: str

    @cached_property
    def text(self) -> str:
        return (CONFIG / f"{self.name}.yaml").read_text(encoding="utf-8")

    @property
    def group(self) -> str:
        return self.name.partition("/")[0] if "/" in self.name else ""

    @cached_property
    def header(self) -> list[str]:
        """The comment that the file begins with, line by line, without what is Hydra's."""
        lines: list[str] = []
        for line in self.text.splitlines():
            if not line.startswith("#") or SECTION.fullmatch(line):
                break
            lines += [] if line.startswith("# @package") else [line]
        return lines

    @property
    def commands(self) -> dict[str, str]:
        """Launch lines of the header -> what stands behind a wide gap beside them."""
        found = filter(None, map(LAUNCH.fullmatch, self.header))
        return {match[1]: match[3] or "" for match in found}

    @property
    def script(self) -> str:
        """The script of the first launch line."""
        return next((match[2] for match in map(LAUNCH.fullmatch, self.header) if match), "")

    @property
    def words(self) -> list[str]:
        """What the header says besides launch lines, line by line."""
        return [line.lstrip("# ") for line in self.header if not LAUNCH.fullmatch(line)]

    @cached_property
    def parts(self) -> list[str]:
        """The files without a group that this one takes in."""
        listed = yaml.load(self.text, Loader)["defaults"]
        return [entry for entry in listed if isinstance(entry, str) and entry != "_self_"]

    @property
    def base(self) -> ConfigFile | None:
        """The choice of the same group that this one changes, if there is one."""
        listed = re.search(r"^defaults: \[([\w.-]+), _self_\]", self.text, re.MULTILINE)
        return ConfigFile(f"{self.group}/{listed[1]}") if listed else None

    def says_to(self, section: str) -> bool:
        """Whether a recipe, or one that it builds on, has a section of this name."""
        listed = re.search(r"^base: ([\w./-]+)", self.text, re.MULTILINE)
        here = re.search(f"^{section}:", self.text, re.MULTILINE) is not None
        return here or listed is not None and ConfigFile(f"{self.group}/{listed[1]}").says_to(section)

    def dials(self) -> dict[str, Dial]:
        """Key, from the root of the configuration -> dial, in the order of the file; what it does not say its base says."""
        own = {dial.key: dial for dial in self.own()}
        if self.base is not None:
            below = self.base.dials()
            return {**own, **{key: _over(dial, own.get(key)) for key, dial in below.items()}}
        meant = ALIKE.get(self.group)
        if meant is None or self.name == f"{self.group}/{meant}":
            return own
        return {key: _explained(dial, ConfigFile(f"{self.group}/{meant}").dials().get(key)) for key, dial in own.items()}

    def own(self) -> Iterator[Dial]:
        """The dials that the file itself sets."""
        lines, root = self.text.splitlines(), yaml.compose(self.text, Loader=Loader)
        sections = dict(enumerate(_sections(lines)))
        for dial, line in _leaves(root, lines, f"{self.group}." if self.group not in ("", "recipe") else ""):
            yield replace(dial, section=sections[line])


def files(group: str) -> list[ConfigFile]:
    """The choices of a group, by name."""
    folder = CONFIG / group
    return [ConfigFile(str(path.relative_to(CONFIG).with_suffix(""))) for path in sorted(folder.rglob("*.yaml"))]


def _over(below: Dial, own: Dial | None) -> Dial:
    """What a file makes of a dial of its base."""
    if own is None:
        return below
    return replace(below, default=own.default, meaning="; here: ".join(filter(None, (below.meaning, own.meaning))))


def _explained(dial: Dial, model: Dial | None) -> Dial:
    """A dial of a file that is like another, with what it means there."""
    if model is None:
        return dial
    meaning = model.meaning.partition(";")[0]
    notes = (dial.meaning,) if dial.meaning.startswith(meaning) else (meaning, dial.meaning)
    return replace(dial, meaning="; ".join(filter(None, notes)), node=dial.node or model.node)


def _sections(lines: list[str]) -> Iterator[str]:
    """What stands over each line."""
    section = ""
    for line in lines:
        found = SECTION.fullmatch(line)
        section = found[1] if found else section
        yield section


def _leaves(node: yaml.Node, lines: list[str], prefix: str, beside: str = "") -> Iterator[tuple[Dial, int]]:
    """The dials below a mapping, and the line of each. beside: the comment of the mapping."""
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line
        if name == "defaults" and not prefix:
            yield from _groups(value, lines)
        filled_by_group = not prefix and isinstance(value, yaml.MappingNode) and (CONFIG / name).is_dir()
        if name in STRUCTURE or filled_by_group or not prefix and name == "hydra":
            continue
        nested = isinstance(value, yaml.MappingNode) and value.value
        block = isinstance(value, yaml.CollectionNode) and value.value and not value.flow_style
        end = key.end_mark if block else value.end_mark
        comment = _comment(lines[end.line][end.column + bool(block) :])
        if nested:
            if comment:
                yield Dial(f"{prefix}{name}", "", comment), line
            yield from _leaves(value, lines, f"{prefix}{name}.", comment or beside)
        else:
            dial = Dial(f"{prefix}{name}", _written(value), comment, node=beside)
            if comment or not prefix or not dial.follows:  # else it hands on what another dial says
                yield dial, line


def _groups(defaults: yaml.Node, lines: list[str]) -> Iterator[tuple[Dial, int]]:
    """The groups of a defaults list."""
    for entry in defaults.value:
        for key, value in entry.value if isinstance(entry, yaml.MappingNode) else ():
            if not str(key.value).startswith("override "):
                comment = _comment(lines[value.end_mark.line][value.end_mark.column :])
                yield Dial(str(key.value), _written(value), comment, group=True), key.start_mark.line


def _comment(rest: str) -> str:
    found = COMMENT.fullmatch(rest)
    return (found[1] or "").strip() if found else ""


def _written(value: yaml.Node) -> str:
    """A value as one writes it."""
    if isinstance(value, yaml.SequenceNode):
        return f"[{','.join(map(_written, value.value))}]"
    if isinstance(value, yaml.MappingNode):
        return "{" + ",".join(f"{key.value}:{_written(below)}" for key, below in value.value) + "}"
    if value.style in ("'", '"'):
        return repr(value.value)
    return str(value.value)
