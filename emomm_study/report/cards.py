"""Case cards of Appendix F as figures, and Tables 7 and 8 beside our cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from textwrap import wrap
from unicodedata import east_asian_width

import librosa
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study import paper
from emomm_study.evaluate.cases import (
    BASELINE,
    METHODS,
    PAPERS_LAYERS,
    WORDS,
    Answer,
    Case,
    NoCase,
    at_depth,
)
from emomm_study.evaluate.experiment import Experiment
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.video import MediaError
from emomm_study.paths import resolve_media
from emomm_study.report.figures.parts import MODALITY_COLOURS, layer_axis, unshown
from emomm_study.report.numbers import fixed, number
from emomm_study.report.style import COLOURS, CORPUS_NAMES, INK, context, titled
from emomm_study.report.tables import NO, YES

MISSING = "[missing]"
SHOWN_FRAMES = 4
_LINE = 0.22
"""Inches of a line of a card."""
PITCHES = (65.0, 500.0)
"""Hertz between which pitch is looked for: low men's to children's voices."""
_AGREEING = {
    "class": "the ground truth's class",
    "polarity": "its polarity in another class",
    "conflict": "another polarity",
}
_MARKS = {"class": "=", "polarity": "\N{ALMOST EQUAL TO}", "conflict": "\N{NOT EQUAL TO}"}
_LEGEND = ", ".join(
    f"{_MARKS[kind]} {what}"
    for kind, what in (
        ("class", "GT's class"), ("polarity", "GT's polarity only"), ("conflict", "conflict"),
    )
)  # fmt: skip


# Sound


@dataclass(frozen=True)
class AudioCue:
    """What can be measured of a clip's sound.

    Attributes
    ----------
    seconds
        Duration of what the model hears.
    pitch
        Mean fundamental frequency of voiced frames in Hz, NaN where none is voiced.
    pitch_range
        From its 5th to its 95th percentile, in semitones.
    voiced
        Share of frames that are voiced, 0..1.
    level
        Root mean square in dB, 0 for the loudest possible; minus infinity for silence.
    """

    seconds: float
    pitch: float
    pitch_range: float
    voiced: float
    level: float


@dataclass(frozen=True, eq=False)
class Sound:
    """A clip's sound and its pitch.

    Attributes
    ----------
    samples, rate
        ``(samples,)`` mono in about [-1, 1], and samples a second.
    pitch
        ``(F,)`` Hz at equal steps from the first to the last sample, NaN where unvoiced.
    """

    samples: np.ndarray
    rate: int
    pitch: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, rate: int) -> Sound:
        """Find the pitch of some samples (probabilistic YIN)."""
        low, high = PITCHES
        # Four periods of the lowest pitch, as a power of two.
        frame = 2 ** int(np.ceil(np.log2(4 * rate / low)))
        pitch, *_ = librosa.pyin(samples, fmin=low, fmax=high, sr=rate, frame_length=frame)
        return cls(samples, rate, pitch)

    @cached_property
    def cue(self) -> AudioCue:
        """What can be measured of it."""
        heard = self.pitch[~np.isnan(self.pitch)]
        low, high = np.quantile(heard, [0.05, 0.95]) if len(heard) else (np.nan, np.nan)
        power = float(np.mean(np.square(self.samples, dtype=np.float64)))
        return AudioCue(
            seconds=len(self.samples) / self.rate,
            pitch=float(heard.mean()) if len(heard) else np.nan,
            pitch_range=float(12 * np.log2(high / low)),
            voiced=len(heard) / len(self.pitch),
            level=10 * np.log10(power) if power > 0 else -np.inf,
        )


def usual_cues(
    clips: pd.DataFrame,
    roots: Mapping[str, Path],
    settings: AudioSettings,
    *,
    count: int = 12,
    seed: int = 0,
) -> dict[str, AudioCue]:
    """Medians of what can be measured of sound, by corpus, over ``count`` random clips of each.

    Raises ``MediaError`` for a clip whose sound cannot be read.
    """
    usual = {}
    for corpus, group in clips.groupby("corpus"):
        drawn = group.sample(min(count, len(group)), random_state=seed)
        paths = [resolve_media(roots[corpus], path) for path in drawn["audio_path"]]
        heard = [Sound.of(read_audio(p, settings), settings.sampling_rate).cue for p in paths]
        usual[str(corpus)] = AudioCue(
            *(float(np.nanmedian([getattr(c, f.name) for c in heard])) for f in fields(AudioCue))
        )
    return usual


def cue_text(cue: AudioCue, usual: AudioCue | None = None) -> str:
    """A cue in words, after it the corpus's medians."""
    pitched = np.isfinite(cue.pitch)
    parts = [
        f"{fixed(cue.seconds, 1)} s",
        f"mean pitch {fixed(cue.pitch, 0)} Hz" if pitched else "no pitch found",
        f"pitch range {fixed(cue.pitch_range, 1)} semitones" if pitched else "",
        f"level {fixed(cue.level, 0)} dB" if np.isfinite(cue.level) else "silent",
    ]
    said = ", ".join(filter(None, parts))
    if usual is not None:
        said += (
            f" (corpus medians {fixed(usual.seconds, 1)} s, {fixed(usual.pitch, 0)} Hz, "
            f"{fixed(usual.pitch_range, 1)} semitones, {fixed(usual.level, 0)} dB)"
        )
    return said.replace("-", "\N{MINUS SIGN}")


