"""What a check of a profile found, and how it reads in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from emomm_lib.labels import COALITIONS
from emomm_study.run.needs import Need


@dataclass(frozen=True)
class BackboneCheck:
    """What a backbone would be asked, and what it would take.

    Attributes
    ----------
    coalitions
        Those that notebook 03 asks the first backbone about, or notebook 06 a further one.
    known, questions
        Answers that are stored with all that is recorded of them, and those that are left.
    tokens
        ``min, median, p95, max`` of T, A, V and of the whole prompt, where a modality is present.
    longest, its_coalition, its_tokens
        The longest prompt, by the clip's ``sample_id``.
    its_share
        Of the tokens of all prompts.
    memory
        Bytes by what they are for.
    needs
        What has to fit.
    """

    model: str
    coalitions: tuple[str, ...]
    known: int
    questions: int
    tokens: Mapping[str, Mapping[str, float]]
    longest: str
    its_coalition: str
    its_tokens: int
    its_share: float
    memory: Mapping[str, float]
    needs: Sequence[Need] = ()


@dataclass(frozen=True)
class Measured:
    """Two real batches, asked with the weights loaded."""

    model: str
    rows: Sequence[Mapping[str, float]]
    hours: float | None
    tokens_agree: bool | None = None
    workers: int = 1
    peak: float | None = None


@dataclass(frozen=True)
class Checked:
    """What a run under a profile would be; :func:`dataclasses.asdict` makes JSON of it.

    Attributes
    ----------
    clips
        How many, by corpus and subset; empty where they are not rendered.
    headers
        ``min, median, p95, max`` of seconds, pictures, pixels and sound of the clips.
    refused
        Why there can be no run.
    """

    profile: str
    source: str
    clips: Mapping[str, int] = field(default_factory=dict)
    headers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    backbones: Sequence[BackboneCheck] = ()
    systems: Sequence[str] = ()
    warnings: Sequence[str] = ()
    refused: Sequence[str] = ()
    measured: Measured | None = None

    @property
    def go(self) -> bool:
        """Whether nothing speaks against the run."""
        return not self.refused and all(need.fits for b in self.backbones for need in b.needs)


def report(checked: Checked) -> str:
    """What was found, as text for a terminal."""
    parts = [f"The {checked.profile} profile. Clips: {checked.source.rstrip('.')}."]
    if checked.clips:
        total = sum(checked.clips.values())
        listed = ", ".join(f"{name} {count:,}" for name, count in checked.clips.items())
        parts += [f"{total:,} clips: {listed}", _grid(checked.headers)]
    parts += [_of_backbone(own) for own in checked.backbones]
    if checked.systems:
        parts.append("\n".join(["Other systems", *(f"  {row}" for row in checked.systems)]))
    if checked.measured is not None:
        parts.append(_of_measured(checked.measured))
    if checked.warnings:
        parts.append("\n".join(["Look at", *(f"  * {text}" for text in checked.warnings)]))
    verdicts = [f"  {text}" for text in checked.refused]
    verdicts += [f"  {own.model}, {need}" for own in checked.backbones for need in own.needs]
    parts.append("\n".join(["Verdict", *verdicts, f"  {'go' if checked.go else 'no'}"]))
    return "\n\n".join(parts)


def _of_backbone(own: BackboneCheck) -> str:
    notebook = "03" if len(own.coalitions) == len(COALITIONS) else "06"
    lines = [
        f"{own.model}: {own.questions:,} questions of notebook {notebook} are left, {own.known:,} "
        "answers are known",
        _grid({f"tokens of {name}": row for name, row in own.tokens.items()}),
        f"  longest prompt: {own.its_tokens:,} tokens, {own.longest} under {own.its_coalition} "
        f"({own.its_share:.2%} of all tokens)",
    ]
    width = max(map(len, own.memory))
    lines += [f"  {name:<{width}}  {_bytes(value):>9}" for name, value in own.memory.items()]
    return "\n".join(lines)


def _of_measured(own: Measured) -> str:
    if not own.rows:
        return f"Measured, {own.model}: all answers are known, so nothing is left to measure"
    lines = [f"Measured, {own.model}: reading, encoding and answering, in one process"]
    lines += [
        f"  {row['clips']:.0f} clips, {row['tokens']:,.0f} tokens: {row['seconds']:.1f} s, memory "
        f"{_bytes(row['memory'])}"
        for row in own.rows
    ]
    by = "" if own.workers == 1 else f" by {own.workers} workers"
    same = "equal" if own.tokens_agree else "DIFFER FROM"
    lines.append(f"  tokens of these clips {same} the estimated ones")
    lines.append(
        f"  what is left of notebook 03: {own.hours:.2f} h at this rate{by}. Not in it: other "
        "backbones, routers, steering (07, 08), figures"
    )
    return "\n".join(lines)


def _grid(rows: Mapping[str, Mapping[str, float]]) -> str:
    table = pd.DataFrame(rows).T
    shown = table.map(lambda value: f"{value:,.1f}" if value % 1 else f"{value:,.0f}")
    return "\n".join(f"  {line}" for line in shown.to_string().splitlines())


def _bytes(value: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:,.1f} {unit}"
    return f"{value:,.0f} B"
