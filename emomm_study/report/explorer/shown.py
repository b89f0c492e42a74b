"""What the explorer shows of one state: looks before and after, remarks, and printed numbers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from emomm_lib.chase.router import Router
from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.inspection import Inspection, Look
from emomm_study.report.explorer.state import BY_HAND, ExplorerState

KEPT = 4
"""Prompts that stay in memory, so that going back to one is quick."""


@dataclass(frozen=True)
class Opened:
    """A clip under a coalition, computed once.

    Attributes
    ----------
    tiles
        ``(t, h, w, 3)`` uint8 grey-toned frames, one for each step of the video's tokens; None
        without video.
    """

    clip: pd.Series
    seen: Inspection
    tiles: np.ndarray | None


@dataclass(frozen=True)
class Shown:
    """One state and what the model does in it.

    Attributes
    ----------
    before, after
        The unsteered and the steered model.
    remarks
        What a reader should know of this state: why nothing is steered, what was dealt out.
    """

    state: ExplorerState
    opened: Opened
    before: Look
    after: Look
    remarks: tuple[str, ...]

    @property
    def truth(self) -> int:
        """GT's class, 0..4."""
        return int(self.opened.clip["label_gt"])

    @property
    def present(self) -> np.ndarray:
        """``(3,)`` bool: T, A, V."""
        return self.opened.seen.counts > 0

    @property
    def title(self) -> str:
        """Clip, its labels and the coalition."""
        clip = self.opened.clip
        own = ", ".join(f"{m} {CLASSES[clip[f'label_{m.lower()}']]}" for m in MODALITIES)
        return f"{clip['sample_id']} under {self.state.coalition}: GT {CLASSES[self.truth]}, {own}"

    def heat(self) -> tuple[np.ndarray, np.ndarray]:
        """``(t, h, w)`` attention on the video's tokens before and after.

        Mean over heads of the layers from l_r on; ``ValueError`` without video.
        """
        first = self.state.config.first_layer - 1
        looks = (self.before, self.after)
        return tuple(self.opened.seen.on_video(x.rows[first:].mean((0, 1))) for x in looks)


