"""The command line: misspelt keys and choices are refused with the nearest valid names, errors are one sentence."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from utils.checks import did_you_mean, did_you_mean_or_all
from utils.files import told
from utils.runs.recipes import GROUP as RECIPE
from utils.runs.recipes import recipe_settings, recipes

CONFIG = ROOT / "config"
BAD_INPUT = (ValueError, ArithmeticError, OmegaConfBaseException)
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
    """Exits with one sentence if an override of the command line names a key or choice that does not exist.

    Runs before Hydra, whose own message would not say which name was meant.
    """
    problem = find_problem(config_name, _overrides(sys.argv[1:] if arguments is None else arguments))
    if problem:
        sys.exit(problem)
    if arguments is None:
        _unfold_command_line(config_name)


def find_problem(config_name: str, overrides: Sequence[str]) -> str | None:
    """What is wrong with the overrides, in one sentence; None if nothing is."""
    try:
        parsed = parse_overrides(unfolded(config_name, overrides))
    except ValueError as error:
        return str(error)
    choices = [o for o in parsed if _is_group(o.key_or_group)]
    for override in choices:
        group, valid = override.key_or_group, _choices(override.key_or_group)
        for value in _chosen(override):
            if value not in valid:
                return f"{group}={value}: there is no such {group}{did_you_mean_or_all(value, valid)}"
    try:
        chosen = [o.input_line for o in choices if not o.is_sweep_override() and o.key_or_group != RECIPE]
        keys = _keys(compose_settings(config_name, chosen))
        everywhere = frozenset(keys)
        if any(o.is_sweep_override() for o in choices):
            # A sweep over choices: a key is fine if any of the swept choices has it.
            swept = [f"{o.key_or_group}={value}" for o in choices if o.is_sweep_override() for value in _chosen(o)]
            for choice in swept:
                keys |= _keys(compose_settings(config_name, [choice]))
    except (HydraException, OmegaConfBaseException) as error:
        return f"command line: {_first_line(error)}"
    for override in parsed:
        name = override.key_or_group
        added = override.is_add() or override.is_force_add()
        free = added or override.is_delete() or override.is_hydra_override()
        if not free and not _is_group(name) and name not in keys:
            names = keys | {path.name for path in CONFIG.iterdir() if path.is_dir()}
            hint = did_you_mean(name, names) or f"; there are {', '.join(sorted(n for n in names if '.' not in n))}"
            source = "" if override.input_line in overrides else f"{_recipe_words(parsed)[-1].input_line}: "
            return f"{source}{override.input_line}: there is no key {name}{hint}"
        if not free and not _is_group(name) and name not in everywhere and not override.is_sweep_override():
            # Hydra composes once without the swept choices, where the key is unknown.
            return f"{override.input_line}: only some of the choices swept over have this key; write ++{override.input_line}"
    return None


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Raises ValueError for a word that is no override."""
    parser, parsed = OverridesParser.create(), []
    for word in words:
        try:
            parsed += parser.parse_overrides([word])
        except HydraException as error:
            how = "write key=value, with quotes around a value that holds brackets or commas"
            raise ValueError(f"{word}: not understood; {how}") from error
    return parsed


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
    """`overrides`, with what their recipe says and they do not in front of them. A sweep over recipes is left as it is.

    Raises ValueError as `parse_overrides` and `recipe_settings`. Again unfolded, they stay as they are.
    """
    parsed = parse_overrides(overrides)
    said = {override.key_or_group for override in parsed}
    new: dict[str, Any] = {}
    for override in _recipe_words(parsed):
        found = [recipe_settings(name, str(script), said) for name in _recipes(override)]
        new = {} if override.is_sweep_override() else found[0]
    return [*(as_override(key, value) for key, value in new.items()), *overrides]


def _recipes(override: Override) -> list[str]:
    """The recipes that a word chooses: one, or those of a sweep."""
    if override.type is not OverrideType.CHANGE or isinstance(override.value(), Glob):
        raise ValueError(f"{override.input_line}: write {RECIPE}=NAME, or for a sweep -m {RECIPE}=NAME,NAME")
    return _chosen(override) if override.is_sweep_override() else [str(override.value())]


def _recipe_words(parsed: Iterable[Override]) -> list[Override]:
    return [override for override in parsed if override.key_or_group == RECIPE]


def _unfold_command_line(script: str) -> None:
    """Gives Hydra, which composes first, the keys that only a recipe's choices have."""
    words = _overrides(sys.argv[1:])
    new = unfolded(script, words)[: -len(words) or None]
    if new:
        # Beside the others: what follows a flag is lost to Hydra if overrides stand on both sides of it.
        at = sys.argv.index(words[0])
        sys.argv[at:at] = new


def refuse_overrides(words: Sequence[str], fixed: Collection[str]) -> None:
    """Raises ValueError for an override of one of the `fixed` keys, which every run gets by itself, and as `parse_overrides`."""
    for override in parse_overrides(words):
        key = override.key_or_group
        if key in fixed:
            raise ValueError(f"{override.input_line}: {key} is set for every run by itself; leave it out")


def compose_settings(script: str | None, overrides: Iterable[str] = ()) -> DictConfig:
    """The settings that `python <script>.py OVERRIDES` would start with; without a script, groups alone (+method=npo).

    Raises HydraException for an override that it refuses.
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


def one_sentence(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Errors that mean bad input (ValueError and its kin) or a disk that fails, and an interruption, end the program with their
    message instead of a traceback. LETHE_TRACEBACK=1 shows the traceback of an error all the same.

    A sweep goes on with its other jobs after an error and fails at its end; interrupted, it says which of its runs are done.
    """

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> None:
        sweeps, code = HydraConfig.get().mode == RunMode.MULTIRUN, 1
        if not sweeps or HydraConfig.get().job.num == 0:
            _done.clear()
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
            problem = str(error)
        except OSError as error:
            if os.environ.get("LETHE_TRACEBACK") == "1":
                raise
            problem = told(error)
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


_done: list[str] = []  # folders of the finished runs of a sweep


def _what_is_done(cfg: DictConfig) -> str:
    done = f"{', '.join(_done)} done" if _done else "none of them done"
    return f"sweep: {done}; it was at {cfg.out}. The same command skips what is finished"


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """Within the block, errors that mean bad input end the program with their first line, and so does an interruption.
    LETHE_TRACEBACK=1 shows all of an error."""
    try:
        with interruption.heard():
            yield
    except interruption.Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.code)
    except (*BAD_INPUT, OSError, HydraException) as error:
        if os.environ.get("LETHE_TRACEBACK") == "1":
            raise
        sys.exit(told(error) if isinstance(error, OSError) else _first_line(error))


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The key=value words of a command line, without flags and their values."""
    pairs = zip(("", *arguments), arguments, strict=False)
    words = [word for before, word in pairs if "=" in word or before not in FLAGS_WITH_VALUE]
    return [word for word in words if not word.startswith("-")]


def _choices(group: str) -> list[str]:
    return recipes() if group == RECIPE else sorted(path.stem for path in (CONFIG / group).glob("*.yaml"))


def _chosen(override: Override) -> list[str]:
    """The choices that an override of a group makes: one, or those of a sweep (a,b or choice(a,b) or glob(a*))."""
    if isinstance(override.value(), Glob):
        return override.value().filter(_choices(override.key_or_group))
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return re.sub(r"\s+", " ", lines[0]) if lines else type(error).__name__
