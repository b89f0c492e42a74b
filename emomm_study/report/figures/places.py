"""Where in the picture attention on video lies, by layer (Sec. 4.3)."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emomm_study.report.figures.parts import band, dots, layer_axis, line_entry
from emomm_study.report.frames import need
from emomm_study.report.style import COLOURS, INK, context, titled

_LINES = {"face": ("#0F5F46", "-"), "person": (COLOURS["v"], "--"), "spread": (INK, "-")}


def _line(ax: Axes, rows: pd.DataFrame, quantity: str) -> None:
    line = rows[rows["quantity"] == quantity].sort_values("layer")
    if line.empty:
        raise ValueError(f"dispersion: no row of {quantity!r}")
    colour, dash = _LINES[quantity]
    band(ax, line["layer"], line, colour)
    ax.plot(line["layer"], line["value"], color=colour, ls=dash, lw=1.6, marker=dots(line), ms=3.5)


def dispersion_figure(dispersion: pd.DataFrame) -> Figure:
    """Attention on face and person over their share of the picture, and its spread, by layer.

    ``dispersion`` has ``quantity, layer, value, low, high, n`` as by
    :func:`emomm_study.evaluate.dispersion.dispersion_frame` for one subset. Raises ``ValueError``
    that names a missing column or quantity, and for several subsets.
    """
    need(dispersion, "dispersion", "quantity", "layer", "value", "low", "high", "n")
    if dispersion.duplicated(["quantity", "layer"]).any():
        raise ValueError("dispersion: a layer twice; pass the rows of one subset")
    with context():
        fig, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
        for quantity in ("face", "person"):
            _line(left, dispersion, quantity)
        left.axhline(1, color=INK, ls=":", lw=1)
        left.set_ylim(0, None)
        left.set_ylabel("share of attention / share of picture")
        left.set_title("on face and person")
        _line(right, dispersion, "spread")
        right.axhline(1, color=INK, ls=":", lw=1)
        right.set_ylim(0, 1.05)
        right.set_ylabel("entropy / that of an even spread")
        right.set_title("spread over the tokens")
        for ax in (left, right):
            layer_axis(ax, int(dispersion["layer"].max()))
        handles = [line_entry(name, *_LINES[name], lw=1.6) for name in ("face", "person")]
        handles.append(line_entry("blind to place, or even", INK, ":", lw=1))
        fig.legend(handles=handles, loc="outside lower center", ncols=3)
        below = f"{int(dispersion['n'].max()):,} clips, 95% intervals over clips"
        titled(fig, "Where attention on video lies", below)
    return fig
