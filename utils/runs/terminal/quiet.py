"""Silences what libraries say to developers: a run prints its own lines, and on several processes the main one speaks alone.

Errors pass. Who asks for more gets it: `python -W default`, a verbosity variable of a library, LETHE_TRACEBACK=1.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

OURS = ("utils", "data", "losses", "metrics", "scripts", "__main__")
# Libraries that print by themselves -> the variable that they read when they are imported.
LIBRARIES = {"transformers": "TRANSFORMERS_VERBOSITY", "datasets": "DATASETS_VERBOSITY", "huggingface_hub": "HF_HUB_VERBOSITY"}
SELDOM = 20  # seconds from one state of a progress bar to the next where nobody watches: in a file each is a line of its own


def quieten() -> None:
    """To be called before libraries are imported, and again once logging is set up."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", str(SELDOM))
    if os.environ.get("LETHE_TRACEBACK") == "1":
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for library, variable in LIBRARIES.items():
        if os.environ.setdefault(variable, "error") == "error":
            logging.getLogger(library).setLevel(logging.ERROR)  # where it was imported before
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for handler in logging.getLogger().handlers:
        shown = isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
        if shown and _worth_reading not in handler.filters:
            handler.addFilter(_worth_reading)


def _worth_reading(record: logging.LogRecord) -> bool:
    ours = record.name.partition(".")[0] in OURS and os.environ.get("RANK", "0") == "0"
    return ours or record.levelno >= logging.ERROR
