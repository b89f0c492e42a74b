"""The explorer: what is done with its controls becomes a state, and a state becomes a picture."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from typing import get_args

import ipywidgets as widgets
import numpy as np
import pandas as pd

from emomm_lib.chase.equations import Preference, Rule, SteeringConfig
from emomm_lib.chase.router import Router
from emomm_lib.labels import CLASSES, COALITIONS
from emomm_study.evaluate.experiment import Experiment
from emomm_study.media.video import MediaError
from emomm_study.report.explorer.panel import ControlPanel, Event
from emomm_study.report.explorer.picture import picture
from emomm_study.report.explorer.player import player
from emomm_study.report.explorer.shown import Explored, numbers
from emomm_study.report.explorer.state import BY_HAND, HAND_CONTROLS, ExplorerState, controls

LISTED = 200
"""Clips that the list holds at once; the filters choose among all."""
ALL = "all"
PUBLISHED, CHANGED = "published values", "as set below"
_BOX = "background:white;color:#333;font:11px/1.35 DejaVu Sans Mono,monospace;margin:0"
_CODE = (
    "width:800px;box-sizing:border-box;padding:6px 8px;border:1px solid #bdbdbd;"
    "font:13px/1.3 DejaVu Sans Mono,monospace;background:white;color:#333"
)


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
        self._presets, self._seen = dict(presets), {"client": "", "seen": 0}
        self._refused: dict[str, str] = {}
        self._played: tuple[str, str] | None = None
        self._build()
        self.go(state)

    # What is shown

    def go(self, state: ExplorerState) -> None:
        """Show a state; a clip that cannot be opened is said, and nothing is shown of it."""
        with self.explored.lock:
            self._take(state)
            self._show()

    def act(self, *events: Event) -> None:
        """Do with the controls what a reader does, in this order, and draw once.

        A control is named as a field of the state or of its configuration; there are ``preset``,
        ``reset``, ``search`` and the filters' columns as well. What a control cannot be is said,
        and undoes nothing else.
        """
        with self.explored.lock:
            try:
                for name, value in events:
                    self._do(name, value)
            finally:
                self._show()

    def measure(self, moves: int = 50, seed: int = 0) -> pd.DataFrame:
        """Move sliders one after another, to random places, and time until all is drawn anew.

        From a slider's message to the last message to the browser. Every slider of the steering
        has its turn. Returns ``control, milliseconds``, and leaves all as it was.
        """
        rng, rows = np.random.default_rng(seed), []
        with self.explored.lock:
            before = self.state
            for number in range(moves):
                control = self._steering[number % len(self._steering)]
                steps = int(round((control.end - control.start) / control.step))
                value = round(control.start + control.step * int(rng.integers(steps + 1)), 9)
                if value == self.state.value(control.name):
                    value = control.start if value != control.start else control.end
                began = time.perf_counter()
                self.act((control.name, value))
                rows.append((control.symbol, 1000 * (time.perf_counter() - began)))
            self.go(before)
        return pd.DataFrame(rows, columns=["control", "milliseconds"])

    def _show(self) -> None:
        """The controls at once, and the picture where it is of another state."""
        self._show_controls()
        if self.shown is None or self.shown.state != self.state:
            self._draw()
        lines = [("#A11", f"{why}.") for why in self._refused.values()] + [self._verdict]
        self._remarks.value = "".join(
            f'<div style="color:{colour}">{escape(words)}</div>' for colour, words in lines
        )

    def _draw(self) -> None:
        state = self.state
        try:
            shown = self.explored.show(state)
            if self._played != (state.sample_id, state.coalition):
                self._panel.player = self._player()
                self._played = state.sample_id, state.coalition
        except Exception as error:
            # Whatever went wrong, no picture of another state stays beside these controls.
            self.shown = self._played = None
            self._panel.player = self._picture.value = self._numbers.value = ""
            self._title.value = escape(f"{state.sample_id} under {state.coalition}")
            self._code.value, self._remarks.value = "", ""
            if not isinstance(error, (MediaError, KeyError)):
                raise
            self._verdict = "#A11", str(error.args[0])
            return
        self.shown = shown
        self._title.value = f"<b>{escape(f'{self.explored.bench.name}, {shown.title}')}</b>"
        self._picture.value = picture(shown)
        self._numbers.value = f'<pre style="{_BOX}">{escape(numbers(shown))}</pre>'
        code = state.code()
        rows = code.count("\n") + 2
        self._code.value = (
            f'<textarea readonly rows="{rows}" style="{_CODE}" aria-label="code">'
            f"{escape(code)}</textarea>"
        )
        answers = [CLASSES[look.label] for look in (shown.before, shown.after)]
        verdict = f"Answers {answers[1]}, as before."
        if answers[0] != answers[1]:
            verdict = f"The answer moves from {answers[0]} to {answers[1]}."
        self._verdict = "#333", " ".join([verdict, *shown.remarks])

    def _player(self) -> str:
        clip = self.explored.clips.loc[self.state.sample_id]
        bench = self.explored.bench
        return player(clip, bench.roots, self.state.coalition, bench.media.audio)

    def _show_controls(self) -> None:
        state = self.state
        if state.sample_id not in self._listed:
            self._list(self._matches())
        known = [n for n, made in self._presets.items() if made == (state.gate, state.config)]
        values = {c.name: state.value(c.name) for c in (*self._steering, *HAND_CONTROLS)}
        values |= {name: getattr(state, name) for name in ("sample_id", "coalition", "gate")}
        values |= {name: getattr(state.config, name) for name in ("preference", "rule")}
        values |= {"preset": known[0] if known else CHANGED, **self._wanted}
        options = [(words, sample_id) for sample_id, words in self._listed.items()]
        self._panel.show(values, self._count, options, self._seen)

    # What is done

    def reset(self) -> None:
        """The published values and the first router, on the same clip."""
        self.act(("reset", None))

    @property
    def published(self) -> ExplorerState:
        """The clip that is shown, steered with the published values by the first router."""
        return self._from(PUBLISHED)

    def _from(self, name: str) -> ExplorerState:
        gate, config = self._presets[name]
        kept = {"sample_id": self.state.sample_id, "coalition": self.state.coalition}
        return ExplorerState(**kept, gate=gate, config=config)

    def _told(self, events: list[Event], seen: dict) -> None:
        """A batch from the browser, and the number of its last event."""
        with self.explored.lock:
            self._seen = seen
            self.act(*events)

    def _do(self, name: str, value: object) -> None:
        if name in self._wanted:
            self._wanted[name] = value
            found = self._matches()
            if len(found) and self.state.sample_id not in found.index:
                self.state = self.state.moved("sample_id", found.index[0])
            self._list(found)
        elif name == "reset":
            self._take(self.published)
        elif name == "preset":
            if value != CHANGED:
                self._take(self._from(value))
        else:
            self._move(name, value)

    def _take(self, state: ExplorerState) -> None:
        """A state as a whole: what was refused of the one before is of no interest."""
        self.state = state
        self._refused.clear()

    def _move(self, name: str, value: object) -> None:
        try:
            if control := self._numbered.get(name):
                value = control.number(value)
            state = self.state.moved(name, value)
            if state.config.first_layer > self.explored.layers:
                raise ValueError(f"the decoder has {self.explored.layers} layers; got {value}")
        except ValueError as error:
            symbol = control.symbol if control else name
            # Said until this control is set anew, whatever else is done meanwhile.
            self._refused[name] = f"{error}; {symbol} stays as it was"
            return
        self.state = state
        self._refused.pop(name, None)

    def _matches(self) -> pd.DataFrame:
        clips = self.explored.clips
        for name in self._filters:
            if self._wanted[name] != ALL:
                clips = clips[clips[name].astype(str) == self._wanted[name]]
        if wanted := self._wanted["search"].strip().lower():
            text = clips["sample_id"] + " " + clips["text"].fillna("")
            clips = clips[text.str.lower().str.contains(wanted, regex=False)]
        return clips

    def _list(self, found: pd.DataFrame) -> None:
        listed = found.head(LISTED)
        if self.state.sample_id not in listed.index:
            own = self.explored.clips.loc[[self.state.sample_id]]
            listed = pd.concat([own, listed])
        self._listed = {
            row.sample_id: f"{CLASSES[row.label_gt]} · {row.sample_id} · {row.text}"
            for row in listed.itertuples()
        }
        self._count = f"{len(found)} clips" if len(found) != 1 else "1 clip"
        if not len(found):
            self._count = "no clip matches; the one shown stays"
        elif len(found) > LISTED:
            self._count += f", the first {LISTED} listed: narrow the filters"

    # What it is made of

    def _build(self) -> None:
        explored = self.explored
        self._filters = {
            name: (ALL, *_values(explored, name))
            for name in ("corpus", "subset", "split")
            if name in explored.clips
        }
        self._wanted = {**dict.fromkeys(self._filters, ALL), "search": ""}
        self._list(self._matches())
        self._steering = controls(explored.layers, explored.heads)
        self._numbered = {c.name: c for c in (*self._steering, *HAND_CONTROLS)}
        menus = {
            "coalition": COALITIONS[::-1], "gate": (*explored.routers, BY_HAND),
            "preset": (*self._presets, CHANGED), "preference": get_args(Preference),
            "rule": get_args(Rule),
        }  # fmt: skip
        self._panel = ControlPanel(
            filters=self._filters, menus=menus, steering=self._steering, hand=HAND_CONTROLS,
            told=self._told,
        )  # fmt: skip
        self._title, self._picture = _box("title"), _box("picture")
        self._remarks, self._numbers, self._code = _box("remarks"), _box("numbers"), _box("code")
        above = widgets.HTML('<b style="color:#555">The same as code, for a cell below</b>')
        right = [self._title, self._picture, self._remarks, self._numbers, above, self._code]
        wide = widgets.Layout(width="820px", overflow="hidden", margin="0 0 0 16px")
        self.children = [self._panel, widgets.VBox(right, layout=wide)]
        self.add_class("emomm-explorer")


def _box(name: str) -> widgets.HTML:
    box = widgets.HTML()
    box.add_class(f"emomm-{name}")
    return box


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
