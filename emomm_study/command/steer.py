"""``emomm steer``: one clip before and after its attention is steered by a router."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.router import Router, load_router
from emomm_lib.labels import LETTERS, MODALITIES
from emomm_study.command.ask import budgets, letter_of, numbers
from emomm_study.command.clip import bench_of, given_clip
from emomm_study.command.outcome import Outcome, refusing, warn
from emomm_study.command.system import media_for, named_system, opened, steerable, told_of
from emomm_study.evaluate.inspection import Look
from emomm_study.media.container import MediaError
from emomm_study.paths import located
from emomm_study.systems.interface import Steerable

CHANGED = ("tau", "eta", "gamma", "beta", "top_k", "sharpness", "preference")
"""Options that are fields of the configuration by the same name."""


def carry_out(options: argparse.Namespace) -> Outcome:
    """Steer the clip's prompt, and set both answers side by side."""
    named, clip = named_system(options.system), given_clip(options)
    coalition, media = clip.coalition(options.coalition), media_for(named, options.frames)
    notes = told_of(named)
    with opened(named, options) as system, bench_of(clip, system, media) as bench:
        model = steerable(system, "steering")
        router, config = _router(options.router, model), _config(options, model.layers)
        with refusing(MediaError):
            seen = bench.inspect(bench.clips.iloc[0], coalition)
        with refusing(FloatingPointError):
            [after] = seen.steered([(router, config)])
        before = seen.unsteered
    layers = list(_layers(after))
    found = {
        "file": str(clip.film),
        "system": named.name,
        "corpus": clip.corpus,
        "coalition": coalition,
        "absent": clip.absent,
        "router": options.router,
        "configuration": asdict(config),
        "tokens": dict(zip(MODALITIES, seen.counts.tolist(), strict=True)),
        "before": _look(before, seen.counts),
        "after": _look(after, seen.counts),
        "layers": layers,
    }
    remarks = list(_remarks(coalition, router, config, layers))
    for remark in remarks:
        warn(remark)
    return Outcome(found | {"notes": [*notes, *remarks]}, shown(found))


def _router(name: str, model: Steerable) -> Router:
    folders = [path for path in (Path(name), located(name)) if path.is_dir()]
    with refusing(ValueError, OSError):
        return load_router(folders[0] if folders else name, model.model, model.fingerprint)


def _config(options: argparse.Namespace, layers: int) -> SteeringConfig:
    """The published configuration at the decoder's depth, with what the user changed."""
    changes = {name: getattr(options, name) for name in CHANGED}
    changes |= {"first_layer": options.layer}
    with refusing(ValueError):
        return SteeringConfig.at_published_depth(
            layers, **{name: value for name, value in changes.items() if value is not None}
        )


def _look(look: Look, counts: np.ndarray) -> dict[str, Any]:
    letters = dict(zip(LETTERS, look.letters.tolist(), strict=True))
    share = np.where(counts > 0, look.share, np.nan).tolist()
    return {**letter_of(look.label), "probabilities": letters, **budgets(share)}


def _layers(after: Look) -> Iterator[dict[str, Any]]:
    """p, g and the steered heads of each layer that the router was asked in; all count from 1."""
    for layer, p in enumerate(after.conflict.tolist()):
        if not np.isnan(p):
            gate = dict(zip(MODALITIES, after.gate[layer].tolist(), strict=True))
            heads = (np.flatnonzero(after.heads[layer] > 0) + 1).tolist()
            yield {"layer": layer + 1, "p": p, "gate": gate, "heads": heads}


def _remarks(
    coalition: str, router: Router, config: SteeringConfig, layers: list[dict[str, Any]]
) -> Iterator[str]:
    if len(coalition) < 2 or coalition == "none":
        yield f"under {coalition} there is nothing to shift between modalities"
    if config.first_layer < router.first_layer:
        yield f"the router was trained from layer {router.first_layer} on, and is asked earlier"
    if not any(own["heads"] for own in layers):
        yield "no head is steered: p exceeds tau in no layer, or K is 0"


def shown(found: Mapping[str, Any]) -> str:
    """Both answers, and what the router said, for a terminal."""
    lines = [
        f"{found['file']}",
        f"asked of {found['system']} under {found['coalition']}",
        *(f"absent: {why}" for why in found["absent"].values()),
    ]
    for when in ("before", "after"):
        own = found[when]
        lines += [
            f"{when:<6} {own['letter']}, {own['name']}",
            f"       letters  {numbers(own['probabilities'])}",
            f"       attention budget  {numbers(own['budget'])}",
        ]
    lines.append("layer  p      gate                         heads steered")
    for own in found["layers"]:
        heads = " ".join(map(str, own["heads"])) or "none"
        lines.append(f"{own['layer']:>5}  {own['p']:.3f}  {numbers(own['gate'])}  {heads}")
    return "\n".join(lines)
