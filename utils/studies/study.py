"""What a study is: the content of config/study/<name>.yaml, checked.

    title, about     a name, and a sentence on what it is for
    claims           sentences of the publication that the table can tell something about
    reading          paragraphs on what the table shows, once it does
    base             another study whose content this one takes over, key by key
    common           settings of every command; finetune, localize, unlearn, evaluate: of one script each
    models           what is there before the unlearning: targets, oracles, reinforced copies, published models
    regions          what scripts/localize.py finds, for methods that train a part of the weights
    rows             what is compared: recipes or overrides of unlearn.py
    evaluations      ways to ask, each a set of overrides of evaluate.py; the first is the table's own
    seeds            of the rows; models and regions name their own
    columns, primary, baseline    what the table shows, tests, and against which row
    tune             equal tuning (utils/studies/tuning.py)
    published        {table: SOURCE/TABLE, rows: {ours: theirs}}, the published table beside it (utils/tables/published.py); by
                     role or method where rows says nothing, nothing beside what it calls null
    keep, launcher, launch, processes, parallel, device    how it is run

An entry of models, regions or rows holds settings, and these words of its own: `path` (a model that exists), `role`, `seeds`,
`label`, `processes`, `published`, and `evaluate`, settings of its evaluations alone; where an entry has nothing else, no run of
its own is made. `evaluate: null` evaluates nothing. `NAME: false` takes an entry of the base out.

`@target` in a value is the folder of the entry of that name with the same seed, or with its first where it has no such seed;
`@target/model` something in it, `@target/plain` its evaluation of that name; `@oracle*` the list of those of all its seeds, and
`@oracle+` of all but the one that `@oracle` means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from utils import ROOT
from utils.checks import choose, declared, did_you_mean_or_all, first_line, name, node, require, shown, whole
from utils.files import flat_settings
from utils.runs.cli import parse_overrides
from utils.tables.published import Table, published_table

FOLDER = ROOT / "config" / "study"
Script = Literal["finetune", "localize", "unlearn", "evaluate"]
Settings = Mapping[str, Any]  # dotted key -> value, as on a command line

SCRIPT_OF: Mapping[str, Script] = {"models": "finetune", "regions": "localize", "rows": "unlearn"}
ROLES = ("untouched", "target", "oracle", "method", "relearned", "log", "aside")
KEEP = ("model", "adapter", "scores")
REFERENCE = re.compile(r"@(?P<entry>[\w.-]+)(?P<which>[*+]?)(?P<inside>/.*)?")
SEED = 42  # the scripts' own
SET_BY_ITSELF = {"seed": "seeds, of the study or of the entry", "out": "pool=DIR, where every cell has a folder of its own"}
SET_BY_ITSELF |= dict.fromkeys(("overwrite", "resume"), "nothing: a study knows which of its runs to go on with")


@dataclass(frozen=True)
class Entry:
    """One model, region or row. script: None for what exists already. evaluate: None if it is not evaluated."""

    name: str
    kind: str
    script: Script | None
    settings: Settings
    seeds: tuple[int, ...]
    role: str
    label: str
    evaluate: Settings | None
    path: str | None = None
    processes: int | None = None
    published: str | None = None


@dataclass(frozen=True)
class Study:
    """See the head of this file. Raises ValueError, naming key and value, for what is not so."""

    name: str
    title: str
    about: str = ""
    claims: Sequence[str] = ()
    reading: Sequence[str] = ()
    common: Settings = field(default_factory=dict)
    finetune: Settings = field(default_factory=dict)
    localize: Settings = field(default_factory=dict)
    unlearn: Settings = field(default_factory=dict)
    evaluate: Settings = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    regions: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Mapping[str, Settings] = field(default_factory=lambda: {"plain": {}})
    seeds: Sequence[int] = (SEED,)
    columns: Sequence[Any] = ()
    primary: Sequence[str] = ()
    baseline: str | None = None
    tune: Mapping[str, Any] | None = None
    published: Mapping[str, Any] | None = None
    keep: str = "model"
    launcher: str = "basic"
    launch: Settings = field(default_factory=dict)
    processes: int = 1
    parallel: int | None = None
    device: str = "H100"

    def __post_init__(self) -> None:
        declared("", {one.name: getattr(self, one.name) for one in fields(self)}, Study)
        choose("keep", self.keep, KEEP)
        whole("processes", self.processes, 1)
        if self.parallel is not None:
            whole("parallel", self.parallel, 1)
        require(bool(self.evaluations), "evaluations", "{}", "at least one, as in evaluations: {plain: {}}")
        _seeds("seeds", self.seeds)
        twice = [entry.name for entry in self.entries.values() if entry.name in self.evaluations]
        require(not twice, "evaluations", twice, "names that no model, region or row has")
        if self.baseline is not None:
            choose("baseline", self.baseline, [entry.name for entry in self.of_kind("rows")])
        for place, settings in self._said():
            for key, value in settings.items():
                if key in SET_BY_ITSELF:
                    raise ValueError(f"{place}.{key}={shown(value)}: a study sets it by itself; write {SET_BY_ITSELF[key]}")
                for match in matches(value):
                    choose(f"{place}.{key}", f"@{match['entry']}", [f"@{name}" for name in self.entries])
        for row in self._named_rows:
            choose("published.rows", row, self.entries)
        for entry in self.entries.values():
            self.published_row(entry)

    @cached_property
    def published_table(self) -> Table | None:
        """The published table beside this one. Raises ValueError for one that there is not."""
        return published_table(str(self.published.get("table"))) if self.published else None

    def published_row(self, entry: Entry) -> str | None:
        """What the published table calls an entry; None where it has no such row.

        Raises ValueError for a name that no published row has, and for a method that several have.
        """
        table = self.published_table
        if table is None or entry.evaluate is None:
            return None
        named = entry.published or self._named_rows.get(entry.name)
        if named is None and entry.name in self._named_rows:
            return None
        name = str(named or (entry.role if entry.role in ("target", "oracle") else entry.settings.get("method", "")))
        if not name or not (named or table.unread or table.has(name)):
            return None
        return name if table.unread and not table.has(name) else table.row_of(name)

    @property
    def _named_rows(self) -> Mapping[str, Any]:
        return (self.published or {}).get("rows") or {}

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """All models, regions and rows, by name."""
        found: dict[str, Entry] = {}
        for kind in SCRIPT_OF:
            for key, written in getattr(self, kind).items():
                name(f"{kind} entry", str(key))
                require(str(key) not in found, kind, key, "a name that no other model, region or row has")
                found[str(key)] = self._entry(kind, str(key), written)
        return found

    def of_kind(self, kind: str) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.kind == kind]

    def _said(self) -> Iterator[tuple[str, Settings]]:
        """Where settings are written, and what they are there."""
        for script in ("common", *SCRIPT_OF.values(), "evaluate"):
            yield script, getattr(self, script)
        for entry in self.entries.values():
            place = f"{entry.kind}.{entry.name}"
            yield place, entry.settings
            yield f"{place}.evaluate", entry.evaluate or {}
        for way, settings in self.evaluations.items():
            yield f"evaluations.{way}", settings

    def settings_of(self, script: Script) -> dict[str, Any]:
        """What every command of a script says."""
        return {**self.common, **getattr(self, script)}

    def _entry(self, kind: str, key: str, written: Any) -> Entry:
        place = f"{kind}.{key}"
        if written is not None:
            node(place, written)
        rest = dict(written or {})
        evaluate = rest.pop("evaluate", {})
        if evaluate is not None:
            node(f"{place}.evaluate", evaluate)
        seeds = rest.pop("seeds", self.seeds if kind == "rows" else (SEED,))
        path, label = rest.pop("path", None), rest.pop("label", None)
        role = rest.pop("role", _role(kind, key, path))
        processes, published = rest.pop("processes", None), rest.pop("published", None)
        words = {"path": path, "label": label, "processes": processes, "published": published}
        declared(place, {key: value for key, value in words.items() if value is not None}, Entry)
        choose(f"{place}.role", role, ROLES)
        if processes is not None:
            whole(f"{place}.processes", processes, 1)
        script: Script | None = SCRIPT_OF[kind]
        if path is not None or (kind == "rows" and not rest and evaluate and {"model.path", "from_logs"} & set(evaluate)):
            require(not rest, place, ", ".join(map(str, rest)), "nothing beside path: what exists is not made")
            script, seeds = None, tuple(seeds)[:1]
        elif kind == "rows" and not {"method", "recipe"} & set(rest):
            rest = {"method": key, **rest}
        if kind == "regions" or role == "aside":
            evaluate = None
        settings = self.settings_of(script) | rest if script else {}
        return Entry(
            key, kind, script, settings, _seeds(f"{place}.seeds", seeds), role, label or key, evaluate, path, processes, published
        )


def matches(value: Any) -> Iterator[re.Match[str]]:
    """The references in a value, which may be a list of values."""
    for part in value if isinstance(value, list | tuple) else (value,):
        if isinstance(part, str) and part.startswith("@"):
            match = REFERENCE.fullmatch(part)
            if match is None:
                raise ValueError(f"{part}: not understood; write @NAME, @NAME/FILE, @NAME* or @NAME+")
            yield match


def studies() -> list[str]:
    """Names of all studies."""
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml"))


def read_study(study: str, overrides: Sequence[str] = ()) -> Study:
    """The study of a name, with key=value over what its file says. Raises ValueError."""
    content = _read(study)
    try:
        for override in parse_overrides(overrides):
            if override.is_sweep_override():
                raise ValueError(f"{override.input_line}: write [...] around a list")
            content = _overridden(content, override.key_or_group, override.value())
        require("title" in content, "title", "", "what the study is called, in its file")
        return Study(name=study, **{key: _plain(key, value) for key, value in content.items()})
    except ValueError as error:
        raise ValueError(f"study {study}: {error}") from error


def _read(study: str, above: Sequence[str] = ()) -> dict[str, Any]:
    if study in above:
        raise ValueError(
            f"study {above[0]}: base={study}: takes over itself ({' -> '.join([*above, study])}); name another study"
        )
    if study not in studies():
        raise ValueError(f"{study}: there is no such study{did_you_mean_or_all(study, studies())}")
    try:
        written = OmegaConf.load(FOLDER / f"{study}.yaml")
        content = OmegaConf.to_container(written, resolve=False) if isinstance(written, DictConfig) else None
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"study {study}: its file is damaged ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"study {study}: its file holds no keys")
    known = [one.name for one in fields(Study) if one.name != "name"]
    for key in content:
        if key not in (*known, "base"):
            raise ValueError(f"study {study}: there is no key {shown(key)}{did_you_mean_or_all(key, known)}")
    base = content.pop("base", None)
    return _merged(_read(str(base), [*above, study]), content) if base else content


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, mappings key by key."""
    both = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(both.get(key), Mapping):
            both[key] = _merged(both[key], value)
        else:
            both[key] = value
    return both


