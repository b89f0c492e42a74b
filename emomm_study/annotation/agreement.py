"""How far annotators agree: Fleiss' kappa, mean votes and classes, disagreement (Appendix A.1-A.2).

Everything here takes *votes*: one row an answer, with ``annotator, modality`` (T, A, V), ``seq,
sample_id`` and ``label`` (-1, 0, 1), as :meth:`emomm_study.annotation.campaign.Campaign.votes` gives
them. An *item* is one modality of one clip.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.stats.inter_rater import cohens_kappa

from emomm_lib.labels import MODALITIES
from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap, intervals_of
from emomm_lib.metrics.fleiss import fleiss_of, fleiss_parts
from emomm_study.annotation.campaign import ANNOTATORS_A_CLIP, VOTE_NAMES, VOTES
from emomm_study.corpora.scores import Corpus, score_to_label

RATERS = ANNOTATORS_A_CLIP
COLUMNS = ("annotator", "modality", "seq", "sample_id", "label")
POOLED = "all"
"""Name of a kappa over the items of all modalities together."""
MEAN = "mean"
"""Name of the mean of the modalities' three kappas."""
COUNTS = tuple(VOTE_NAMES.values())


def check_votes(votes: pd.DataFrame, raters: int = RATERS) -> pd.DataFrame:
    """The votes if they are well formed.

    Raises ``ValueError`` naming the first offenders: missing columns, no row at all, an unknown
    modality, a label outside {-1, 0, 1}, an annotator twice on one item, one ``seq`` for two
    clips, and an item with more than ``raters`` votes. Fewer votes are no error: who uses items
    leaves those out and counts them.
    """
    if missing := [c for c in COLUMNS if c not in votes]:
        raise ValueError(f"votes: missing columns {', '.join(missing)}; found {list(votes)}")
    if votes.empty:
        raise ValueError("there are no votes yet; look at the campaign's progress")
    for column, allowed in (("modality", MODALITIES), ("label", VOTES)):
        if len(bad := votes[~votes[column].isin(allowed)]):
            raise ValueError(f"{column} is one of {allowed}; got {_shown(bad, (column,))}")
    if (twice := votes.duplicated(["annotator", "modality", "sample_id"], keep=False)).any():
        raise ValueError(f"an annotator votes once on an item; twice: {_shown(votes[twice])}")
    clips = votes[["seq", "sample_id"]].drop_duplicates()
    if (mixed := clips["seq"].duplicated(False) | clips["sample_id"].duplicated(False)).any():
        raise ValueError(f"a seq belongs to one clip; mixed up: {_shown(clips[mixed])}")
    number = votes.groupby(["modality", "sample_id"])["label"].transform("size")
    if len(crowded := votes[number > raters]):
        raise ValueError(f"an item has {raters} votes; more on {_shown(crowded)}")
    return votes


def _shown(rows: pd.DataFrame, also: tuple[str, ...] = ()) -> str:
    """The first rows of a complaint."""
    keys = [c for c in (*COLUMNS[:4], *also) if c in rows]
    shown = [" ".join(map(str, row)) for row in rows[keys].head(3).itertuples(index=False)]
    more = f", … ({len(rows)} rows)" if len(rows) > len(shown) else ""
    return "; ".join(shown) + more


