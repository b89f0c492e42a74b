"""The annotation panel's kernel side: what the store says is next goes out, answers come in.

Text, sound and film travel as messages, never as the widget's state: a notebook that is saved,
with its widgets' state or without, holds nothing of a clip.
"""

from __future__ import annotations

import threading
from pathlib import Path

import anywidget
import numpy as np
import pandas as pd

from emomm_lib.labels import MODALITIES
from emomm_study.annotation.campaign import (
    ANNOTATION,
    CALIBRATION,
    VOTE_NAMES,
    Answer,
    Campaign,
    CampaignError,
    Task,
)
from emomm_study.media.playback import FILM, SOUND, film, sound
from emomm_study.media.video import MediaError
from emomm_study.paths import resolve_media
from emomm_study.report.annotating.guideline import (
    CALIBRATING,
    CONFIDENTIAL,
    GUIDELINE,
    NAMES,
    ONE_PASS,
)

COLUMNS = ("sample_id", "text", "video_path", "audio_path")


class AnnotationPanel(anywidget.AnyWidget):
    """The widget; :func:`annotate` makes one.

    Every screen has a number, and what the browser sends names the number that it is about: what
    was meant for another screen is dropped.
    """

    _esm = Path(__file__).with_name("panel.js")
    _css = Path(__file__).with_name("panel.css")

    def __init__(self, campaign: Campaign, clips: pd.DataFrame, root: Path, annotator: str) -> None:
        super().__init__()
        self._campaign, self._clips, self._root = campaign, clips, root
        self._annotator = annotator
        self._number, self._screen, self._bytes = 0, {}, []
        self._shown: Task | None = None
        # JupyterLab may have messages of one widget answered in two threads.
        self._lock = threading.Lock()
        self.on_msg(self._heard)
        self._pause()

    # From the browser

    def _heard(self, _: object, content: dict, __: object) -> None:
        with self._lock:
            self._told(content)

    def _told(self, content: dict) -> None:
        kind = content.get("kind")
        if kind == "ready" or content.get("number") != self._number:
            # A view that has just been drawn, or one that has missed something.
            self._redraw()
            return
        try:
            if kind == "answer":
                self._answered(content.get("label"))
            elif kind == "next":
                self._next()
            elif kind == "back":
                self._back()
            elif kind == "skip":
                self._skipped()
        except CampaignError as error:
            self._say(str(error))

    def _answered(self, label: object) -> None:
        if (task := self._due()) is None:
            return
        answer = Answer(self._annotator, task.modality, task.seq, label, task.phase)
        self._campaign.record([answer])
        if task.phase == CALIBRATION:
            self._feedback(task, label)
        else:
            self._next()

    def _back(self) -> None:
        found = self._campaign.previous(self._annotator, self._shown)
        if found is None:
            self._say("There is nothing to go back to in this pass.")
        else:
            self._item(found)

    def _skipped(self) -> None:
        if (task := self._due()) is None:
            return
        if task.label is None:
            self._campaign.set_aside(task)
        self._next()

    def _due(self) -> Task | None:
        """The task on the screen; None, and the screen put right, where it is not to be judged."""
        task = self._shown
        if task is None:
            self._redraw()
        elif task.label is not None or not self._elsewhere(task):
            return task
        return None

    def _elsewhere(self, task: Task) -> bool:
        """Whether another panel has moved on; then what is next is shown instead."""
        if self._campaign.task(self._annotator) == task:
            return False
        self._next(f"Seq {task.seq} was answered in another panel, and nothing was recorded here.")
        return True

    # To the browser

    def _next(self, remark: str = "") -> None:
        task, before = self._campaign.task(self._annotator), self._screen.get("pass")
        if task is None or before != [task.phase, task.modality]:
            self._pause(remark)
        else:
            self._item(task, remark)

    def _item(self, task: Task, remark: str = "") -> None:
        self._shown = task
        screen = {
            "screen": "item", "pass": [task.phase, task.modality], "title": self._title(task),
            "modality": task.modality, "seq": task.seq, "done": task.done, "total": task.total,
            "guideline": GUIDELINE[task.modality], "label": task.label, "remark": remark,
        }  # fmt: skip
        try:
            opened, data = self._opened(task)
        except (MediaError, ValueError) as error:
            opened, data = {"failed": f"This clip cannot be opened. {error}"}, []
        self._show({**screen, **opened}, data)

    def _opened(self, task: Task) -> tuple[dict, list[bytes]]:
        """The modality under judgement, and nothing of the others."""
        clip = self._clips.loc[task.sample_id]
        if task.modality == "T":
            if not isinstance(clip["text"], str) or not clip["text"].strip():
                raise MediaError(f"{task.sample_id}: there is no transcript")
            return {"text": clip["text"], "language": str(clip.get("language", ""))}, []
        if task.modality == "A":
            data = sound(resolve_media(self._root, clip["audio_path"]))
            return {"media": SOUND}, [data]
        data = film(resolve_media(self._root, clip["video_path"]), with_sound=False)
        return {"media": FILM}, [data]

    def _feedback(self, task: Task, label: int) -> None:
        """Below the clip that was just judged: the reference, and how often they agree so far."""
        references = self._campaign.calibration.set_index("seq")
        votes = self._campaign.votes(CALIBRATION)
        votes = votes[votes["annotator"] == self._annotator]
        column = votes["modality"].radd("label_")
        same = [
            references.at[seq, name] == given
            for seq, name, given in zip(votes["seq"], column, votes["label"], strict=True)
        ]
        reference = int(references.at[task.seq, f"label_{task.modality}"])
        self._number += 1
        words = {
            "screen": "feedback", "same": label == reference, "answer": _named(label),
            "reference": _named(reference), "why": GUIDELINE[task.modality],
            "agreed": int(np.sum(same)), "judged": len(same),
        }  # fmt: skip
        self._shown = None
        self._screen = {**self._screen, **words, "done": task.done + 1, "number": self._number}
        # A view that is drawn anew has the clip as well as the words.
        self.send(self._screen | {"kept": True})

    def _pause(self, remark: str = "") -> None:
        """A screen between passes, at the start, and at the end."""
        task, self._shown = self._campaign.task(self._annotator), None
        progress = self._campaign.progress()
        own = progress[progress["annotator"] == self._annotator]
        finished = own[own["done"] == own["total"]]
        if task is None:
            finished = finished[finished["phase"] == ANNOTATION]
        else:
            # Of what lies behind, the pass that has just ended.
            finished = finished.tail(1)
        lines = [
            f"{_pass_name(row.phase, row.modality)} is done: {row.done} of {row.total}."
            for row in finished.itertuples()
        ]
        aside = self._campaign.unreadable()
        lines += [
            f"Could not be opened: {NAMES[row.modality]} of seq {row.seq}. Tell who runs the "
            "campaign, and open the panel again when the file is mended."
            for row in aside[aside["annotator"] == self._annotator].itertuples()
        ]
        if task is None:
            open_ = int((own["total"] - own["done"]).sum())
            title = "All is done. Thank you." if not open_ else "All that could be opened is done."
            more = {"done": int(own["done"].sum()), "total": int(own["total"].sum())}
        else:
            title = f"Next: {self._title(task)}"
            begun = f"{task.done} of {task.total} clips are done."
            if not task.done:
                begun = f"Clips in this pass: {task.total}."
            lines += [begun, GUIDELINE[task.modality], ONE_PASS]
            if task.phase == CALIBRATION:
                lines.append(CALIBRATING)
            more = {
                "done": task.done, "total": task.total, "pass": [task.phase, task.modality],
                "modality": task.modality, "button": "Go on" if task.done else "Start",
            }  # fmt: skip
        self._show({"screen": "pause", "title": title, "lines": lines, "remark": remark, **more})

    def _title(self, task: Task) -> str:
        number = MODALITIES.index(task.modality) + 1
        return f"{_pass_name(task.phase, task.modality)} (pass {number} of {len(MODALITIES)})"

    def _show(self, screen: dict, data: list[bytes] | None = None) -> None:
        self._number += 1
        about = {"annotator": self._annotator, "confidential": CONFIDENTIAL}
        self._screen = {**screen, **about, "number": self._number}
        self._bytes = data or []
        self._redraw()

    def _redraw(self) -> None:
        self.send(self._screen, self._bytes)

    def _say(self, words: str) -> None:
        """A remark on the screen that is shown, which stays."""
        self.send({"screen": "remark", "number": self._number, "remark": words})