# What a card says


def _answer_text(label: int, score: float) -> str:
    """``N (-0.8)``, as the paper prints answers and labels."""
    return f"{CLASSES[label]} ({fixed(score, 1)})"


def _listed(modalities: list[str], case: Case) -> str:
    named = [f"{WORDS[m]} ({CLASSES[case.clip[f'label_{m.lower()}']]})" for m in modalities]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _verdict(case: Case, answer: Answer) -> str:
    mark = YES if case.is_right(answer) else NO
    return f"{_answer_text(answer.label, answer.score)} {mark}"


def interpretation(case: Case) -> list[str]:
    """What the numbers of a card say, as sentences computed from them; no cause is claimed.

    Which modalities have the ground truth's class; by how much each budget changed on average over
    the shown layers, and which grew most; how the probability of the ground truth's class changed;
    where the router saw a conflict and whom it trusted; and what the paper's published settings
    give, where the card is about others.
    """
    agreement = case.agreement()
    kinds = {k: [m for m in case.present if agreement[m] == k] for k in _AGREEING}
    parts = [
        f"{_listed(found, case)} {'has' if len(found) == 1 else 'have'} {_AGREEING[kind]}"
        for kind, found in kinds.items()
        if found
    ]
    truth = CLASSES[case.clip["label_gt"]]
    first = f"The ground truth is {truth}: {'; '.join(parts)}."
    change = case.budget_change(case.steered)
    moved = {m: change[MODALITIES.index(m)] for m in case.present}
    numbers = ", ".join(f"{m} {number(value, 3, sign=True)}" for m, value in moved.items())
    most = max(moved, key=moved.get)
    layers = ", ".join(map(str, case.layers))
    sentences = [
        first,
        f"Steered (“{case.method}”), the attention budget changed by {numbers}, mean over "
        f"layers {layers}: {WORDS[most]}, which has {_AGREEING[agreement[most]]}, gained most.",
        f"The probability of {truth} went from {fixed(case.baseline.p_truth, 3)} to "
        f"{fixed(case.steered.p_truth, 3)}.",
        *_routing(case),
    ]
    if case.method != "CHASE" and "CHASE" in case.answers:
        plain = case.answers["CHASE"]
        sentences.append(
            f"“CHASE” with the published settings answers {_verdict(case, plain)}, probability "
            f"of {truth} {fixed(plain.p_truth, 3)}."
        )
    return sentences + _recomputed(case)


def _routing(case: Case) -> list[str]:
    look = case.steered.look
    # Layers before l_r have NaN, which exceeds nothing.
    routed = look.conflict > case.tau
    asked = f"{np.isfinite(look.conflict).sum()} layers that the router is asked in"
    if not routed.any():
        return [f"p exceeded {case.tau:g} in none of the {asked}, so that nothing was steered."]
    gate = look.gate[routed].mean(0)
    trusted = int(gate.argmax())
    return [
        f"p exceeded {case.tau:g} in {routed.sum()} of the {asked}; the mean gate there "
        f"trusts {WORDS[MODALITIES[trusted]]} most ({fixed(gate[trusted], 2)})."
    ]