class Explored:
    """An experiment's clips, opened when they are asked for, under any state.

    Parameters
    ----------
    clips
        Those of the manifest that can be chosen; ``sample_id`` does not repeat.
    routers
        By name; ``BY_HAND`` is taken.

    Raises ``ValueError`` for no clip, a repeated one, or a router of that name.
    """

    def __init__(
        self, bench: Experiment, clips: pd.DataFrame, routers: Mapping[str, Router]
    ) -> None:
        if clips.empty:
            raise ValueError("no clip to explore; give at least one row of the manifest")
        if (repeated := clips["sample_id"].duplicated()).any():
            raise ValueError(f"sample_id repeats: {clips.loc[repeated, 'sample_id'].tolist()[:5]}")
        if BY_HAND in routers:
            raise ValueError(f"a router cannot be called {BY_HAND!r}; rename it")
        self.bench, self.routers = bench, dict(routers)
        self.clips = clips.set_index("sample_id", drop=False)
        self.layers, self.heads = bench.model.layers, bench.model.heads
        self._opened: OrderedDict[tuple[str, str], Opened] = OrderedDict()
        # JupyterLab has a widget's messages answered in other threads than the one of the cells.
        self.lock = threading.RLock()

    def open(self, sample_id: str, coalition: str) -> Opened:
        """A prompt, computed where it is not among the last ones.

        Raises ``KeyError`` for an unknown clip, ``MediaError`` for files that cannot be read.
        """
        key = sample_id, coalition
        with self.lock:
            if key not in self._opened:
                clip = self.clips.loc[sample_id]
                seen = self.bench.inspect(clip, coalition)
                tiles = None if seen.grid is None else self._tiles(clip, seen.grid[0])
                self._opened[key] = Opened(clip, seen, tiles)
                while len(self._opened) > KEPT:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(key)
            return self._opened[key]

    def show(self, state: ExplorerState) -> Shown:
        """What the model does in a state: one decision token, once its prompt is open."""
        with self.lock:
            opened = self.open(state.sample_id, state.coalition)
            before = opened.seen.unsteered
            [after] = opened.seen.steered([state.column(self.routers)])
        return Shown(state, opened, before, after, self._remarks(state, opened, after))

    def _tiles(self, clip: pd.Series, steps: int) -> np.ndarray:
        frames = self.bench.frames(clip)
        # A step of the video's tokens covers several frames; the first of them stands for it.
        chosen = frames[np.arange(steps) * len(frames) // steps]
        side = 160 / max(chosen.shape[1:3])
        size = tuple(max(1, round(side * x)) for x in chosen.shape[2:0:-1])
        small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in chosen]
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small]
        return np.repeat(np.stack(grey)[..., None], 3, -1)

    def _remarks(self, state: ExplorerState, opened: Opened, after: Look) -> tuple[str, ...]:
        found, config, present = [], state.config, opened.seen.counts > 0
        names = [m for m, there in zip(MODALITIES, present, strict=True) if there]
        if len(names) < 2:
            what = f"only {names[0]}" if names else "no modality"
            found.append(f"The prompt has {what}: nothing to shift between modalities.")
        if state.gate == BY_HAND:
            trust = np.array(state.trust)
            if present.any() and not (trust * present).any():
                found.append("No trust in any modality that is there: counted as equal.")
            elif (lost := [m for m, g, p in zip(MODALITIES, trust, present, strict=True)
                           if g and not p]) and present.any():  # fmt: skip
                found.append(f"Trust in {', '.join(lost)} goes to the others: not in the prompt.")
        elif config.first_layer < self.routers[state.gate].first_layer:
            learned = self.routers[state.gate].first_layer
            found.append(f"This router was trained from layer {learned} on, and is asked earlier.")
        if not after.heads.any():
            if config.top_k == 0:
                found.append("No head is steered: K is 0.")
            elif present.any():
                found.append("No layer is steered: p never exceeds τ.")
        elif config.gamma == 0 and config.beta == 0:
            found.append("Heads are chosen, but γ and β are 0: no bias.")
        return tuple(found)


def numbers(shown: Shown, digits: int = 3) -> str:
    """Letters, and by layer p, g, steered heads and attention budgets, as plain text."""
    before, after = shown.before, shown.after
    letters = pd.DataFrame(
        {"before": before.letters, "after": after.letters}, index=list(CLASSES)
    ).T.map(f"{{:.{digits}f}}".format)
    letters.columns = [f"{n} (GT)" if k == shown.truth else n for k, n in enumerate(CLASSES)]
    answers = [CLASSES[look.label] for look in (before, after)]
    letters["answer"] = answers
    layers = pd.DataFrame({"layer": np.arange(1, len(after.conflict) + 1), "p": after.conflict})
    for name, values in (("g", after.gate), ("before", before.share), ("after", after.share)):
        for k, m in enumerate(MODALITIES):
            layers[f"{name} {m}"] = values[:, k]
    layers["heads"] = after.heads.sum(-1)
    text = layers.to_string(
        index=False,
        float_format=f"{{:.{digits}f}}".format,
        na_rep="-",
        formatters={"layer": "{:d}".format, "heads": "{:d}".format},
    )
    return f"{letters.to_string()}\n\n{text}"


def compared(explored: Explored, states: Mapping[str, ExplorerState]) -> pd.DataFrame:
    """Probabilities of the five classes, and ``answer``, in each state and unsteered.

    One row for each name, first ``unsteered``, which is that of the first state's prompt. Raises
    ``ValueError`` when the states are not all of one prompt.
    """
    if len({(state.sample_id, state.coalition) for state in states.values()}) != 1:
        raise ValueError("states of several prompts, or none; compare those of one")
    shown = {name: explored.show(state) for name, state in states.items()}
    looks = {"unsteered": next(iter(shown.values())).before}
    looks |= {name: each.after for name, each in shown.items()}
    letters = [look.letters for look in looks.values()]
    table = pd.DataFrame(letters, index=[*looks], columns=list(CLASSES))
    return table.assign(answer=[CLASSES[look.label] for look in looks.values()])
