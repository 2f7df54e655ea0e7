"""The command line: misspelt keys and choices are refused with the nearest valid names, errors are one sentence."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import prod
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from utils import ROOT, interruption
from utils.checks import did_you_mean, did_you_mean_or_all, printable, shown
from utils.files import told
from utils.runs.recipes import GROUP as RECIPE
from utils.runs.recipes import recipe_settings, recipes
from utils.runs.terminal import help, quiet
from utils.secrets import STRUCK, struck, without_secrets

log = logging.getLogger(__name__)

CONFIG = ROOT / "config"
SWEEP = "LETHE_SWEEP"  # tells the jobs of a sweep, wherever they run, how many there are and which keys differ
SCRIPTS = ("finetune", "unlearn", "evaluate")
BAD_INPUT = (ValueError, ArithmeticError, OmegaConfBaseException)
NEEDS_QUOTES = re.compile(r"[][(){},]|\$\{")  # what means more than itself in a value
HOW_TO_QUOTE = "key=value, with quotes around a value that holds brackets or commas, and others around those for the shell"
# Hydra's own flags whose next word is their value, not an override.
RELEASED = re.compile("_(original|released)$")
FLAGS_WITH_VALUE = tuple(
    "-c --cfg -p --package -i --info -cp --config-path -cn --config-name -cd --config-dir --experimental-rerun".split()
)


def code(*, _root_: DictConfig) -> str:
    """`${code:}` in a file of config/: the form that compat= asks for, `paper` or the name of a code (tofu_original: of TOFU)."""
    compat = OmegaConf.select(_root_, "compat", default="none")
    return "paper" if compat == "none" else RELEASED.sub("", str(compat))


# Here, because whoever composes settings comes by.
OmegaConf.register_new_resolver("code", code, replace=True)


def check_command_line(config_name: str, arguments: Sequence[str] | None = None) -> None:
    """Exits with one sentence if an override of the command line names a key or choice that does not exist, and with what was
    asked for if that is help.

    Runs before Hydra, whose own message would not say which name was meant, and whose help knows no comments.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        answer = help.asked_for(config_name, words)
    except ValueError as error:
        sys.exit(str(error))
    if answer is not None:
        _print(answer)
        sys.exit(0)
    overrides = _overrides(words)
    problem = find_problem(config_name, overrides, sweeps=bool({"-m", "--multirun"} & set(words)))
    if problem:
        sys.exit(problem)
    if arguments is None:
        quiet.quieten()
        swept = {o.key_or_group: len(_values(o)) for o in parse_overrides(overrides) if o.is_sweep_override()}
        os.environ[SWEEP] = " ".join([str(prod(swept.values())), *swept])
        # Flags first: what follows one is lost to Hydra if overrides stand on both sides.
        flags = [word for word in words if word not in overrides]
        sys.argv[1:] = [*flags, *(str(override.input_line) for override in parse_overrides(unfolded(config_name, overrides)))]


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # who reads has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def find_problem(config_name: str, overrides: Sequence[str], sweeps: bool = True) -> str | None:
    """What is wrong with the overrides, in one sentence; None if nothing is. sweeps: whether a,b means two runs."""
    problem = _problem(config_name, overrides, sweeps)
    return None if problem is None else struck(printable(problem))