def _recomputed(case: Case) -> list[str]:
    # Predictions and probabilities are the stored ones; attention is computed again for the card.
    return [
        f"Computed again for this card, “{name}” answers {CLASSES[answer.look.label]}, not the "
        f"stored {CLASSES[answer.label]}: rounding decides between the two."
        for name, answer in case.answers.items()
        if answer.look.label != answer.label
    ]


def budget_frame(cases: Sequence[Case | NoCase]) -> pd.DataFrame:
    """By case: change of each budget, mean over the shown layers, each modality's agreement, and
    probabilities of the ground truth's class; empty where there is no case."""
    rows = {}
    for case in cases:
        rows[case.rule.title] = entry = {}
        if isinstance(case, NoCase):
            continue
        change, agreement = case.budget_change(case.steered), case.agreement()
        for m in case.present:
            entry[m] = change[MODALITIES.index(m)]
            entry[f"{m} label"] = _MARKS[agreement[m]]
        entry |= {"P(GT) before": case.baseline.p_truth, "P(GT) after": case.steered.p_truth}
    marks = [f"{m} label" for m in MODALITIES]
    pairs = [name for pair in zip(MODALITIES, marks, strict=True) for name in pair]
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame = frame.reindex(columns=[*pairs, "P(GT) before", "P(GT) after"])
    return frame.assign(**frame[marks].astype(object).fillna(""))


def case_values(budgets: pd.DataFrame) -> pd.DataFrame:
    """The numbers of :func:`budget_frame`, one a row: ``case, quantity, value``."""
    numbers = budgets.rename_axis("case").reset_index()
    names = [name for name in budgets if not name.endswith("label")]
    tidy = numbers.melt("case", names, var_name="quantity")
    return tidy.dropna(subset="value").astype({"value": float})


def case_name(case: Case | NoCase) -> str:
    """The clip of a case, or that there is none."""
    return "no case" if isinstance(case, NoCase) else str(case.clip["sample_id"])


# The card


@dataclass(frozen=True, eq=False)
class NoCard:
    """Stands where a card would, when no instance satisfies its rule."""

    title: str
    sentence: str
    profile: str

    def figure(self) -> Figure:
        """The sentence as a figure."""
        return unshown(f"Case study: {self.title}", "no case", self.sentence)


@dataclass(frozen=True, eq=False, repr=False)
class Card:
    """A case with its media, which becomes a figure.

    Attributes
    ----------
    frames
        ``(N, H, W, 3)`` uint8 as the model was given them, None where video is masked.
    sound
        As the model hears it, None where audio is masked.
    usual
        The corpus's medians of what is measured of sound.
    """

    case: Case
    frames: np.ndarray | None
    sound: Sound | None
    usual: AudioCue | None
    profile: str

    @property
    def heading(self) -> str:
        clip = self.case.clip
        return f"{clip['sample_id']} ({CORPUS_NAMES[clip['corpus']]}, {self.case.rule.coalition})"

    @property
    def text(self) -> str:
        """The transcript, or that it is missing."""
        return f"“{self.case.clip['text']}”" if "T" in self.case.present else MISSING

    @property
    def audio(self) -> str:
        """The audio cue, or that it is missing."""
        return MISSING if self.sound is None else cue_text(self.sound.cue, self.usual)

    @property
    def labels(self) -> dict[str, str]:
        """Label, score and agreement by source: ``{"GT": "P (1.0)", "T": "Neu (0.0) ..."}``."""
        clip, agreement = self.case.clip, self.case.agreement()
        found = {"GT": _answer_text(clip["label_gt"], clip["score_gt"])}
        for m in MODALITIES:
            own = _answer_text(clip[f"label_{m.lower()}"], clip[f"score_{m.lower()}"])
            found[m] = f"{own} {_MARKS[agreement[m]]}" if m in agreement else MISSING
        return found

    @property
    def chosen(self) -> str:
        """How the case was chosen."""
        case = self.case
        return (
            f"{case.rule.sentence(case.method)} "
            f"{case.fitting:,} of {case.among:,} such conflicts satisfy it. "
            f"“{case.method}”: {METHODS[case.method]}."
        )

    def __repr__(self) -> str:
        # The arrays would fill pages.
        return f"<Card of {self.heading}>"

    def figure(self) -> Figure:
        """The card: labels, media, budgets before and after, the router, and what they say."""
        return _card_figure(self)


