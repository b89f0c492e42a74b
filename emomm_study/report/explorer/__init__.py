"""The steering explorer: one clip, every control, and what the model does with them."""

from emomm_study.report.explorer.figure import explorer_figure
from emomm_study.report.explorer.shown import Explored, Shown, compared, numbers
from emomm_study.report.explorer.state import BY_HAND, Control, ExplorerState, controls
from emomm_study.report.explorer.widget import PUBLISHED, Explorer, explore

__all__ = [
    "BY_HAND", "PUBLISHED", "Control", "Explored", "Explorer", "ExplorerState", "Shown",
    "compared", "controls", "explore", "explorer_figure", "numbers",
]  # fmt: skip