def _problem(config_name: str, overrides: Sequence[str], sweeps: bool) -> str | None:
    try:
        parsed = parse_overrides(unfolded(config_name, overrides))
    except ValueError as error:
        return str(error)
    for override in parsed:
        if problem := _forbidden(override, config_name, sweeps):
            return problem
    choices = [o for o in parsed if _is_group(o.key_or_group)]
    for override in choices:
        group, valid = override.key_or_group, _choices(override.key_or_group)
        for value in _chosen(override):
            if value not in valid:
                return f"{group}={value}: there is no such {group}{did_you_mean_or_all(value, valid)}"
    refused = _refused_by_hydra(config_name, [o.input_line for o in parsed if not o.is_sweep_override()])
    if refused is None and not any(o.is_sweep_override() for o in parsed):
        return None
    try:
        chosen = [o.input_line for o in choices if not o.is_sweep_override() and o.key_or_group != RECIPE]
        cfg = compose_settings(config_name, chosen)
        keys = _keys(cfg)
        everywhere = frozenset(keys)
        if any(o.is_sweep_override() for o in choices):
            # A sweep over choices: a key is fine if any of the swept choices has it.
            swept = [f"{o.key_or_group}={value}" for o in choices if o.is_sweep_override() for value in _chosen(o)]
            for choice in swept:
                keys |= _keys(compose_settings(config_name, [choice]))
    except (HydraException, OmegaConfBaseException) as error:
        return f"command line: {_one_line(error)}"
    for place, override in enumerate(parsed):
        name, line = override.key_or_group, override.input_line
        if (
            override.is_add()
            or override.is_force_add()
            or override.is_delete()
            or override.is_hydra_override()
            or _is_group(name)
        ):
            continue
        if name not in keys:
            names = keys | set(groups_of(config_name))
            hint = did_you_mean(name, names) or f"; there are {', '.join(sorted(n for n in names if '.' not in n))}"
            source = f"{_recipe_words(parsed)[-1].input_line}: " if place < len(parsed) - len(overrides) else ""
            return f"{source}{line}: there is no key {name}{hint}"
        if name not in everywhere and not override.is_sweep_override():
            # Hydra composes once without the swept choices, where the key is unknown.
            return f"{line}: only some of the choices swept over have this key; write ++{line}"
        if problem := _misses_node(override, cfg):
            return problem
    return refused


def _forbidden(override: Override, script: str, sweeps: bool) -> str | None:
    """What is wrong with an override whatever the others say."""
    key, line = override.key_or_group, override.input_line
    written = {key: line.partition("=")[2]}
    if without_secrets(written) != written:
        return f"{key}={STRUCK}: holds a password, key or token, which the run would keep; leave it to the environment"
    if override.is_sweep_override() and not sweeps:
        return f"{line}: several values are a sweep; add -m to run one after the other, or write [...] around a list"
    group = key.partition("@")[0]
    if _is_group(group) and group not in groups_of(script):
        others = " and ".join(f"{other}.py" for other in SCRIPTS if group in groups_of(other))
        return f"{line}: {script}.py has no {group} (it belongs to {others}); leave it out"
    if _is_group(group) and isinstance(override.value(), list) and not groups_of(script)[group]:
        return f"{line}: write one name, or add -m and write names without brackets for one run each"
    return None


def _misses_node(override: Override, cfg: DictConfig) -> str | None:
    """What is wrong with a value that takes the place of several options, or names one that there is not."""
    key, value, node = override.key_or_group, override.value(), OmegaConf.select(cfg, override.key_or_group)
    if not OmegaConf.is_dict(node):
        return None
    if isinstance(value, list):
        return f"{override.input_line}: write its options one by one, as in {key}.OPTION=VALUE"
    unknown = next((str(name) for name in value if str(name) not in node), None) if isinstance(value, dict) else None
    if unknown is None:
        return None
    return f"{override.input_line}: there is no key {key}.{unknown}{did_you_mean_or_all(unknown, map(str, node))}"


def _refused_by_hydra(script: str, words: Sequence[str]) -> str | None:
    try:
        compose_settings(script, words)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return f"command line: {_one_line(error)}"
    return None


@functools.cache
def groups_of(script: str) -> dict[str, bool]:
    """The groups that a script chooses from, as its file in config/ names them -> whether one may choose several."""
    entries = [entry for entry in OmegaConf.load(CONFIG / f"{script}.yaml").defaults if OmegaConf.is_dict(entry)]
    return {str(key): OmegaConf.is_list(entry[key]) for entry in entries for key in entry if _is_group(str(key))}


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Raises ValueError for a word that is no override."""
    return [_parsed(word) for word in words]


def _parsed(word: str) -> Override:
    """An override; a text that Hydra's grammar has no letters for, such as a path with = or an umlaut, is taken as it stands."""
    key, equals, value = word.partition("=")
    try:
        word.encode()
        return OverridesParser.create().parse_override(word)
    except UnicodeEncodeError as error:
        raise ValueError(f"{shown(word)}: holds bytes that are not UTF-8; write it in UTF-8") from error
    except HydraException as error:
        with suppress(HydraException):
            if equals and not NEEDS_QUOTES.search(value):
                return OverridesParser.create().parse_override(as_override(key, value))
        raise ValueError(f"{shown(word)}: not understood; write {HOW_TO_QUOTE}") from error


