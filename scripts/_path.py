"""Lets `python scripts/x.py` find the project's packages from any folder, without installation: scripts import this first.

`utils` comes along, so that `import evaluate` means the Hugging Face library in every script (utils/__init__.py).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if (root := str(Path(__file__).resolve().parent.parent)) not in sys.path:
    sys.path.insert(0, root)
importlib.import_module("utils")