def vote_counts(votes: pd.DataFrame, raters: int = RATERS) -> pd.DataFrame:
    """Votes of each item that has any, one row an item.

    Returns ``sample_id, seq, modality, negative, neutral, positive`` and ``complete`` (exactly
    ``raters`` votes), sorted by ``sample_id`` and T, A, V. Raises like :func:`check_votes`.
    """
    check_votes(votes, raters)
    keys = ["sample_id", "seq", "modality"]
    counts = votes.groupby([*keys, "label"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=VOTES, fill_value=0).set_axis(COUNTS, axis=1).reset_index()
    counts["complete"] = counts[list(COUNTS)].sum(axis=1) == raters
    counts["modality"] = pd.Categorical(counts["modality"], MODALITIES, ordered=True)
    counts = counts.sort_values(["sample_id", "modality"], ignore_index=True)
    return counts.astype({"modality": str})


def fleiss(
    votes: pd.DataFrame,
    *,
    raters: int = RATERS,
    by_video: bool = False,
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """Fleiss' kappa of each modality, of all items together, and the modalities' mean (A.1).

    Returns ``modality`` (T, A, V, all, mean), ``kappa`` with the bootstrap interval ``low, high``
    over clips (``by_video``: over whole videos), ``observed`` and ``expected`` agreement (NaN for
    the mean), ``items`` with ``raters`` votes and ``incomplete`` items, which are left out. A clip
    is resampled with all its items. Raises like :func:`check_votes`, and where no item is complete.
    """
    counts = vote_counts(votes, raters)
    whole = counts[counts["complete"]]
    if whole.empty:
        raise ValueError(f"none of {len(counts)} items has {raters} votes yet")
    clips = pd.Index(whole["sample_id"].unique())
    parts = np.zeros((len(MODALITIES), len(clips), len(VOTES) + 2))
    for k, modality in enumerate(MODALITIES):
        own = whole[whole["modality"] == modality]
        parts[k, clips.get_indexer(own["sample_id"])] = fleiss_parts(own[list(COUNTS)])
    width = parts.shape[-1]

    def each(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., 3 width) to the results (..., T A V all, observed expected kappa)."""
        by_modality = sums.reshape(*sums.shape[:-1], len(MODALITIES), width)
        return fleiss_of(np.concatenate([by_modality, by_modality.sum(-2, keepdims=True)], axis=-2))

    def kappas(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        kappa = each(sums)[..., 2]
        mean = kappa[..., : len(MODALITIES)].mean(axis=-1, keepdims=True)
        return np.concatenate([kappa, mean], axis=-1)

    contributions = np.concatenate(list(parts), axis=1)
    found = intervals_of(
        contributions,
        kappas,
        clusters=clips.str.rpartition("/").get_level_values(0).to_numpy() if by_video else None,
        bootstrap=bootstrap,
    )
    agreement = np.vstack([each(contributions.sum(axis=0))[:, :2], [np.nan, np.nan]])
    size = counts.groupby(["modality", "complete"]).size().unstack(fill_value=0)
    size = size.reindex(index=MODALITIES, columns=[True, False], fill_value=0)
    rows = []
    for k, name in enumerate((*MODALITIES, POOLED, MEAN)):
        own = size.loc[[name] if name in MODALITIES else list(MODALITIES)].sum()
        rows.append(
            {
                "modality": name,
                "kappa": found[k].value,
                "low": found[k].low,
                "high": found[k].high,
                "observed": agreement[k, 0],
                "expected": agreement[k, 1],
                "items": int(own[True]),
                "incomplete": int(own[False]),
            }
        )
    return pd.DataFrame(rows)


def mean_scores(votes: pd.DataFrame, raters: int = RATERS) -> pd.DataFrame:
    """Mean votes of the clips, on the 0.2 grid for five votes (Sec. 3.1).

    Returns columns ``score_t, score_a, score_v`` indexed by ``sample_id``, NaN where an item has
    not ``raters`` votes. Raises like :func:`check_votes`.
    """
    counts = vote_counts(votes, raters)
    counts["score"] = ((counts["positive"] - counts["negative"]) / raters).where(counts["complete"])
    scores = counts.pivot(index="sample_id", columns="modality", values="score")
    return (
        scores.reindex(columns=MODALITIES)
        .set_axis([f"score_{m.lower()}" for m in MODALITIES], axis=1)
        .rename_axis(columns=None)
    )


def mean_labels(votes: pd.DataFrame, corpus: Corpus | str = Corpus.CMU_MOSI) -> pd.DataFrame:
    """Classes 0..4 of the mean votes by a corpus's mapping, clips with all three modalities only.

    Returns integer columns ``label_t, label_a, label_v`` indexed by ``sample_id``. The paper does
    not say by which of its two mappings the means became classes (Sec. 3.1, A.1).
    """
    scores = mean_scores(votes).dropna()
    return pd.DataFrame(
        {name.replace("score", "label"): score_to_label(scores[name], corpus) for name in scores},
        index=scores.index,
    )


def disagreements(votes: pd.DataFrame, raters: int = RATERS) -> pd.DataFrame:
    """Every item with votes, the most disputed first.

    Returns ``seq, sample_id, modality, negative, neutral, positive, complete``, ``score`` (the mean
    vote), ``entropy`` of the votes in bits, ``spread`` (their standard deviation) and ``split``
    (both -1 and +1 were voted); sorted by entropy, then spread. Raises like :func:`check_votes`.
    """
    counts = vote_counts(votes, raters)
    number = counts[list(COUNTS)].to_numpy()
    shares = number / number.sum(axis=1, keepdims=True)
    mean = shares @ VOTES
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    counts["score"] = mean
    # Of three equal shares the sum ends in another last bit than of the same in another order.
    counts["entropy"] = np.round(-(shares * logs).sum(axis=1), 12) + 0.0
    counts["spread"] = np.round(np.sqrt(shares @ np.square(VOTES) - mean**2), 12)
    counts["split"] = (counts["negative"] > 0) & (counts["positive"] > 0)
    order = ["seq", "sample_id", "modality", *COUNTS, "complete"]
    return counts.sort_values(
        ["entropy", "spread"], ascending=False, kind="stable", ignore_index=True
    )[[*order, "score", "entropy", "spread", "split"]]


def patterns(votes: pd.DataFrame, corpus: Corpus | str = Corpus.CMU_MOSI) -> pd.DataFrame:
    """How many complete items have which votes: ``modality, negative, neutral, positive, score``,
    ``label`` (0..4, the corpus's mapping) and ``items``; patterns that do not occur are left out.
    """
    counts = vote_counts(votes)
    counts = counts[counts["complete"]]
    found = counts.groupby(["modality", *COUNTS]).size().rename("items").reset_index()
    found["score"] = (found["positive"] - found["negative"]) / RATERS
    found["label"] = score_to_label(found["score"], corpus)
    found["modality"] = pd.Categorical(found["modality"], MODALITIES, ordered=True)
    found = found.sort_values(["modality", "score", "neutral"], ignore_index=True)
    return found.astype({"modality": str})[["modality", *COUNTS, "score", "label", "items"]]


def _wide(votes: pd.DataFrame) -> pd.DataFrame:
    """Votes ``(items, annotators)`` indexed by modality and clip, NaN where one did not vote."""
    check_votes(votes, votes["annotator"].nunique() if "annotator" in votes else RATERS)
    wide = votes.pivot(index=["modality", "sample_id"], columns="annotator", values="label")
    return wide[sorted(wide.columns, key=lambda name: (len(name), name))]


def _of_the_others(wide: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each vote the mean and the sole majority of the item's other votes, NaN where none."""
    values = wide.to_numpy(dtype=float)
    cast = [(values == vote).astype(float) for vote in VOTES]
    others = np.stack([own.sum(axis=1, keepdims=True) - own for own in cast], axis=-1)
    number = others.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        mean = np.where(number > 0, others @ VOTES / number, np.nan)
    top = others.max(axis=-1)
    sole = (number > 0) & ((others == top[..., None]).sum(axis=-1) == 1)
    majority = np.where(sole, np.take(VOTES, others.argmax(axis=-1)), np.nan)
    return mean, majority


def annotator_report(votes: pd.DataFrame) -> pd.DataFrame:
    """What each annotator's votes look like beside the others', by modality and over all.

    Returns ``annotator, modality`` (T, A, V, all), ``answers``, the shares ``negative, neutral,
    positive`` of the answers, ``leaning`` (mean of the vote minus the mean of the others' on the
    same item, in [-2, 2]: a milder or sterner eye), and ``off_majority``: the share of ``judged``
    answers that differ from the sole majority of the others, where there is one. One who does not
    look shows in high ``off_majority`` and shares that are the same in all modalities.
    """
    wide = _wide(votes)
    mean, majority = _of_the_others(wide)
    modalities = wide.index.get_level_values("modality")
    rows = []
    for column, annotator in enumerate(wide):
        vote = wide[annotator].to_numpy(dtype=float)
        for modality in (*MODALITIES, POOLED):
            own = ~np.isnan(vote) & ((modalities == modality) | (modality == POOLED))
            if not own.any():
                continue
            judged = own & ~np.isnan(majority[:, column])
            off = vote[judged] != majority[judged, column]
            apart = (vote - mean[:, column])[own & ~np.isnan(mean[:, column])]
            rows.append(
                {"annotator": annotator, "modality": modality, "answers": int(own.sum())}
                | {name: float((vote[own] == v).mean()) for v, name in VOTE_NAMES.items()}
                | {
                    "leaning": float(apart.mean()) if len(apart) else np.nan,
                    "off_majority": float(off.mean()) if len(off) else np.nan,
                    "judged": int(judged.sum()),
                }
            )
    return pd.DataFrame(rows)


def confusion(votes: pd.DataFrame) -> pd.DataFrame:
    """Each annotator's votes against the others' sole majority on the same item.

    Returns ``annotator, modality, majority, label, items``, for the combinations that occur; an
    item whose other votes have no sole majority is left out.
    """
    wide = _wide(votes)
    others = pd.DataFrame(_of_the_others(wide)[1], index=wide.index, columns=wide.columns)
    pairs = pd.DataFrame({"label": wide.stack(), "majority": others.stack()}).dropna().astype(int)
    keys = ["annotator", "modality", "majority", "label"]
    return pairs.reset_index().groupby(keys).size().rename("items").reset_index()


def pairwise(votes: pd.DataFrame) -> pd.DataFrame:
    """Agreement of any two annotators on the items that both judged.

    Returns ``modality`` (T, A, V, all), ``first, second``, ``items``, ``agreement`` (share of equal
    votes) and Cohen's ``kappa`` (NaN where both gave one and the same vote throughout); pairs
    without a common item are left out.
    """
    wide = _wide(votes)
    rows = []
    for modality in (*MODALITIES, POOLED):
        own = wide if modality == POOLED else wide[wide.index.isin([modality], level="modality")]
        for first, second in combinations(wide, 2):
            both = own[[first, second]].dropna().astype(int)
            if both.empty:
                continue
            table = pd.crosstab(both[first], both[second]).reindex(
                index=VOTES, columns=VOTES, fill_value=0
            )
            alike = len(np.unique(both)) == 1
            rows.append(
                {
                    "modality": modality,
                    "first": first,
                    "second": second,
                    "items": len(both),
                    "agreement": float((both[first] == both[second]).mean()),
                    "kappa": np.nan if alike else cohens_kappa(table, return_results=False),
                }
            )
    return pd.DataFrame(
        rows, columns=["modality", "first", "second", "items", "agreement", "kappa"]
    )