def as_override(key: str, value: Any) -> str:
    """key=value as Hydra reads it, whatever characters the value holds."""
    return f"{key}={_written(value)}"


def _written(value: Any) -> str:
    if isinstance(value, str):
        # A backslash means one only before a quote.
        doubled = re.sub(r"\\+(?='|\Z)", lambda found: 2 * found[0], value)
        return "'" + doubled.replace("'", "\\'") + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, value)) + "]"
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)


def unfolded(script: str | None, overrides: Sequence[str]) -> list[str]:
    """`overrides`, with what their recipe says and they do not in front of them, and the benchmark of the run that made the
    model, whose options may be named without it. A sweep over recipes is left as it is.

    Raises ValueError as `parse_overrides` and `recipe_settings`. Again unfolded, they stay as they are.
    """
    parsed = parse_overrides(overrides)
    said = {override.key_or_group for override in parsed}
    new: dict[str, Any] = {}
    for override in _recipe_words(parsed):
        found = [recipe_settings(name, str(script), said) for name in _recipes(override)]
        new = {} if override.is_sweep_override() else found[0]
    new = {**_benchmark_of_model(parsed), **new}
    return [*(as_override(key, value) for key, value in new.items()), *overrides]


def _benchmark_of_model(parsed: Iterable[Override]) -> dict[str, str]:
    """`benchmark`, if an option of one is named and none is chosen, as the run has it that made `model.path`."""
    from utils.runs.lineage import Origin  # imports this module's users

    said = {override.key_or_group: override for override in parsed}
    path = said.get("model.path")
    if path is None or path.is_sweep_override() or "benchmark" in said or not any(key.startswith("benchmark.") for key in said):
        return {}
    origin = Origin.of(path.value()) if isinstance(path.value(), str) else None
    name = None if origin is None else (origin.settings.get("benchmark") or {}).get("name")
    return {"benchmark": name} if isinstance(name, str) and name in _choices("benchmark") else {}


def _recipes(override: Override) -> list[str]:
    """The recipes that a word chooses: one, or those of a sweep."""
    if override.type is not OverrideType.CHANGE or isinstance(override.value(), Glob):
        raise ValueError(f"{override.input_line}: write {RECIPE}=NAME, or for a sweep -m {RECIPE}=NAME,NAME")
    return _chosen(override) if override.is_sweep_override() else [str(override.value())]


def _recipe_words(parsed: Iterable[Override]) -> list[Override]:
    return [override for override in parsed if override.key_or_group == RECIPE]


def refuse_overrides(words: Sequence[str], fixed: Collection[str]) -> None:
    """Raises ValueError for an override of one of the `fixed` keys, which every run gets by itself, and as `parse_overrides`."""
    for override in parse_overrides(words):
        key = override.key_or_group
        if key in fixed:
            raise ValueError(f"{override.input_line}: {key} is set for every run by itself; leave it out")


def compose_settings(script: str | None, overrides: Iterable[str] = ()) -> DictConfig:
    """The settings that `python <script>.py OVERRIDES` would start with; without a script, groups alone (+method=npo).

    Raises HydraException for an override that it refuses, ValueError for what is none.
    """
    parsed = parse_overrides(unfolded(script, list(overrides)))
    recipe = _recipe_words(parsed)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose(script, overrides=[o.input_line for o in parsed if o not in recipe])
    GlobalHydra.instance().clear()
    if recipe:
        with open_dict(cfg):
            cfg.recipe = recipe[-1].value()  # its name; what it says stands in the other settings
    return cfg


def checked_settings(script: str, overrides: Sequence[str]) -> DictConfig:
    """`compose_settings` of a single run, composed once. Raises ValueError with what `find_problem` says."""
    try:
        if not any(_forbidden(override, script, sweeps=False) for override in parse_overrides(overrides)):
            return compose_settings(script, overrides)
    except (HydraException, OmegaConfBaseException, ValueError):
        pass
    raise ValueError(find_problem(script, overrides, sweeps=False) or f"{' '.join(overrides)}: cannot be composed")


