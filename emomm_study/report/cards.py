"""Case cards of Appendix F, as HTML and as a figure, and Tables 7 and 8 beside our cases."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from pathlib import Path
from textwrap import wrap
from unicodedata import east_asian_width

import librosa
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

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
from emomm_study.media.video import MediaError, read_frames
from emomm_study.paths import resolve_media
from emomm_study.report.style import COLOURS, CORPUS_NAMES, context, fixed, titled
from emomm_study.report.tables import NO, YES

MISSING = "[missing]"
SHOWN_FRAMES = 4
PITCHES = (65.0, 500.0)
"""Hertz between which pitch is looked for: low men's to children's voices."""
_AGREEING = {
    "class": "the ground truth's class",
    "polarity": "its polarity in another class",
    "conflict": "another polarity",
}
_MARKS = {"class": "=", "polarity": "\N{ALMOST EQUAL TO}", "conflict": "\N{NOT EQUAL TO}"}
_DARK = "#333333"
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


def _signed(value: float, digits: int = 3) -> str:
    text = fixed(abs(value), digits)
    if not float(text):
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


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
    numbers = ", ".join(f"{m} {_signed(value)}" for m, value in moved.items())
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

    sentence: str
    profile: str

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.sentence)} (Profile {escape(self.profile)}.)</p>"

    def figure(self) -> Figure:
        """The sentence as a figure."""
        with context():
            fig = plt.figure(figsize=(9.6, 1.6))
            titled(fig, "Case study", "no case")
            fig.text(0.03, 0.5, _wrapped(self.sentence, 120), va="top")
            return fig


@dataclass(frozen=True, eq=False, repr=False)
class Card:
    """A case with its media: shows itself in a notebook, and as a figure.

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
        # Notebooks keep it beside the HTML; the arrays would fill pages.
        return f"<Card of {self.heading}>"

    def _repr_html_(self) -> str:
        return _card_html(self)

    def figure(self) -> Figure:
        """The card for print."""
        return _card_figure(self)


def make_card(
    case: Case | NoCase, bench: Experiment, usual: Mapping[str, AudioCue], profile: str
) -> Card | NoCard:
    """A card from a case, its media read as the model was given them.

    ``usual`` is by :func:`usual_cues`. Raises ``MediaError`` for files that cannot be read.
    """
    if isinstance(case, NoCase):
        return NoCard(case.sentence, profile)
    clip = case.clip
    root = bench.roots[clip["corpus"]]
    frames = sound = None
    try:
        if "V" in case.present:
            frames = read_frames(resolve_media(root, clip["video_path"]), bench.media.video)
        if "A" in case.present:
            settings = bench.media.audio
            samples = read_audio(resolve_media(root, clip["audio_path"]), settings)
            sound = Sound.of(samples, settings.sampling_rate)
    except MediaError as error:
        raise MediaError(f"card of {clip['sample_id']}: {error}") from error
    return Card(case, frames, sound, usual.get(clip["corpus"]), profile)


def shown_frames(count: int, wanted: int = SHOWN_FRAMES) -> list[int]:
    """Indices of at most ``wanted`` of ``count`` frames, at the middle of equal spans."""
    if count <= wanted:
        return [*range(count)]
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


# HTML: plain tables and inline images, since viewers of notebooks remove styles and scripts


def _image(data: bytes, kind: str, words: str) -> str:
    code = base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{code}" alt="{escape(words)}">'


def _frames_image(frames: np.ndarray, height: int = 160) -> bytes:
    images = [Image.fromarray(frames[i]) for i in shown_frames(len(frames))]
    width = round(images[0].width * height / images[0].height)
    strip = Image.new("RGB", (len(images) * (width + 4) - 4, height), "white")
    for place, image in enumerate(images):
        strip.paste(image.resize((width, height)), (place * (width + 4), 0))
    return _encoded(strip, "JPEG", quality=85)


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _bar_image(share: np.ndarray, width: int = 180, height: int = 12) -> bytes:
    """The stacked bar of one layer's budget."""
    ends = np.round(np.cumsum(share) * width).astype(int)
    # White where heads attend to no modality at all, so that shares leave a rest.
    colours = np.array([to_rgb(c) for c in (*(COLOURS[m.lower()] for m in MODALITIES), "white")])
    which = np.searchsorted(ends, np.arange(width), side="right")
    row = np.round(255 * colours[which]).astype(np.uint8)
    return _encoded(Image.fromarray(np.broadcast_to(row, (height, width, 3)).copy()), "PNG")


