"""Companion library to the EmoMM / CHASE paper: benchmark, metrics, attention and steering."""

__version__ = "0.1.0"