def one_sentence(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Errors that mean bad input (ValueError and its kin) or a disk that fails, and an interruption, end the program with their
    message instead of a traceback. LETHE_TRACEBACK=1 shows the traceback of an error all the same.

    A sweep goes on with its other jobs after an error and fails at its end; interrupted, it says which of its runs are done.
    """

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> None:
        sweeps, code = HydraConfig.get().mode == RunMode.MULTIRUN, 1
        quiet.quieten()  # now that logging is set up
        if not sweeps or HydraConfig.get().job.num == 0:
            _done.clear()
        if sweeps:
            log.info("%s", _which_job())
        try:
            with interruption.heard():
                main(cfg)
            _done.append(str(cfg.out))
            return
        except interruption.Interrupted as stop:
            problem, code = str(stop), stop.code
        except BAD_INPUT as error:
            if os.environ.get("LETHE_TRACEBACK") == "1":
                raise
            problem = _one_line(error)
        except OSError as error:
            if os.environ.get("LETHE_TRACEBACK") == "1":
                raise
            problem = struck(told(error))
        # Out here the failed calls are gone, and with them progress bars that would print after the message.
        if code != 1:
            if os.environ.get("RANK", "0") == "0":
                print(problem, *([_what_is_done(cfg)] if sweeps else []), sep="\n", file=sys.stderr)
            sys.exit(code)
        if sweeps:
            print(problem, file=sys.stderr)
            raise CompactHydraException(problem)
        sys.exit(problem)

    return wrapped


def _which_job() -> str:
    """Which of how many jobs of a sweep this is, and what it is told that the others are not."""
    job = HydraConfig.get()
    total, *swept = os.environ.get(SWEEP, "").split(" ")
    differing = [word for word in job.overrides.task if not swept or word.lstrip("+").partition("=")[0] in swept]
    return f"{job.job.num + 1}{f' of {total}' if total else ''}: {' '.join(differing)}"


_done: list[str] = []  # folders of the finished runs of a sweep


def _what_is_done(cfg: DictConfig) -> str:
    done = f"{', '.join(_done)} done" if _done else "none of them done"
    return f"sweep: {done}; it was at {cfg.out}. The same command skips what is finished"


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """Within the block, errors that mean bad input end the program with their first line, and so does an interruption.
    LETHE_TRACEBACK=1 shows all of an error."""
    quiet.quieten()
    try:
        with interruption.heard():
            yield
    except interruption.Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.code)
    except (*BAD_INPUT, OSError, HydraException) as error:
        if os.environ.get("LETHE_TRACEBACK") == "1":
            raise
        sys.exit(told(error) if isinstance(error, OSError) else _one_line(error))


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The key=value words of a command line, without flags and their values."""
    pairs = zip(("", *arguments), arguments, strict=False)
    words = [word for before, word in pairs if "=" in word or before not in FLAGS_WITH_VALUE]
    return [word for word in words if not word.startswith("-")]


def _choices(group: str) -> list[str]:
    return recipes() if group == RECIPE else sorted(path.stem for path in (CONFIG / group).glob("*.yaml"))


def _values(override: Override) -> list[str]:
    """The values of a sweep: a,b or choice(a,b) or range(0,3) or glob(a*)."""
    if isinstance(override.value(), Glob):
        return override.value().filter(_choices(override.key_or_group))
    return list(override.sweep_string_iterator())


def _chosen(override: Override) -> list[str]:
    """The choices that an override of a group makes: one, or those of a sweep."""
    if override.is_sweep_override():
        return _values(override)
    value = override.value()
    return [str(choice) for choice in value] if isinstance(value, list) else [str(value)]


def _is_group(name: str) -> bool:
    return name != "" and (CONFIG / name).is_dir()


def _keys(cfg: DictConfig, prefix: str = "") -> set[str]:
    keys = set()
    for key in cfg:
        name = f"{prefix}{key!s}"
        keys.add(name)
        if not OmegaConf.is_missing(cfg, key) and OmegaConf.is_dict(node := cfg._get_node(key)) and not node._is_none():
            keys |= _keys(node, f"{name}.")
    return keys


def _one_line(error: Exception) -> str:
    """What is wrong; errors of the configuration's libraries say where on further lines."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = struck(re.sub(r"\s+", " ", lines[0]))
    if not isinstance(error, OmegaConfBaseException):
        return line
    return f"{error.full_key or 'settings'}: {line}; write a value for it"
