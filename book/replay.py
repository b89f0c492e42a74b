"""Computes what the book's live explorer shows: a dozen clips, each under a grid of settings.

usage: python book/replay.py [--check]

Renders the clips (into the cache), asks Omni-mini about each once, and replays the decision token under
every setting of the grid with a gate by hand. Writes ``book/replay.json``. ``--check`` writes nothing and
fails, with what differs, where the file is of another model, other clips or another grid.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from emomm_lib import ConstantGate, SteeringConfig
from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.inspection import Inspection, Look
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan
from emomm_study.mini.surrogate.render import clip_paths, write_clip
from emomm_study.paths import ROOT, cache_dir
from emomm_study.report.explorer.picture import data_url
from emomm_study.systems.omni import OmniModel

FILE = Path(__file__).with_name("replay.json")
MODEL = ROOT / "data" / "omni-mini"
NEUTRAL = 2
KINDS = {
    "all agree": lambda gt, t, a, v: (t == gt) & (a == gt) & (v == gt) & (gt != NEUTRAL),
    "text alone is right": lambda gt, t, a, v: (t == gt) & (a != gt) & (v != gt),
    "audio alone is right": lambda gt, t, a, v: (t != gt) & (a == gt) & (v != gt),
    "video alone is right": lambda gt, t, a, v: (t != gt) & (a != gt) & (v == gt),
    "text alone is wrong": lambda gt, t, a, v: (t != gt) & (a == gt) & (v == gt),
    "video alone is wrong": lambda gt, t, a, v: (t == gt) & (a == gt) & (v != gt),
}
"""Of each corpus the first clip by name whose labels of GT, T, A and V are so."""
GRID = {
    "place": ("published", "everywhere"),
    "preference": ("softmax", "share"),
    "gamma": (0.0, 1.4, 3.0, 5.0, 7.0, 9.0, 12.0),
    "eta": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "trust": tuple(
        levels for levels in itertools.product((0.0, 0.5, 1.0), repeat=3) if max(levels) == 1
    ),
}
"""Every setting is one of each, the last counted first. Trusts are scaled so that the largest is 1."""
AT_ONCE = 114
"""Settings replayed side by side."""
TALL = 96
"""Pixels of a frame's height."""


def chosen() -> pd.DataFrame:
    """The dozen clips as the surrogates' plan has them, with ``kind``, one of :data:`KINDS`."""
    rows = []
    for corpus in Corpus:
        plan = corpus_plan(corpus, SurrogateSettings()).sort_values("sample_id")
        labels = [plan[f"label_{source}"] for source in ("gt", "t", "a", "v")]
        for kind, rule in KINDS.items():
            rows.append(plan[rule(*labels)].iloc[[0]].assign(kind=kind))
    return pd.concat(rows, ignore_index=True)


def settings(layers: int, heads: int) -> Iterator[tuple[ConstantGate, SteeringConfig]]:
    """Gate and configuration of every setting of the grid, in its order.

    p is 1 in every layer; the bias within video is off, so that a strength of 0 is no steering.
    ``everywhere`` steers all heads of all layers, ``published`` K = 4 of them from l_r on.
    """
    for place, preference, gamma, eta, trust in itertools.product(*GRID.values()):
        where = {"first_layer": 1, "top_k": heads} if place == "everywhere" else {}
        config = SteeringConfig.at_published_depth(
            layers, preference=preference, gamma=gamma, eta=eta, beta=0.0, **where
        )
        yield ConstantGate(torch.tensor([1.0]), torch.tensor([trust])), config


def opened(clips: pd.DataFrame, folder: Path) -> Experiment:
    """Omni-mini with these clips, rendered into a folder where they are not there yet."""
    records = clips.to_dict("records")
    for clip in records:
        write_clip(folder, clip)
    videos, sounds = zip(*(clip_paths(clip) for clip in records), strict=True)
    return Experiment(
        name="omni-mini",
        model=OmniModel.load(MODEL, dtype="float32"),
        model_folder=MODEL,
        clips=clips.assign(video_path=videos, audio_path=sounds),
        roots=dict.fromkeys(Corpus, folder),
        media=MediaSettings(VideoSettings(4), AudioSettings(max_seconds=3.0)),
        store=PredictionStore(folder / "predictions.sqlite"),
        progress=False,
    )


