"""A router's folder: its configuration as JSON, its weights as safetensors, a card; no pickles."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from emomm_lib.chase.equations import Preference

Inputs = Literal["layer", "embedded"]
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_CARD = """\
---
library_name: emomm_lib
tags:
- multimodal
- emotion-recognition
- attention-steering
---

# Conflict detection router (CHASE)

Reads a decoder's states before its answer, and says by layer how likely the modalities of a clip contradict
each other (p, Eq. 7 of the EmoMM paper) and how far text, audio and video can be trusted (g, Eq. 8).
It is of use to the very model that it was trained on, and to no other.

| | |
|---|---|
| decoder | {layers} layers of size {state_size} |
| fingerprint of its weights | `{fingerprint}` |
| first layer | {first_layer} |
| inputs | {inputs} |
| preference of heads (Eq. 6) | {preference_kind} |
| hidden size | {hidden} |
| parameters | {parameters:,} |

```python
from emomm_lib import Router, SteeringConfig, steer

router = Router.from_pretrained("{name}")
config = SteeringConfig.at_published_depth({layers})
with steer(model, router, config, modality_ids):
    model(**inputs)
```

On which clips it was trained, how well it reads others, and under which terms it may be passed on: whoever passes
it on adds it here.
"""


def _whole(least: int) -> Callable[[Any], bool]:
    # Of JSON's true and false Python makes numbers.
    return lambda value: type(value) is int and value >= least


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "state_size": (_whole(1), "a whole number of at least 1"),
    "layers": (_whole(1), "a whole number of at least 1"),
    "fingerprint": (lambda value: isinstance(value, str), "a text"),
    "first_layer": (_whole(1), "a whole number of at least 1"),
    "hidden": (_whole(0), "a whole number of at least 0"),
    "preference_kind": (
        lambda value: value in get_args(Preference),
        f"one of {get_args(Preference)}",
    ),
    "inputs": (lambda value: value in get_args(Inputs), f"one of {get_args(Inputs)}"),
}
"""What stands in a configuration: whether a value will do, and in words."""


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a router's three files; the card from what stands in the others."""
    folder.mkdir(parents=True, exist_ok=True)
    count = sum(t.numel() for name, t in tensors.items() if name not in ("mean", "scale"))
    card = _CARD.format(**config, parameters=count, name=folder.name)
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, folder / WEIGHTS)


def find_files(source: str | Path, revision: str | None) -> tuple[Path, Path]:
    """Configuration and weights in a folder, or of a hub id; raises ``FileNotFoundError``."""
    folder = Path(source)
    if folder.is_dir() or not (isinstance(source, str) and _HUB_ID.fullmatch(source)):
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} has no {name}; expected a folder by save_pretrained, or a hub id, "
                    "owner/name"
                )
        return folder / CONFIG, folder / WEIGHTS
    # Nobody who keeps routers on disk needs it, and it reads the environment when imported.
    from huggingface_hub import hf_hub_download

    try:
        config, weights = (
            Path(hf_hub_download(source, name, revision=revision)) for name in (CONFIG, WEIGHTS)
        )
    except (OSError, ValueError) as error:
        said = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise FileNotFoundError(
            f"{source} is no folder here, and the hub gives no {CONFIG} and {WEIGHTS} of that name "
            f"({said[0]}); check the name, the connection and your access"
        ) from error
    return config, weights


def read_config(path: Path) -> dict[str, Any]:
    """A router's configuration; ``ValueError`` that names the file, the key and what is expected."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: it is no JSON ({error}); get the whole file again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected an object with {', '.join(FIELDS)}")
    for name in [*FIELDS, *config]:
        if name not in config:
            raise ValueError(f"{path}: {name} is missing; is this a router's folder?")
        if name not in FIELDS:
            raise ValueError(f"{path}: {name} is unknown; a router has {', '.join(FIELDS)}")
        fits, expected = FIELDS[name]
        if not fits(config[name]):
            raise ValueError(f"{path}: {name} is {config[name]!r}, expected {expected}")
    if config["first_layer"] > config["layers"]:
        raise ValueError(
            f"{path}: first_layer is {config['first_layer']}, expected at most layers, "
            f"{config['layers']}"
        )
    return config


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A router's tensors, on the CPU; ``ValueError`` that names the file and the tensor.

    ``expected`` has the shapes, and may be on ``meta``.
    """
    try:
        # Copied, since where a tensor begins in a file decides by which kernel it is multiplied.
        tensors = {name: value.clone() for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: it is no safetensors file ({error}); get the whole file again"
        ) from error
    for name in [*expected, *tensors]:
        if name not in tensors:
            raise ValueError(f"{path}: {name} is missing; its {CONFIG} is of another router")
        if name not in expected:
            raise ValueError(f"{path}: {name} is unknown; its {CONFIG} is of another router")
        found, shape = tensors[name], tuple(expected[name].shape)
        if tuple(found.shape) != shape:
            raise ValueError(
                f"{path}: {name} has the shape {tuple(found.shape)}, expected {shape} by its {CONFIG}"
            )
        if not found.is_floating_point() or not found.isfinite().all():
            raise ValueError(f"{path}: {name} is not of finite floating-point numbers")
    return tensors