def make_card(
    case: Case | NoCase, bench: Experiment, usual: Mapping[str, AudioCue], profile: str
) -> Card | NoCard:
    """A card from a case, its media read as the model was given them.

    ``usual`` is by :func:`usual_cues`. Raises ``MediaError`` for files that cannot be read.
    """
    if isinstance(case, NoCase):
        return NoCard(case.rule.title, case.sentence, profile)
    clip = case.clip
    root = bench.roots[clip["corpus"]]
    frames = sound = None
    try:
        if "V" in case.present:
            frames = bench.frames(clip)
        if "A" in case.present:
            settings = bench.media.audio
            samples = read_audio(resolve_media(root, clip["audio_path"]), settings)
            sound = Sound.of(samples, settings.sampling_rate)
    except MediaError as error:
        raise MediaError(f"card of {clip['sample_id']}: {error}") from error
    return Card(case, frames, sound, usual.get(clip["corpus"]), profile)


def interpreted(card: Card | NoCard) -> str:
    """What a card says of its case, or that there is none, for those who do not see it."""
    if isinstance(card, NoCard):
        return card.sentence.rstrip(".")
    return " ".join([f"{card.heading.rstrip('.')}.", *interpretation(card.case)]).rstrip(".")


def first_with_video(cards: Sequence[Card | NoCard]) -> Card | None:
    """The first card that shows video, for Figures 12 and 13; None where none does."""
    return next((c for c in cards if isinstance(c, Card) and c.frames is not None), None)


def shown_frames(count: int, wanted: int = SHOWN_FRAMES) -> list[int]:
    """Indices of at most ``wanted`` of ``count`` frames, at the middle of equal spans."""
    if count <= wanted:
        return [*range(count)]
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


# The figure


def _wide(text: str) -> int:
    """How many characters have double width, as Chinese ones have."""
    return sum(east_asian_width(c) in "WF" for c in text)


def _wrapped(text: str, width: int) -> str:
    """Lines of at most about a width, characters of double width counted as two."""
    return "\n".join(wrap(text, max(1, round(width * len(text) / (len(text) + _wide(text))))))


def _draw_sound(ax: Axes, sound: Sound) -> None:
    """Waveform with the pitch over it."""
    end = len(sound.samples) / sound.rate
    # Extremes of short spans draw the same picture as all samples, in a hundredth of the size.
    spans = np.array_split(sound.samples, min(600, len(sound.samples)))
    at = np.linspace(0, end, len(spans))
    low, high = (np.array([f(span) for span in spans]) for f in (np.min, np.max))
    ax.fill_between(at, low, high, color="#9A9A9A", lw=0.3)
    peak = max(float(np.abs(sound.samples).max()), 1e-6)
    ax.set(xlim=(0, end), ylim=(-1.1 * peak, 1.1 * peak), xlabel="seconds", yticks=[])
    ax.spines["left"].set_visible(False)
    pitch = ax.twinx()
    pitch.plot(np.linspace(0, end, len(sound.pitch)), sound.pitch, color=COLOURS["a"], lw=2)
    pitch.set(ylim=(0, PITCHES[1]), ylabel="pitch (Hz)")
    pitch.spines["right"].set_visible(True)
    pitch.tick_params(axis="y", colors="#8A5F00")
    pitch.yaxis.label.set_color("#8A5F00")


def _draw_budget(ax: Axes, case: Case, answer: Answer, name: str) -> None:
    """A stacked bar a layer, its numbers above it."""
    share = pd.DataFrame(answer.look.share, columns=[*MODALITIES]).iloc[np.subtract(case.layers, 1)]
    share.set_axis([f"L{layer}" for layer in case.layers]).plot.barh(
        stacked=True, ax=ax, width=0.42, color=MODALITY_COLOURS, legend=False
    )
    for place, row in enumerate(share.to_numpy()):
        words = ", ".join(f"{m}={fixed(x, 4)}" for m, x in zip(MODALITIES, row, strict=True))
        ax.text(0.008, place - 0.25, words, va="bottom", fontsize=7)
    ax.set(xlim=(0, 1), ylim=(len(share) - 0.7, -0.75), xlabel="attention budget")
    truth = CLASSES[case.clip["label_gt"]]
    ax.set_title(
        f"{name}: {_verdict(case, answer)}\nprobability of {truth} {fixed(answer.p_truth, 3)}",
        loc="left", fontsize=9, fontweight="bold",
    )  # fmt: skip


