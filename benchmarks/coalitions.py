"""What eight coalitions of a clip cost beside one, and beside eight independent calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from benchmarks.measure import Table, Timing, interleave
from benchmarks.recording import load
from emomm_lib.labels import COALITIONS
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.video import VideoSettings, read_video
from emomm_study.mini.model.heldout import FRESH_SEED, heldout_clips
from emomm_study.paths import cache_dir
from emomm_study.systems.interface import Encoded, Query
from emomm_study.systems.omni import OmniModel
from emomm_study.systems.prompts import messages

MEDIA = MediaSettings(VideoSettings(num_frames=4), AudioSettings(max_seconds=3.0))
"""As in the mini profile."""
BATCH = 32
TARGET = 3.0
"""Times the cost of TAV alone that all eight coalitions may take."""
GRIDS = {128: (4, 16, 8), 512: (8, 16, 16), 2048: (8, 32, 32)}
"""Video tokens of a clip, and a (t, h, w) before merging that gives them."""
_AUDIO = (40, 93, 147, 200)
"""Audio tokens of the growth table's clips."""
_SENTENCE = "To me the trip was absolutely awful"

_CLIPS = """\
{n} surrogate clips, read from their files with the mini profile's media settings by Omni-mini. \
*shared*: `Experiment.predictions` into a fresh store, traces recorded, batches of {batch}: a clip is decoded \
and encoded once for all its coalitions, and every score is read as well as the letter. \
*independent*: what one does without sharing, the letter alone and no trace: for each coalition \
the media are read again, put through the transformers processor, and through one plain forward \
of the model, encoders included. Of {all} answers, {single} had the same letter as by \
`predictions` clip by clip, and {batched} in batches. The target for eight / TAV is at most {target:g}. \
Milliseconds a clip."""
_GROWTH = """\
The decoder alone: `OmniModel.answer`, traces recorded, on {clips} clips whose encoder outputs are \
made up: so many video tokens each, and {audio} audio tokens. TAV alone against the eight \
coalitions, asked in one call or in a call each. TAV alone is one pass over padded prompts of \
unlike length; sharing computes the videos first, which are equally long, under the faster kernel \
that unpadded batches get, so that eight can cost less than one. Milliseconds for {clips} clips."""


def shared(
    omni: OmniModel, clips: pd.DataFrame, root: Path, coalitions: Sequence[str]
) -> pd.DataFrame:
    """Predictions by :class:`Experiment` into a store that is new each time."""
    roots = {corpus.value: root for corpus in Corpus}
    with TemporaryDirectory(dir=cache_dir("benchmarks")) as folder:
        store = PredictionStore(Path(folder) / "store.sqlite")
        bench = Experiment(omni, clips, roots, store, MEDIA, BATCH, progress=False)
        return bench.predictions(clips, coalitions, traces=True)


@torch.inference_mode()
def independent(omni: OmniModel, clips: pd.DataFrame, root: Path, batch: int) -> pd.DataFrame:
    """``sample_id, coalition, label`` by the processor and a plain forward, nothing shared."""
    parts = []
    for coalition in COALITIONS:
        for start in range(0, len(clips), batch):
            part = clips.iloc[start : start + batch]
            logits = _plain_logits(omni, part.to_dict("records"), root, coalition)
            label = logits[:, omni.letter_ids].argmax(-1).tolist()
            parts.append(part[["sample_id"]].assign(coalition=coalition, label=label))
    return pd.concat(parts, ignore_index=True)


def _plain_logits(omni: OmniModel, clips: list[dict], root: Path, coalition: str) -> torch.Tensor:
    prompts = [
        omni.processor.apply_chat_template(
            messages(coalition, Corpus(clip["corpus"]), clip["text"]),
            tokenize=False,
            add_generation_prompt=True,
        )
        for clip in clips
    ]
    videos = sounds = None
    if "V" in coalition:
        videos = [read_video(root / clip["video_path"], MEDIA.video) for clip in clips]
    if "A" in coalition:
        sounds = [read_audio(root / clip["audio_path"], MEDIA.audio) for clip in clips]
    inputs = omni.processor(
        text=prompts,
        videos=[video.frames for video in videos] if videos else None,
        audio=sounds,
        videos_kwargs={"size": omni.frame_size, "do_sample_frames": False},
        padding=True,
        return_tensors="pt",
    )
    if videos:
        # The processor knows one frame rate a call, clips differ.
        patch = omni.processor.video_processor.temporal_patch_size
        inputs["video_second_per_grid"] = torch.tensor([patch / video.fps for video in videos])
    return omni.model(**inputs.to(omni.device)).logits[:, -1]


