"""Engine, trainer and run folders.

Importing this package also settles one name clash: the script `evaluate.py` at the root must not shadow the Hugging Face
library `evaluate`, which dependencies (lm-evaluation-harness among them) import lazily. `import evaluate` therefore always
skips the root folder.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class _LibraryEvaluate(importlib.abc.MetaPathFinder):
    """Finds `evaluate` everywhere on `sys.path` but in the root folder of this project."""

    def find_spec(self, name, path=None, target=None):
        if name != "evaluate":
            return None
        elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
        return importlib.machinery.PathFinder.find_spec(name, elsewhere)


if not any(type(finder).__name__ == "_LibraryEvaluate" for finder in sys.meta_path):
    sys.meta_path.insert(0, _LibraryEvaluate())
