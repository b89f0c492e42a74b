"""Whether the text of a figure can be read: none is cut off, and none lies on another."""

from __future__ import annotations

from itertools import combinations

from matplotlib.figure import Figure
from matplotlib.text import Text

from emomm_study.report.publish import stamp


def texts(fig: Figure) -> list[Text]:
    """Texts that are drawn, less the figure's title, whose empty second line holds the profile."""
    found = [*fig.texts, *(text for legend in fig.legends for text in legend.get_texts())]
    found.remove(fig._suptitle)
    for ax in fig.axes:
        found += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        found += ax.get_legend().get_texts() if ax.get_legend() else []
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def profiled(fig: Figure) -> Figure:
    """The figure as it is published under the profile mini, which it has to name once."""
    stamp(fig, "profile: mini")
    assert sum(text.get_text().startswith("profile: mini  |  ") for text in fig.texts) == 1
    return fig


def assert_legible(fig: Figure, least: int = 10) -> None:
    """Fail unless more than ``least`` texts of the published figure lie inside it and apart."""
    profiled(fig)
    fig.canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent(fig.canvas.get_renderer())) for t in texts(fig)]
    assert len(boxes) > least
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= fig.bbox.x1 and box.y1 <= fig.bbox.y1, text
    for (one, box), (two, other) in combinations(boxes, 2):
        assert not box.overlaps(other), (one, two)
