"""Importing `utils` keeps `import evaluate` pointed at the Hugging Face library, see utils/__init__.py."""

from copy import deepcopy

from hydra._internal.config_repository import ConfigRepository, ConfigResult

import utils  # noqa: F401

# Thousands of tests compose settings from the same files: each is parsed once.
_parse = ConfigRepository.load_config
_parsed: dict[tuple[str, ...], ConfigResult | None] = {}


def _load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    key = (config_path, *(source.path for source in self.sources))
    if key not in _parsed:
        _parsed[key] = _parse(self, config_path)
    return deepcopy(_parsed[key])


ConfigRepository.load_config = _load_config


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes name no test: compressed ones carry a clock, and processes that collect the same tests must call them the same."""
    return "bytes" if isinstance(val, bytes) else None
