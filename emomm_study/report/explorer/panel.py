"""The explorer's controls in the browser, and the one ordered stream of what is done to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import anywidget
import traitlets

from emomm_study.report.explorer.state import BY_HAND, Control
from emomm_study.report.style import COLOURS

Event = tuple[str, object]
"""A control's name and the value that it was given; ``("reset", None)``."""


class ControlPanel(anywidget.AnyWidget):
    """Filters, menus, sliders and number fields.

    The browser sends what is done in the order in which it was done, one batch at a time, and
    numbers it. The values that go back name the last number they include: a control that has been
    moved since keeps what the reader gave it.
    """

    _esm = Path(__file__).with_name("panel.js")
    _css = Path(__file__).with_name("panel.css")
    form = traitlets.Dict().tag(sync=True)
    face = traitlets.Dict().tag(sync=True)
    clips = traitlets.List().tag(sync=True)
    player = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        *,
        filters: Mapping[str, Sequence[str]],
        menus: Mapping[str, Iterable[str]],
        steering: Iterable[Control],
        hand: Iterable[Control],
        told: Callable[[list[Event], dict], None],
    ) -> None:
        options = {name: [(f"{name}: {v}", v) for v in values] for name, values in filters.items()}
        options |= {name: [(v, v) for v in values] for name, values in menus.items()}
        super().__init__(
            form={
                "filters": [*filters], "menus": options, "by_hand": BY_HAND,
                "steering": [_row(c) for c in steering], "hand": [_row(c) for c in hand],
            }
        )  # fmt: skip
        self.on_msg(lambda _, content, __: told(content.pop("events"), content))

    def show(
        self, values: Mapping[str, object], count: str, clips: Iterable[Event], seen: dict
    ) -> None:
        """Values by control, how many clips match, those listed, and the last number included."""
        with self.hold_sync():
            self.clips = [[*option] for option in clips]
            self.face = {**seen, "values": dict(values), "count": count}


def _row(control: Control) -> dict[str, object]:
    found = {name: getattr(control, name) for name in ("name", "symbol", "tip", "end", "step")}
    colour = COLOURS[control.name[-1]] if control.name.startswith("trust_") else None
    return {**found, "low": control.start, "colour": colour}