def clip_table(omni: OmniModel, n: int, repeats: int, warm_ups: int) -> Table:
    root, clips = heldout_clips(n, FRESH_SEED, progress=False)
    variants = {
        "shared, TAV alone": lambda: shared(omni, clips, root, ["TAV"]),
        "shared, eight": lambda: shared(omni, clips, root, COALITIONS),
        "independent, eight, clip by clip": lambda: independent(omni, clips, root, 1),
        f"independent, eight, batches of {BATCH}": lambda: independent(omni, clips, root, BATCH),
    }
    answers: dict[str, pd.DataFrame] = {}

    def keeping(name: str):
        return lambda: answers.update({name: variants[name]()})

    kept = {name: keeping(name) for name in variants}
    times = interleave(kept, repeats, device=omni.device.type, warm_ups=warm_ups)
    _, eight, single, batched = (answers[name] for name in variants)
    if eight["failure"].notna().any():
        raise RuntimeError(f"clips could not be read: {eight['failure'].dropna().unique()}")
    tav, all_eight, *_ = times.values()
    rows = [
        {
            "variant": name,
            "ms a clip": took.text(n),
            "/ TAV alone": took.over(tav),
            "/ shared, eight": took.over(all_eight),
        }
        for name, took in times.items()
    ]
    text = _CLIPS.format(
        n=n,
        batch=BATCH,
        single=_same_letters(eight, single),
        batched=_same_letters(eight, batched),
        all=len(eight),
        target=TARGET,
    )
    return Table("Eight coalitions of a clip", text, rows)


def _same_letters(left: pd.DataFrame, right: pd.DataFrame) -> int:
    both = left.merge(right, on=["sample_id", "coalition"], validate="1:1")
    return int((both["label_x"] == both["label_y"]).sum())


def encoded_clips(omni: OmniModel, tokens: int) -> list[Encoded]:
    """Clips with random encoder outputs: ``tokens`` of video, and various numbers of audio."""
    generator = torch.Generator().manual_seed(0)
    width = omni.model.config.get_text_config().hidden_size

    def random(count: int) -> torch.Tensor:
        return torch.randn(count, width, generator=generator).to(omni.device)

    grid = torch.tensor(GRIDS[tokens], device=omni.device)
    return [Encoded(random(tokens), grid, 0.5, random(audio)) for audio in _AUDIO]


def growth_times(omni: OmniModel, tokens: int, repeats: int, warm_ups: int) -> dict[str, Timing]:
    clips = encoded_clips(omni, tokens)
    by_coalition = [[Query(e, c, Corpus.CMU_MOSI, _SENTENCE) for e in clips] for c in COALITIONS]
    tav = by_coalition[COALITIONS.index("TAV")]
    every = [query for queries in by_coalition for query in queries]
    variants = {
        "TAV alone": lambda: omni.answer(tav, trace=True),
        "eight, one call": lambda: omni.answer(every, trace=True),
        "eight, a call each": lambda: [omni.answer(q, trace=True) for q in by_coalition],
    }
    return interleave(variants, repeats, device=omni.device.type, warm_ups=warm_ups)


def growth_table(omni: OmniModel, sizes: Sequence[int], repeats: int, warm_ups: int) -> Table:
    rows = []
    for tokens in sizes:
        times = growth_times(omni, tokens, repeats, warm_ups)
        tav, *eight = times
        rows.append(
            {
                "video tokens": str(tokens),
                **{f"{name}, ms": took.text() for name, took in times.items()},
                **{f"{name} / TAV": times[name].over(times[tav]) for name in eight},
            }
        )
    audio = ", ".join(map(str, _AUDIO))
    text = _GROWTH.format(clips=len(_AUDIO), audio=audio)
    return Table("Eight coalitions in the decoder, by length", text, rows)


def tables(*, device: str, quick: bool) -> list[Table]:
    """Eight coalitions against one, and against eight independent calls."""
    omni = load("plain", device)
    if quick:
        return [clip_table(omni, 8, 1, 0), growth_table(omni, [min(GRIDS)], 1, 0)]
    return [clip_table(omni, 96, 3, 1), growth_table(omni, list(GRIDS), 3, 1)]
