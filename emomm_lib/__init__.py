"""Companion library to the EmoMM / CHASE paper: benchmark, metrics, attention and steering."""

from emomm_lib import environment as _environment

__version__ = "0.1.0"

# Before any library that keeps a cache is imported.
_environment.prepare()
