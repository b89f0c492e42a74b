"""Let torchvision, where it is installed, import beside a CPU build of torch.

The package index's torchvision is compiled against CUDA. Beside a CPU build of torch its compiled
operators do not load, and its import then fails on registering shapes for two of them, although
nothing here calls a compiled operator. Declaring the two makes the import succeed; calling them
still fails, as it should. Importing this module does it; import it before transformers.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

_SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []


def _ensure_importable() -> None:
    """Import torchvision; declare its missing operators first when that is what stops it."""
    if find_spec("torchvision") is None:
        return
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(_SCHEMA.format(name))
        _declared.append(library)
        import torchvision  # noqa: F401


_ensure_importable()