def _sound_image(sound: Sound) -> bytes:
    with context():
        fig, ax = plt.subplots(figsize=(7.2, 1.5), layout="constrained")
        _draw_sound(ax, sound)
        return _png(fig)


def _text_html(text: str) -> str:
    """The transcript; Chinese as a picture, since not every viewer has the characters."""
    if not _wide(text):
        return escape(text)
    with context():
        fig = plt.figure(figsize=(0.2 * len(text) + 0.1, 0.3))
        fig.text(0.02, 0.3, text, fontsize=12)
        data = _png(fig)
    return _image(data, "png", text)


def _png(fig: Figure) -> bytes:
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=90, metadata={"Software": None})
    plt.close(fig)
    return file.getvalue()


def _budget_text(share: np.ndarray) -> str:
    return ", ".join(f"{m}={fixed(x, 4)}" for m, x in zip(MODALITIES, share, strict=True))


def _card_html(card: Card) -> str:
    case = card.case
    video = MISSING
    if card.frames is not None:
        words = f"{len(shown_frames(len(card.frames)))} frames of the clip"
        video = _image(_frames_image(card.frames), "jpeg", words)
    audio = escape(card.audio)
    if card.sound is not None:
        audio += f"<br>{_image(_sound_image(card.sound), 'png', 'waveform and pitch')}"
    labels = card.labels
    unimodal = " &nbsp; ".join(f"<b>{m}</b> {escape(labels[m])}" for m in MODALITIES)
    facts = {
        "Text": _text_html(card.text),
        "Audio": audio,
        "Video": video,
        "Ground truth": f"<b>{escape(labels['GT'])}</b> &nbsp; {unimodal}<br>{escape(_LEGEND)}",
    }
    top = "".join(
        f'<tr><th align="left" valign="top">{name}</th>'
        f'<td align="left" colspan="4">{value}</td></tr>'
        for name, value in facts.items()
    )
    shown = {BASELINE.capitalize(): case.baseline, case.method: case.steered}
    head = "".join(f'<th align="left">{escape(name)}</th>' for name in shown)
    said = "".join(
        f'<td align="left"><b>{escape(_verdict(case, answer))}</b><br>'
        f"probability of {CLASSES[case.clip['label_gt']]}: {fixed(answer.p_truth, 3)}</td>"
        for answer in shown.values()
    )
    rows = "".join(_layer_html(case, layer) for layer in case.layers)
    remarks = " ".join(map(escape, interpretation(case)))
    return (
        f"<div><p><b>Case study: {escape(case.rule.title)}</b><br>"
        f"{escape(card.heading)} | profile: {escape(card.profile)}</p>"
        f'<table border="1" cellpadding="4">{top}'
        f'<tr><th align="left">Item</th>{head}<th align="left">p</th>'
        '<th align="left">gate T, A, V</th></tr>'
        f'<tr><th align="left" valign="top">Prediction</th>{said}<td></td><td></td></tr>'
        f"{rows}"
        '<tr><th align="left" valign="top">Interpretation</th>'
        f'<td align="left" colspan="4">{remarks}</td></tr></table>'
        f"<p><small>Chosen by rule: {escape(card.chosen)}</small></p></div>"
    )


