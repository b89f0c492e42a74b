"""What each surrogate clip says and shows: drawn once from the labels, before anything is rendered.

A plan is a table with one row a clip: ids, labels and scores of Table 3's kind, the class each
modality really *shows*, whether it does so emphatically, the sentence, and two seeds (speaker and
clip). Rendering adds nothing to it, so a plan decides its clips completely.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from emomm_lib.labels import CLASSES, MODALITIES, SOURCES, polarity
from emomm_study.corpora.checks import sample_id
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.mini.surrogate.cue import (
    INFORMATIVE_CUE,
    EmphasisCue,
    Expressiveness,
    draw_emphasis,
    draw_shown,
)
from emomm_study.mini.surrogate.joint import label_table
from emomm_study.mini.surrogate.lexicon import LEXICONS
from emomm_study.mini.surrogate.speaker import Film

LANGUAGE = {Corpus.CH_SIMS: "zh", Corpus.CMU_MOSI: "en"}
_VIDEOS = {Corpus.CH_SIMS: 120, Corpus.CMU_MOSI: 93}
"""Videos (speakers) a corpus has; 93 is CMU-MOSI's own number."""
_YOUTUBE = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
CLASS_AGREEMENT = 0.90
"""How often a modality of a training clip has GT's class, not just its polarity."""
WEAKER_OR_STRONGER = np.array([1, 0, 2, 4, 3])
"""The class of the same polarity that a training clip's modality has else, by GT."""


@dataclass(frozen=True)
class SurrogateSettings:
    """Everything that decides a surrogate corpus besides the published label statistics."""

    seed: int = 20260
    cue: EmphasisCue = INFORMATIVE_CUE
    expressiveness: Expressiveness = field(default_factory=Expressiveness)
    film: Film = Film()


def _corpus_rng(settings: SurrogateSettings, corpus: Corpus, what: int) -> np.random.Generator:
    """Independent streams, so that changing the cue changes nothing but what follows from it."""
    return np.random.default_rng([settings.seed, list(Corpus).index(corpus), what])


def _video_ids(corpus: Corpus, n: int, rng: np.random.Generator) -> list[str]:
    """Ids of the real corpora's shapes, awkward ones included."""
    if corpus is Corpus.CMU_MOSI:
        ids: dict[str, None] = {}
        while len(ids) < n:
            ids["".join(rng.choice(_YOUTUBE, 11))] = None
        return list(ids)
    return [f"aqgy{i % 5 + 1}_{i:04d}" if i % 4 == 0 else f"video_{i:04d}" for i in range(1, n + 1)]


def _draw_scores(labels: np.ndarray, corpus: Corpus, rng: np.random.Generator) -> np.ndarray:
    scores = np.empty(labels.shape)
    for label in range(len(CLASSES)):
        where = labels == label
        scores[where] = rng.choice(GRIDS[corpus].scores(label), where.sum())
    return scores


def _columns(prefix: str, values: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {f"{prefix}_{n.lower()}": values[:, i] for i, n in enumerate(names)}


def _express(
    labels: np.ndarray,
    emphatic: np.ndarray,
    languages: np.ndarray,
    expressiveness: Expressiveness,
    rng: np.random.Generator,
    text_rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Shown classes, emphasis and sentences of clips with labels ``(N, 3)`` in T, A, V."""
    shown = draw_shown(labels, emphatic, expressiveness, rng)
    text = [
        LEXICONS[language].sentence(s, e, text_rng)
        for language, s, e in zip(languages, shown[:, 0], emphatic[:, 0], strict=True)
    ]
    return {
        **_columns("shown", shown, MODALITIES),
        **_columns("emphatic", emphatic, MODALITIES),
        "text": np.array(text),
    }


def corpus_plan(corpus: Corpus, settings: SurrogateSettings) -> pd.DataFrame:
    """The plan of one surrogate corpus: 2,000 clips whose labels satisfy Tables 3 and 4.

    CMU-MOSI's clips have a score of the ground truth alone, as on disk: those of its modalities are
    the means of annotators' votes.
    """
    labels = label_table(corpus)[[f"label_{s}" for s in SOURCES]].to_numpy()
    order = _corpus_rng(settings, corpus, 0).permutation(len(labels))
    labels = labels[order]
    rng = _corpus_rng(settings, corpus, 1)
    videos = _video_ids(corpus, _VIDEOS[corpus], rng)
    share = rng.dirichlet(np.full(len(videos), 12.0))
    video = np.sort(rng.choice(len(videos), len(labels), p=share))
    number = np.arange(len(labels)) - np.searchsorted(video, video) + 1
    width = 4 if corpus is Corpus.CH_SIMS else 1
    video_id, clip_id = np.array(videos)[video], [f"{n:0{width}d}" for n in number]
    sample = [sample_id(corpus, v, c) for v, c in zip(video_id, clip_id, strict=True)]
    scores = _draw_scores(labels, corpus, _corpus_rng(settings, corpus, 2))
    scored = SOURCES if corpus is Corpus.CH_SIMS else SOURCES[:1]
    emphatic = draw_emphasis(
        labels[:, 1:] == labels[:, :1], settings.cue, _corpus_rng(settings, corpus, 3)
    )
    seeds = _corpus_rng(settings, corpus, 5)
    speaker_seeds = seeds.integers(1 << 62, size=len(videos))
    language = np.full(len(labels), LANGUAGE[corpus])
    return pd.DataFrame(
        {
            "corpus": corpus.value,
            "language": language,
            "sample_id": sample,
            "video_id": video_id,
            "clip_id": clip_id,
            **_columns("label", labels, SOURCES),
            **_columns("score", scores[:, : len(scored)], scored),
            **_express(
                labels[:, 1:],
                emphatic,
                language,
                settings.expressiveness,
                _corpus_rng(settings, corpus, 4),
                _corpus_rng(settings, corpus, 6),
            ),
            "speaker_seed": speaker_seeds[video],
            "clip_seed": seeds.integers(1 << 62, size=len(labels)),
        }
    )


def training_plan(
    n: int, seed: int, expressiveness: Expressiveness = Expressiveness()
) -> pd.DataFrame:
    """Clips that are in no benchmark, for training a reader that never learns to arbitrate.

    Every clip has a speaker of its own, both languages and corpora's grids alternate, GT is
    uniform, and the three modalities agree with GT in polarity (mostly in class, too). Emphasis
    is random and independent of everything.
    """
    rng = np.random.default_rng([seed, 77])
    corpora = np.where(np.arange(n) % 2 == 0, Corpus.CH_SIMS, Corpus.CMU_MOSI)
    gt = rng.integers(0, 5, n)
    other = WEAKER_OR_STRONGER[gt]
    labels = np.where(rng.random((n, 3)) < CLASS_AGREEMENT, gt[:, None], other[:, None])
    assert (polarity(labels) == polarity(gt)[:, None]).all()
    languages = np.array([LANGUAGE[Corpus(c)] for c in corpora])
    scores = np.empty(n)
    for corpus in Corpus:
        where = corpora == corpus
        scores[where] = _draw_scores(gt[where], corpus, rng)
    emphatic = rng.random((n, 3)) < 0.5
    return pd.DataFrame(
        {
            "corpus": corpora.astype(str),
            "language": languages,
            "label_gt": gt,
            **_columns("label", labels, MODALITIES),
            "score_gt": scores,
            **_express(labels, emphatic, languages, expressiveness, rng, rng),
            "speaker_seed": rng.integers(1 << 62, size=n),
            "clip_seed": rng.integers(1 << 62, size=n),
        }
    )
