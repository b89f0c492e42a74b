"""The explorer's widgets: what they are set to becomes a state, and a state becomes a picture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from html import escape

import ipywidgets as widgets
import numpy as np
import pandas as pd

from emomm_lib.chase.router import Router
from emomm_lib.chase.steering import Preference, Rule, SteeringConfig
from emomm_lib.evaluate.experiment import Experiment
from emomm_lib.labels import CLASSES, COALITIONS
from emomm_lib.media.video import MediaError
from emomm_lib.report.explorer.parts import Row, heading, labelled
from emomm_lib.report.explorer.picture import picture
from emomm_lib.report.explorer.player import player
from emomm_lib.report.explorer.shown import Explored, numbers
from emomm_lib.report.explorer.state import (
    BY_HAND,
    HAND_CONTROLS,
    Control,
    ExplorerState,
    controls,
)
from emomm_lib.report.style import COLOURS

LISTED = 200
"""Clips that the list holds at once; the filters choose among all."""
ALL = "all"
PUBLISHED, CHANGED = "published values", "as set below"
_LEFT = 350
_BOX = "background:white;color:#333;font:11px/1.35 DejaVu Sans Mono,monospace;margin:0"


class Explorer(widgets.HBox):
    """The widget; :func:`explore` makes one.

    Attributes
    ----------
    state
        What is shown, or was last where a clip could not be opened.
    shown
        The looks behind the picture; None where a clip could not be opened.
    """

    def __init__(
        self,
        explored: Explored,
        state: ExplorerState,
        presets: Mapping[str, tuple[str, SteeringConfig]],
    ) -> None:
        super().__init__()
        self.explored, self.state, self.shown = explored, state, None
        self._presets, self._quiet = dict(presets), False
        self._build()
        self.go(state)

    # What is shown

    def go(self, state: ExplorerState) -> None:
        """Show a state; a clip that cannot be opened is said, and nothing is shown of it."""
        opened = self.shown and (self.state.sample_id, self.state.coalition)
        self.state = state
        with self._silently():
            self._mirror()
        try:
            shown = self.explored.show(state)
            if opened != (state.sample_id, state.coalition):
                self._player.value = self._played()
        except (MediaError, KeyError) as error:
            self.shown = None
            self._player.value = self._picture.value = self._numbers.value = ""
            self._title.value = escape(f"{state.sample_id} under {state.coalition}")
            self._code.value = ""
            self._say(error, bad=True)
            return
        self.shown = shown
        self._title.value = f"<b>{escape(f'{self.explored.bench.name}, {shown.title}')}</b>"
        self._picture.value = picture(shown)
        self._numbers.value = f'<pre style="{_BOX}">{escape(numbers(shown))}</pre>'
        self._code.value = state.code()
        self._code.rows = state.code().count("\n") + 2
        answers = [CLASSES[look.label] for look in (shown.before, shown.after)]
        verdict = f"Answers {answers[1]}, as before."
        if answers[0] != answers[1]:
            verdict = f"The answer moves from {answers[0]} to {answers[1]}."
        self._say(" ".join([verdict, *shown.remarks]))

    def _say(self, words: object, *, bad: bool = False) -> None:
        colour = "#A11" if bad else "#333"
        words = words.args[0] if isinstance(words, Exception) else words
        self._remarks.value = f'<span style="color:{colour}">{escape(str(words))}</span>'

    def _played(self) -> str:
        clip = self.explored.clips.loc[self.state.sample_id]
        bench = self.explored.bench
        return player(clip, bench.roots, self.state.coalition, bench.media.audio)

    def measure(self, moves: int = 50, seed: int = 0) -> pd.DataFrame:
        """Move sliders one after another, to random places, and time until all is drawn anew.

        From the slider's value in Python to the last message to the browser. Every slider of the
        steering has its turn. Returns ``control, milliseconds``, and leaves all as it was.
        """
        before, rng = self.state, np.random.default_rng(seed)
        rows = []
        for number in range(moves):
            row = self._steering[number % len(self._steering)]
            slider = row.slider
            steps = int(round((slider.max - slider.min) / slider.step))
            value = slider.min + slider.step * int(rng.integers(steps + 1))
            if value == slider.value:
                value = slider.min if value != slider.min else slider.max
            began = time.perf_counter()
            slider.value = value
            rows.append((row.control.symbol, 1000 * (time.perf_counter() - began)))
        self.go(before)
        return pd.DataFrame(rows, columns=["control", "milliseconds"])

    # What is done

    def reset(self) -> None:
        """The published values and the first router, on the same clip."""
        self.go(self.published)

    @property
    def published(self) -> ExplorerState:
        """The clip that is shown, steered with the published values by the first router."""
        return self._from(PUBLISHED)

    def _from(self, name: str) -> ExplorerState:
        gate, config = self._presets[name]
        kept = {"sample_id": self.state.sample_id, "coalition": self.state.coalition}
        return ExplorerState(**kept, gate=gate, config=config)

    def _started(self, change: dict) -> None:
        if self._quiet:
            return
        if change["new"] == CHANGED:
            self.go(self.state)
        else:
            self.go(self._from(change["new"]))

    def _moved(self, control: Control, change: dict) -> None:
        value = change["new"]
        if self._quiet:
            return
        # A slider's steps add up with an error in the last bits.
        value = int(value) if control.whole else round(value, 9)
        self._try(control.name, value, f"{control.symbol} stays as it was")

    def _try(self, name: str, value: object, otherwise: str) -> None:
        try:
            state = self.state.moved(name, value)
            if state.config.first_layer > self.explored.layers:
                raise ValueError(f"the decoder has {self.explored.layers} layers; got {value}")
        except ValueError as error:
            with self._silently():
                self._mirror()
            self._say(f"{error}; {otherwise}.", bad=True)
            return
        self.go(state)

    def _chosen(self, name: str, change: dict) -> None:
        if not self._quiet and change["new"] is not None:
            self.go(self.state.moved(name, change["new"]))

    def _filtered(self, _: dict) -> None:
        if self._quiet:
            return
        found = self._matches()
        if len(found) and self.state.sample_id not in found.index:
            self.go(self.state.moved("sample_id", found.index[0]))
        with self._silently():
            self._list(found)

    def _matches(self) -> pd.DataFrame:
        clips = self.explored.clips
        for name, menu in self._filters.items():
            if menu.value != ALL:
                clips = clips[clips[name] == menu.value]
        if wanted := self._search.value.strip().lower():
            text = clips["sample_id"] + " " + clips["text"].fillna("")
            clips = clips[text.str.lower().str.contains(wanted, regex=False)]
        return clips

    def _list(self, found: pd.DataFrame) -> None:
        listed = found.head(LISTED)
        if self.state.sample_id not in listed.index:
            own = self.explored.clips.loc[[self.state.sample_id]]
            listed = pd.concat([own, listed])
        options = [
            (f"{CLASSES[row.label_gt]} · {row.sample_id} · {row.text}", row.sample_id)
            for row in listed.itertuples()
        ]
        self._clip.options = options
        self._clip.value = self.state.sample_id
        count = f"{len(found)} clips" if len(found) != 1 else "1 clip"
        if not len(found):
            count = "no clip matches; the one shown stays"
        elif len(found) > LISTED:
            count += f", the first {LISTED} listed: narrow the filters"
        self._count.value = f'<span style="color:#666">{count}</span>'

    @contextmanager
    def _silently(self) -> Iterator[None]:
        """Set widgets without taking it for something the reader did."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _mirror(self) -> None:
        state = self.state
        for row in (*self._steering, *self._hand):
            row.mirror(state.value(row.control.name))
        if state.sample_id not in dict(self._clip.options).values():
            self._list(self._matches())
        self._clip.value, self._coalition.value = state.sample_id, state.coalition
        self._gate.value = state.gate
        known = [n for n, made in self._presets.items() if made == (state.gate, state.config)]
        self._preset.value = known[0] if known else CHANGED
        self._preference.value, self._rule.value = state.config.preference, state.config.rule
        self._by_hand.layout.display = None if state.gate == BY_HAND else "none"

    # What it is made of

    def _build(self) -> None:
        explored, state = self.explored, self.state
        whole = widgets.Layout(width=f"{_LEFT - 6}px")
        third = widgets.Layout(width=f"{(_LEFT - 6) // 3 - 4}px")
        self._filters = {
            name: widgets.Dropdown(
                options=[(f"{name}: {value}", value) for value in (ALL, *_values(explored, name))],
                value=ALL, layout=third,
            )
            for name in ("corpus", "subset", "split")
            if name in explored.clips
        }  # fmt: skip
        self._search = widgets.Text(placeholder="search id or transcript", layout=whole)
        self._search.add_class("emomm-search")
        self._clip = widgets.Dropdown(layout=whole)
        self._clip.add_class("emomm-clip")
        self._count, self._player = widgets.HTML(), widgets.HTML()
        self._coalition = self._menu("coalition", COALITIONS[::-1], state.coalition)
        self._gate = self._menu("gate", (*explored.routers, BY_HAND), state.gate)
        self._preference = self._menu("preference", Preference.__args__, state.config.preference)
        self._rule = self._menu("rule", Rule.__args__, state.config.rule)
        self._preset = self._menu("preset", (*self._presets, CHANGED), CHANGED)
        self._preset.layout.width = "178px"
        reset = widgets.Button(description="Reset", tooltip="the published values")
        reset.layout.width = "78px"
        reset.add_class("emomm-reset")
        self._steering = [
            Row(c, state.value(c.name)) for c in controls(explored.layers, explored.heads)
        ]
        self._hand = [Row(c, state.value(c.name)) for c in HAND_CONTROLS]
        for row, m in zip(self._hand[1:], "tav", strict=True):
            row.slider.style.handle_color = COLOURS[m]
        self._by_hand = widgets.VBox([row.box for row in self._hand])
        self._title, self._picture = widgets.HTML(), widgets.HTML()
        self._remarks, self._numbers = widgets.HTML(), widgets.HTML()
        self._title.add_class("emomm-title")
        self._picture.add_class("emomm-picture")
        self._numbers.add_class("emomm-numbers")
        self._remarks.add_class("emomm-remarks")
        self._code = widgets.Textarea(rows=16, layout=widgets.Layout(width="800px"))
        self._code.add_class("emomm-code")
        with self._silently():
            self._list(self._matches())
        self._listen(reset)
        plain = widgets.Layout(width=f"{_LEFT}px", overflow="hidden")
        left = [
            heading("Clip"), widgets.HBox([*self._filters.values()]), self._search, self._clip,
            self._count, labelled("modalities", self._coalition), self._player,
            heading("Steering"), labelled("start from", self._preset, reset),
            labelled("gate", self._gate), self._by_hand,
            *(row.box for row in self._steering), labelled("preference", self._preference),
            labelled("rule", self._rule),
        ]  # fmt: skip
        right = [
            self._title, self._picture, self._remarks, self._numbers,
            heading("The same as code, for a cell below"), self._code,
        ]  # fmt: skip
        self.children = [
            widgets.VBox(left, layout=plain),
            widgets.VBox(
                right, layout=widgets.Layout(width="820px", overflow="hidden", margin="0 0 0 16px")
            ),
        ]
        self.add_class("emomm-explorer")

    @staticmethod
    def _menu(name: str, options: tuple[str, ...], value: str) -> widgets.Dropdown:
        menu = widgets.Dropdown(options=options, value=value, layout=widgets.Layout(width="258px"))
        menu.add_class(f"emomm-{name}")
        return menu

    def _listen(self, reset: widgets.Button) -> None:
        for row in (*self._steering, *self._hand):
            for source in (row.slider, row.field):
                source.observe(partial(self._moved, row.control), "value")
        chosen = {
            "sample_id": self._clip, "coalition": self._coalition, "gate": self._gate,
            "preference": self._preference, "rule": self._rule,
        }  # fmt: skip
        for name, menu in chosen.items():
            menu.observe(partial(self._chosen, name), "value")
        for menu in (*self._filters.values(), self._search):
            menu.observe(self._filtered, "value")
        self._preset.observe(self._started, "value")
        reset.on_click(lambda _: self.reset())