def _asked(case: Case, layer: int) -> str:
    """What the router says in a layer: p, whether it steers, and the gate."""
    look = case.steered.look
    p, gate = look.conflict[layer - 1], look.gate[layer - 1]
    if not np.isfinite(p):
        return "not asked"
    idle = ", not steered" if p <= case.tau else ""
    return f"p {fixed(p, 2)}{idle}\ng {', '.join(fixed(g, 2) for g in gate)}"


def _write_routing(ax: Axes, case: Case) -> None:
    """The router's numbers in the shown layers, each beside that layer's bar."""
    ax.set_axis_off()
    ax.set_ylim(len(case.layers) - 0.7, -0.75)
    for place, layer in enumerate(case.layers):
        words = _asked(case, layer)
        ax.text(0, place, words, va="center", fontsize=7, linespacing=1.4)
    ax.set_title("router: p,\ngate T, A, V", loc="left", fontsize=9, fontweight="bold")


def _draw_routing(ax: Axes, case: Case) -> None:
    look = case.steered.look
    layers = np.arange(1, len(look.share) + 1)
    ax.plot(layers, look.conflict, color=INK, marker="o", ms=3.5, lw=1.4, label="p")
    ax.axhline(case.tau, color=INK, ls=":", lw=1, label=r"$\tau$")
    for k, m in enumerate(MODALITIES):
        if m in case.present:
            colour = MODALITY_COLOURS[m]
            ax.plot(layers, look.gate[:, k], color=colour, marker="s", ms=3, lw=1.4, label=f"g {m}")
    layer_axis(ax, len(layers))
    ax.set_ylim(0, 1.05)
    ax.set_title("p and gate, all layers", loc="left", fontsize=9, fontweight="bold")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), handlelength=1.4, borderpad=0)


def _hidden(ax: Axes, title: str) -> None:
    ax.set_axis_off()
    _unlaid(
        ax, 0, 0.5, words=f"{title}: {MISSING}, hidden from the model", va="center", fontsize=8.5
    )


def _unlaid(ax: Axes, *where: float, words: str, **style: object) -> None:
    """Text as it stands, without a part in the layout, in which it would only push its axes."""
    shown = ax.text(*where, words, transform=ax.transAxes, parse_math=False, **style)
    shown.set_in_layout(False)


def _draw_frames(fig: Figure, place: SubplotSpec, frames: np.ndarray | None) -> None:
    if frames is None:
        _hidden(fig.add_subplot(place), "Video")
        return
    indices = shown_frames(len(frames))
    for column, index in zip(place.subgridspec(1, len(indices)), indices, strict=True):
        ax = fig.add_subplot(column)
        ax.imshow(frames[index])
        ax.set_axis_off()
        ax.set_title(f"frame {index + 1} of {len(frames)}", fontsize=8)


def _draw_facts(ax: Axes, card: Card) -> None:
    """Transcript, ground truth and labels."""
    ax.set_axis_off()
    bold = {"va": "top", "fontsize": 10, "fontweight": "bold"}
    _unlaid(ax, 0, 1, words=_wrapped(f"Text: {card.text}", 115), va="top", fontsize=10)
    labels = card.labels
    _unlaid(ax, 0, 0.45, words=f"Ground truth: {labels['GT']}", color=COLOURS["gt"], **bold)
    for k, m in enumerate(MODALITIES):
        words = f"{m}: {labels[m]}"
        _unlaid(ax, 0.28 + 0.16 * k, 0.45, words=words, color=COLOURS[m.lower()], **bold)
    _unlaid(ax, 0.76, 0.43, words=_LEGEND, va="top", fontsize=7, color="#555555")


