"""Hooks, metrics and router of the EmoMM / CHASE paper, for any transformers model."""

__version__ = "0.1.0"