def packed(looks: list[Look]) -> np.ndarray:
    """``(n, 6 + 2 L)`` uint8 of n looks.

    Probabilities of the five classes, the answer's number, and by layer the budgets of text and audio
    (video has the rest); a share of 1 is 255.
    """
    letters = np.array([look.letters for look in looks])
    shares = np.array([look.share[:, :2].ravel() for look in looks])
    answers = letters.argmax(1)[:, None]
    return np.hstack([np.round(255 * letters), answers, np.round(255 * shares)]).astype(np.uint8)


def replayed(seen: Inspection) -> np.ndarray:
    """A prompt under every setting of the grid, packed; ``(settings, 6 + 2 L)``."""
    columns = [*settings(seen.layers, seen.heads)]
    parts = [columns[start : start + AT_ONCE] for start in range(0, len(columns), AT_ONCE)]
    return np.vstack([packed(seen.steered(part)) for part in parts])


def squeezed(table: np.ndarray) -> str:
    """Bytes column after column (alike bytes together), deflated, in base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(table.T).tobytes(), 9)).decode()


def unsqueezed(text: str, settings_: int) -> np.ndarray:
    """What :func:`squeezed` was given, ``(settings, values)`` uint8."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return flat.reshape(-1, settings_).T


def strip(frames: np.ndarray) -> str:
    """The sampled frames side by side, small, as a JPEG's data URL."""
    wide = round(TALL * frames.shape[2] / frames.shape[1])
    small = [cv2.resize(frame, (wide, TALL), interpolation=cv2.INTER_AREA) for frame in frames]
    return data_url(np.hstack(small), "jpeg")


def made_of(bench: Experiment) -> dict[str, object]:
    """What the numbers come from; where it differs they are of something else."""
    return {
        "model": bench.model.fingerprint,
        "run": bench.fingerprint,
        "clips": [*bench.clips["sample_id"]],
        "grid": json.loads(json.dumps(GRID)),
    }


def computed(bench: Experiment) -> dict[str, object]:
    """All that the live page shows, as JSON has it."""
    clips = []
    for _, clip in bench.clips.iterrows():
        seen = bench.inspect(clip, "TAV")
        clips.append(
            {
                "name": clip["sample_id"],
                "kind": clip["kind"],
                "text": clip["text"],
                "language": clip["language"],
                "labels": [int(clip[f"label_{s}"]) for s in ("gt", "t", "a", "v")],
                "frames": strip(bench.frames(clip)),
                "before": packed([seen.unsteered])[0].tolist(),
                "states": squeezed(replayed(seen)),
            }
        )
        print(f"{clip['sample_id']}: {clip['kind']}", file=sys.stderr)
    layers = bench.model.layers
    return {
        "made_of": made_of(bench),
        "classes": [*CLASSES],
        "modalities": [*MODALITIES],
        "layers": layers,
        "heads": bench.model.heads,
        "first_layer": SteeringConfig.at_published_depth(layers).first_layer,
        "top_k": SteeringConfig.at_published_depth(layers).top_k,
        "clips": clips,
    }


def stale(bench: Experiment, kept: Mapping[str, object]) -> list[str]:
    """What a kept file was made of that is different now, one word each."""
    now, then = made_of(bench), kept["made_of"]
    return [name for name in now if now[name] != then.get(name)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare what it is made of")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as empty:
        # A check renders nothing: it asks what the numbers were made of.
        folder = Path(empty) if check else cache_dir("book")
        clips = chosen()
        bench = opened(clips.iloc[:0] if check else clips, folder)
        if check:
            bench = Experiment(**{**vars(bench), "clips": clips})
            if found := stale(bench, json.loads(FILE.read_text(encoding="utf-8"))):
                print(f"{FILE.name} is of another {', '.join(found)}: python book/replay.py")
            return int(bool(found))
        text = json.dumps(computed(bench), ensure_ascii=False, indent=1)
    FILE.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