def _layer_html(case: Case, layer: int) -> str:
    at = layer - 1
    cells = "".join(
        f'<td align="left">{_image(_bar_image(answer.look.share[at]), "png", "")}<br>'
        f"{_budget_text(answer.look.share[at])}</td>"
        for answer in (case.baseline, case.steered)
    )
    look = case.steered.look
    routed = np.isfinite(look.conflict[at])
    p = fixed(look.conflict[at], 2) if routed else "not asked"
    if routed and look.conflict[at] <= case.tau:
        p += ", not steered"
    gate = ", ".join(fixed(g, 2) for g in look.gate[at])
    return (
        f'<tr><th align="left" valign="top">Attention, layer {layer}</th>{cells}'
        f'<td align="left">{p}</td><td align="left">{gate if routed else ""}</td></tr>'
    )


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
    for place, layer in enumerate(case.layers):
        share = answer.look.share[layer - 1]
        ax.text(0.008, place, _budget_text(share), va="bottom", fontsize=7)
        for m, width, left in zip(MODALITIES, share, np.cumsum(share) - share, strict=True):
            ax.barh(place + 0.25, width, left=left, height=0.42, color=COLOURS[m.lower()])
    at = np.arange(len(case.layers))
    ax.set_yticks(at + 0.25, [f"L{layer}" for layer in case.layers])
    ax.set(xlim=(0, 1), ylim=(at[-1] + 0.55, -0.5), xlabel="attention budget")
    truth = CLASSES[case.clip["label_gt"]]
    ax.set_title(
        f"{name}: {_verdict(case, answer)}\nprobability of {truth} {fixed(answer.p_truth, 3)}",
        loc="left", fontsize=9, fontweight="bold",
    )  # fmt: skip


def _draw_routing(ax: Axes, case: Case) -> None:
    look = case.steered.look
    layers = np.arange(1, len(look.share) + 1)
    ax.plot(layers, look.conflict, color=_DARK, marker="o", ms=3.5, lw=1.4, label="p")
    ax.axhline(case.tau, color=_DARK, ls=":", lw=1, label=r"$\tau$")
    for k, m in enumerate(MODALITIES):
        if m in case.present:
            colour = COLOURS[m.lower()]
            ax.plot(layers, look.gate[:, k], color=colour, marker="s", ms=3, lw=1.4, label=f"g {m}")
    step = -(-len(layers) // 8)
    ax.set_xticks(layers[step - 1 :: step])
    ax.set(xlim=(0.5, len(layers) + 0.5), ylim=(0, 1.05), xlabel="layer")
    ax.set_title("router: p and gate", loc="left", fontsize=9, fontweight="bold")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), handlelength=1.4, borderpad=0)


def _blank(ax: Axes, words: str, title: str) -> None:
    ax.text(0.5, 0.5, words, ha="center", va="center", color="#777777")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, loc="left", fontsize=9, fontweight="bold")
    for side in ax.spines.values():
        side.set(visible=True, color="#CCCCCC")


def _unlaid(ax: Axes, *where: float, words: str, **style: object) -> None:
    """Text that takes no part in the layout, in which it would only push its axes aside."""
    ax.text(*where, words, transform=ax.transAxes, **style).set_in_layout(False)


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
        fig = plt.figure(figsize=(9.6, 8.8), layout="constrained")
        titled(fig, f"Case study: {case.rule.title}", card.heading)
        rows = fig.add_gridspec(5, 1, height_ratios=[0.55, 2.0, 1.2, 2.5, 1.35])
        _draw_facts(fig.add_subplot(rows[0]), card)
        if card.frames is None:
            _blank(fig.add_subplot(rows[1]), MISSING, "Video")
        else:
            indices = shown_frames(len(card.frames))
            for place, index in zip(rows[1].subgridspec(1, len(indices)), indices, strict=True):
                ax = fig.add_subplot(place)
                ax.imshow(card.frames[index])
                ax.set_axis_off()
                ax.set_title(f"frame {index + 1} of {len(card.frames)}", fontsize=8)
        sound = fig.add_subplot(rows[2])
        if card.sound is None:
            _blank(sound, MISSING, "Audio")
        else:
            _draw_sound(sound, card.sound)
            sound.set_title(f"Audio: {card.audio}", loc="left", fontsize=8.5)
        left, middle, right = rows[3].subgridspec(1, 3, width_ratios=[1, 1, 0.72])
        _draw_budget(fig.add_subplot(left), case, case.baseline, BASELINE.capitalize())
        _draw_budget(fig.add_subplot(middle), case, case.steered, case.method)
        _draw_routing(fig.add_subplot(right), case)
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