def _overridden(content: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """`content` with a dotted key of the command line set: STUDY KEY, or PART.SETTING, or PART.ENTRY.SETTING."""
    head, _, rest = key.partition(".")
    known = [one.name for one in fields(Study) if one.name not in ("name", "title", "claims", "about")]
    if head not in known:
        raise ValueError(f"{key}={value}: a study has no key {head}{did_you_mean_or_all(head, known)}")
    if not rest:
        return {**content, key: value}
    before = content.get(head) or {}
    if not isinstance(before, Mapping):
        raise ValueError(f"{key}={shown(value)}: {head} has no parts; write {head}=VALUE")
    part = dict(before)
    if head in (*SCRIPT_OF, "evaluations"):
        entry, _, setting = rest.partition(".")
        if entry not in part or not (setting or value is False):
            hint = did_you_mean_or_all(entry, map(str, part)) if entry not in part else ""
            raise ValueError(f"{key}={shown(value)}: write {head}.ENTRY.SETTING=VALUE, or {head}.ENTRY=false for none{hint}")
        if not setting:
            return {**content, head: {**part, entry: False}}
        node(f"{head}.{entry}", part[entry] or {})
        inner = dict(part[entry] or {})
        if setting.startswith("evaluate."):
            inner["evaluate"] = {**(inner.get("evaluate") or {}), setting.removeprefix("evaluate."): value}
        else:
            inner[setting] = value
        part[entry] = inner
    else:
        part[rest] = value
    return {**content, head: part}


def _plain(key: str, value: Any) -> Any:
    """Settings with dotted keys, whether the file nests them or not."""
    if key in ("common", "launch", *SCRIPT_OF.values(), "evaluate"):
        node(key, value)
        return flat_settings(value)
    if key in SCRIPT_OF or key == "evaluations":
        node(key, value)
        return {str(entry): _flat_entry(written) for entry, written in value.items() if written is not False}
    return [value] if key == "seeds" and isinstance(value, int) else value


def _flat_entry(written: Any) -> Any:
    if not isinstance(written, Mapping):
        return written
    evaluate = {"evaluate": flat_settings(written["evaluate"])} if isinstance(written.get("evaluate"), Mapping) else {}
    return flat_settings({key: value for key, value in written.items() if key not in evaluate}) | evaluate


def _role(kind: str, key: str, path: str | None) -> str:
    if kind == "regions":
        return "aside"
    if kind == "models":
        return key if key in ROLES else ("untouched" if path else "target")
    return "method"


def _seeds(key: str, seeds: Any) -> tuple[int, ...]:
    values = tuple(seeds) if isinstance(seeds, list | tuple) else (seeds,)
    for seed in values:
        whole(key, seed, 0, "or a list of them")
    require(len(values) > 0 and len({*values}) == len(values), key, list(values), "one or more different whole numbers")
    return values