def annotate(
    campaign: Campaign | str | Path, clips: pd.DataFrame, root: str | Path, annotator: str
) -> AnnotationPanel:
    """The panel in which one annotator labels the clips of a campaign, one modality a pass.

    It goes on where the campaign's file says that the annotator stopped, and asks again for clips
    that could not be opened.

    Parameters
    ----------
    clips
        ``sample_id, text, video_path, audio_path``, and ``language`` if known, of the campaign's
        clips and those of its calibration; others may be among them.
    root
        Folder that the paths are relative to.

    Raises :class:`CampaignError` for an unknown annotator, for a clip of the campaign that is not
    among ``clips``, and for a file name that is not the clip's.
    """
    campaign = campaign if isinstance(campaign, Campaign) else Campaign(campaign)
    campaign.take_up(annotator)
    wanted = pd.concat([campaign.calibration["sample_id"], campaign.items["sample_id"]])
    return AnnotationPanel(campaign, _checked(clips, wanted), Path(root), annotator)


def _checked(clips: pd.DataFrame, wanted: pd.Series) -> pd.DataFrame:
    """The campaign's clips by ``sample_id``; each seq's files must bear its clip's name (A.2)."""
    if absent := [name for name in COLUMNS if name not in clips]:
        raise CampaignError(f"clips: expected the columns {list(COLUMNS)}; {absent} are absent")
    found = clips[clips["sample_id"].isin(wanted)].set_index("sample_id")
    lost = wanted[~wanted.isin(found.index)]
    if len(lost):
        raise CampaignError(
            f"clips: {len(lost)} of the campaign's {len(wanted)} are absent, {lost.iloc[0]} first; "
            "give all clips of the corpus"
        )
    if twice := found.index[found.index.duplicated()].tolist():
        raise CampaignError(f"clips: {twice[0]} is there more than once")
    for row in found.itertuples():
        _, video, clip = row.Index.split("/")
        for path in (row.video_path, row.audio_path):
            name = str(path).rpartition(".")[0]
            if not name.endswith((f"/{video}/{clip}", f"/{video}_{clip}")):
                raise CampaignError(
                    f"{row.Index}: its file {path} bears another clip's name; expected "
                    f"{video}_{clip} or {video}/{clip}"
                )
    return found


def _pass_name(phase: str, modality: str) -> str:
    return f"Calibration, {NAMES[modality]}" if phase == CALIBRATION else NAMES[modality]


def _named(label: int) -> str:
    sign = "\N{MINUS SIGN}" if label < 0 else "+" if label else ""
    return f"{sign}{abs(label)} {VOTE_NAMES[label]}"
