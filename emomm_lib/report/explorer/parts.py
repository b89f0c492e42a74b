"""Pieces of the explorer: a control with slider and number field, labels, headings."""

from __future__ import annotations

from html import escape

import ipywidgets as widgets

from emomm_lib.report.explorer.state import SMALLEST, Control


class Row:
    """A control's slider and number field, side by side, which show the same value."""

    def __init__(self, control: Control, value: float) -> None:
        self.control = control
        slider, field = (
            (widgets.IntSlider, widgets.IntText)
            if control.whole
            else (widgets.FloatSlider, widgets.FloatText)
        )
        low = control.step if control.low == SMALLEST else control.low
        wide = widgets.Layout(width="188px")
        # A widget sends its newest value when the kernel has answered the one before, so that
        # dragging shows no answer twice and none late.
        self.slider = slider(
            value=value, min=low, max=max(control.end, value), step=control.step, readout=False,
            layout=wide,
        )  # fmt: skip
        self.field = field(value=value, step=control.step, layout=widgets.Layout(width="68px"))
        label = label_of(control.symbol)
        label.tooltip = self.slider.tooltip = control.tip
        self.slider.add_class(f"emomm-{control.name}")
        self.field.add_class(f"emomm-{control.name}-field")
        self.box = widgets.HBox([label, self.slider, self.field])

    def mirror(self, value: float) -> None:
        """Show a value, beyond the slider's ends too."""
        self.slider.min, self.slider.max = (
            min(self.slider.min, value), max(self.slider.max, value)
        )  # fmt: skip
        self.slider.value = self.field.value = value


def label_of(words: str) -> widgets.Label:
    """What stands before a control."""
    return widgets.Label(words, layout=widgets.Layout(width="76px"))


def labelled(words: str, *beside: widgets.Widget) -> widgets.HBox:
    """Widgets in a row behind a label."""
    return widgets.HBox([label_of(words), *beside])


def heading(words: str) -> widgets.HTML:
    """Of a group of controls."""
    return widgets.HTML(f'<b style="color:#555">{escape(words)}</b>')