def _card_figure(card: Card) -> Figure:
    case = card.case
    with context():
        # What is hidden from the model takes a line.
        film = 2.0 if card.frames is not None else _LINE
        heard = 1.2 if card.sound is not None else _LINE
        heights = [0.55, film, heard, 2.5, 1.35]
        fig = plt.figure(figsize=(9.6, 1.2 + sum(heights)), layout="constrained")
        titled(fig, f"Case study: {case.rule.title}", card.heading)
        rows = fig.add_gridspec(5, 1, height_ratios=heights)
        _draw_facts(fig.add_subplot(rows[0]), card)
        _draw_frames(fig, rows[1], card.frames)
        sound = fig.add_subplot(rows[2])
        if card.sound is None:
            _hidden(sound, "Audio")
        else:
            _draw_sound(sound, card.sound)
            sound.set_title(f"Audio: {card.audio}", loc="left", fontsize=8.5)
        places = rows[3].subgridspec(1, 4, width_ratios=[1, 1, 0.4, 0.7])
        before, after, routed, curves = (fig.add_subplot(place) for place in places)
        _draw_budget(before, case, case.baseline, BASELINE.capitalize())
        _draw_budget(after, case, case.steered, case.method)
        _write_routing(routed, case)
        _draw_routing(curves, case)
        below = fig.add_subplot(rows[4])
        below.set_axis_off()
        remarks = _wrapped(" ".join(interpretation(case)), 150)
        _unlaid(below, 0, 1, words=remarks, va="top", fontsize=8.5, linespacing=1.35)
        rule = _wrapped(f"Chosen by rule: {card.chosen}", 185)
        _unlaid(below, 0, 0, words=rule, va="bottom", fontsize=7, color="#555555")
        return fig


# Tables 7 and 8


def case_table(number: int, case: Case | NoCase) -> pd.DataFrame:
    """Table 7 or 8: the published case's numbers beside those of ours, which is another clip.

    Rows ``(item, layer, source)`` in the paper's order, columns ``(published case, baseline |
    CHASE)`` and ``(our case, baseline | <method>)``, all text. ``layer`` has the published layer of
    28 and ours at the same fraction of the depth. Raises ``ValueError`` for another table.
    """
    if number not in (7, 8):
        raise ValueError(f"the paper's case studies are Tables 7 and 8; got {number!r}")
    known, ours = _published_case(paper.table(number)), {}
    depth = paper.table(number)["layer"].max()
    if isinstance(case, Case):
        ours = {BASELINE: case.baseline, case.method: case.steered}
        depth = len(case.baseline.look.share)
    names = [("published case", BASELINE), ("published case", "CHASE")]
    names += [("our case", BASELINE), ("our case", case.method)]
    rows = {("clip", "", ""): ["not named"] * 2 + _ours(ours, lambda a: case.clip["sample_id"])}
    for source in ("gt", *map(str.lower, MODALITIES)):
        mine = _ours(ours, lambda a, s=source: _label_of(case, s))
        rows["label", "", source.upper()] = [known.get(("label", "", source), MISSING)] * 2 + mine
    rows["prediction", "", ""] = [known["prediction", m, ""] for m in (BASELINE, "CHASE")] + _ours(
        ours, lambda a: _verdict(case, a)
    )
    for layer in PAPERS_LAYERS:
        at = at_depth(layer, depth)
        where = f"{layer} of 28" + (f", {at} of {depth}" if ours else "")
        for k, m in enumerate(MODALITIES):
            published = [known[f"attention {layer}", x, m.lower()] for x in (BASELINE, "CHASE")]
            mine = _ours(ours, lambda a, i=at - 1, k=k: fixed(a.look.share[i, k], 4))
            rows["attention budget", where, m] = published + mine
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=str)
    table.index = pd.MultiIndex.from_tuples(table.index, names=["item", "layer", "source"])
    table.columns = pd.MultiIndex.from_tuples(names)
    return table


def _ours(answers: Mapping[str, Answer], said: Callable[[Answer], str]) -> list[str]:
    return [said(answer) for answer in answers.values()] or ["no case"] * 2


def _label_of(case: Case, source: str) -> str:
    if source != "gt" and source.upper() not in case.present:
        return MISSING
    return _answer_text(case.clip[f"label_{source}"], case.clip[f"score_{source}"])


def _published_case(frame: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Texts by (item, method, source), an attention's item with its layer."""
    found = {}
    for row in frame.itertuples():
        item, value = row.item, fixed(row.value, 4)
        if item == "attention":
            item = f"attention {row.layer}"
        else:
            value = f"{row.label} ({fixed(row.value, 1)})"
        if item == "prediction":
            value += f" {YES if row.correct else NO}"
        found[item, row.method, row.source] = value
    return found