def _values(explored: Explored, name: str) -> list[str]:
    return [str(value) for value in sorted(explored.clips[name].dropna().unique())]


def explore(
    bench: Experiment,
    clips: pd.DataFrame,
    routers: Mapping[str, Router],
    *,
    presets: Mapping[str, tuple[str, SteeringConfig]] | None = None,
    sample_id: str | None = None,
    coalition: str = "TAV",
    start: str = PUBLISHED,
) -> Explorer:
    """A widget that steers one clip at a time, by sliders.

    Parameters
    ----------
    clips
        Rows of ``bench.clips`` to choose from.
    routers
        By the name that the menu shows; the first is the published one.
    presets
        More places to start from than the published values: a router's name (or ``BY_HAND``) and
        a configuration.
    sample_id, coalition, start
        What is shown first; the first clip when None, and the name of a preset.

    Raises ``ValueError`` as :class:`Explored`, and ``KeyError`` for a preset of an unknown router,
    an unknown clip or an unknown start.
    """
    explored = Explored(bench, clips, routers)
    published = SteeringConfig.at_published_depth(explored.layers)
    gate = next(iter(routers), BY_HAND)
    known = {PUBLISHED: (gate, published), **(presets or {})}
    for name, (router, _) in known.items():
        if router not in (*routers, BY_HAND):
            raise KeyError(f"{name!r} has router {router!r}; there are {[*routers]}")
    if start not in known:
        raise KeyError(f"there is no preset {start!r}; there are {[*known]}")
    sample_id = explored.clips.index[0] if sample_id is None else sample_id
    if sample_id not in explored.clips.index:
        raise KeyError(f"there is no clip {sample_id!r} among the {len(explored.clips)} given")
    gate, config = known[start]
    state = ExplorerState(sample_id=sample_id, coalition=coalition, gate=gate, config=config)
    return Explorer(explored, state, known)
