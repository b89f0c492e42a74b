"""Which kind of system a name means, and how it is opened."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from emomm_study.systems.interface import System
from emomm_study.systems.named import Named

Open = Callable[..., System]

KINDS = {
    "qwen2_5_omni": "emomm_study.systems.omni:OmniModel",
    "qwen2_5_omni_thinker": "emomm_study.systems.omni:OmniModel",
    "vita-Qwen2": "emomm_study.systems.vita.adapter:VitaModel",
}
"""By the ``model_type`` of a checkpoint's ``config.json`` the class that opens it, by ``load``."""

PREFIXES = {
    "gemini": "emomm_study.systems.gemini:Gemini",
    "pretend": "emomm_study.systems.pretend:LocalApi",
}
"""By what stands before the colon of a name: systems that are no checkpoint, by ``load``."""

NO_MODEL = "(no model)"
"""Ends the names of stand-ins, which answer by a rule and have no place in a table of systems."""
DRIVER = "driver:"
"""Begins the name of a system in a second process: ``driver:videollama2?python=...&weights=...``."""


def model_type(name_or_path: str | Path) -> str:
    """``model_type`` of a folder's or a downloaded checkpoint's ``config.json``.

    Raises ``ValueError`` for a folder without that file, or a file without that entry.
    """
    path = Path(name_or_path)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(f"{path} has no config.json; expected a folder by save_pretrained")
    config, _ = PretrainedConfig.get_config_dict(str(name_or_path))
    if not (found := config.get("model_type")):
        raise ValueError(
            f"{name_or_path}: config.json names no model_type; known are {', '.join(KINDS)}"
        )
    return found


def load_system(
    name_or_path: str | Path,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    pixels: Sequence[int] | None = None,
    **options: Any,
) -> System:
    """Open a checkpoint by what its ``config.json`` says that it is.

    ``dtype`` is a torch dtype's name or ``auto``; ``pixels`` the least and the most pixels of a
    frame, for kinds that resize freely; ``options`` are the kind's own. Raises ``ValueError`` for a
    kind that is not in :data:`KINDS`, and as the kind does. ``gemini:MODEL_ID`` and others of
    :data:`PREFIXES` are no checkpoints, and take ``options`` alone. ``driver:NAME`` is a system in a
    second process (:mod:`emomm_study.systems.isolated.table`).
    """
    if str(name_or_path).startswith(DRIVER):
        from emomm_study.systems.isolated.table import open_driver

        return open_driver(Named(str(name_or_path), options), dtype=dtype, device=device)
    prefix, colon, name = str(name_or_path).partition(":")
    if colon and prefix in PREFIXES:
        return _class(PREFIXES[prefix]).load(name, **options)
    found = class_of(name_or_path)
    return found.load(name_or_path, dtype=dtype, device=device, pixels=pixels, **options)


def class_of(name_or_path: str | Path) -> Any:
    """The class that opens a checkpoint; raises ``ValueError`` as :func:`load_system`."""
    kind = model_type(name_or_path)
    if kind not in KINDS:
        raise ValueError(
            f"{name_or_path} is a {kind!r} model; known are {', '.join(KINDS)}. "
            "docs/add_a_backbone.md says how to add one"
        )
    return _class(KINDS[kind])


def _class(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def shown_name(named: Named) -> str:
    """What tables call a system: a checkpoint's name without folders or owner, a driver's title.

    Of a stand-in it ends in :data:`NO_MODEL`.
    """
    if named.path == "pretend:api":
        return f"local API {NO_MODEL}"
    if not named.path.startswith(DRIVER):
        return named.name.removeprefix("gemini:")
    from emomm_study.systems.isolated.table import driver_of

    return driver_of(named).title
