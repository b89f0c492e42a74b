"""In which formats figures are written: PNG, and SVG and PDF where they are asked for."""

from __future__ import annotations

import os

FORMATS = ("png", "svg", "pdf")
DEFAULT = "png,svg"
VARIABLE = "EMOMM_FIGURE_FORMATS"
"""How ``./run_all.sh --formats`` reaches the notebooks' kernels."""


def figure_formats(text: str | None = None) -> tuple[str, ...]:
    """The formats that a text names, in order: ``figure_formats("pdf,png") == ("png", "pdf")``.

    Without a text those of ``$EMOMM_FIGURE_FORMATS``, else :data:`DEFAULT`. Raises ``ValueError``
    for a format that there is not, and where PNG, which every figure has, is left out.
    """
    text = text or os.environ.get(VARIABLE) or DEFAULT
    names = {name.strip() for name in text.split(",")}
    if "png" not in names or names - set(FORMATS):
        raise ValueError(
            f"formats of figures (--formats or {VARIABLE}): expected png, with svg or pdf after a "
            f"comma where they are wanted, as in png,svg,pdf; got {text!r}"
        )
    return tuple(name for name in FORMATS if name in names)
