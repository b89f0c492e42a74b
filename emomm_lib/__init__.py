"""Hooks, metrics and router of the EmoMM / CHASE paper, for any transformers model.

What a model attends to, and steering it::

    with emomm_lib.record(model, modality_ids) as trace: ...
    with emomm_lib.steer(model, router, config, modality_ids) as steered: ...

The names are those that ``__init__.pyi`` lists. Each is loaded when it is first asked for, so that
labels and metrics need no torch.
"""

import ast
from importlib import import_module
from pathlib import Path

__version__ = "1.0.0"

_HOME = {
    alias.name: node.module
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"emomm_lib has no name {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
