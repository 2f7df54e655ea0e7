"""Importing `utils` keeps `import evaluate` pointed at the Hugging Face library, see utils/__init__.py."""

import utils  # noqa: F401
