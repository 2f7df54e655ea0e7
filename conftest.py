"""Makes the packages of this folder importable under pytest, whatever folder it was started from."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import utils  # noqa: E402, F401  (keeps `import evaluate` pointed at the Hugging Face library, see utils/__init__.py)
