"""A part of the benchmark that looks like the whole: fewer clips, the same shares (``--clips N``)."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SIDES = ["corpus", "split"]
STRATA = ["corpus", "split", "stratum", "label_gt"]
"""What a part is stratified by."""
_BALANCED = (SIDES, ["stratum"], ["label_gt"], [*SIDES, "stratum"], [*SIDES, "label_gt"], STRATA)
_NAMED = {"stratum": "subset", "label_gt": "class"}


def part_of(manifest: pd.DataFrame, n: int) -> pd.DataFrame:
    """``n`` clips of a manifest, stratified by corpus, split, stratum and GT's class; all where
    there are no more.

    All clips stand in one order, which depends on the manifest alone and not on how its rows are
    sorted, and a part is its beginning: that of 200 lies in that of 400. Every split of every
    corpus comes first once. After that comes, again and again, the kind of clip that is furthest
    behind its shares, alone and crossed; which clip of a kind, its id decides.

    A group stays on its side, because the split is by group, and what is taken of it keeps its
    split. Whole groups are not taken: the surrogates' have some twenty clips, so that forty clips
    would be two speakers, most splits empty, and every interval and fold over speakers one over two
    of them. The same number of clips from many groups has the shares of the whole, and more
    speakers to tell it from.

    Returns rows as they stand in the manifest. Raises ``ValueError`` for an ``n`` that is no whole
    number from 1 on.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(
            f"clips = {n!r}: expected how many clips to take, a whole number from 1 on, or null "
            "for all"
        )
    if n >= len(manifest):
        return manifest
    kinds = manifest.groupby(STRATA, sort=True)
    order = _kinds_in_order(kinds.size(), n)
    taken = kinds.ngroup().map(pd.Series(order).value_counts()).fillna(0)
    luck = manifest["sample_id"].map(lambda name: hashlib.sha256(name.encode()).hexdigest())
    place = luck.groupby([manifest[column] for column in STRATA]).rank(method="first")
    return manifest[place <= taken].reset_index(drop=True)


def _kinds_in_order(sizes: pd.Series, n: int) -> NDArray[np.int64]:
    """The kinds ``(n,)`` of the first clips: places in ``sizes``, which counts each kind."""
    frame = sizes.index.to_frame(index=False)
    codes = [frame.groupby(columns).ngroup().to_numpy() for columns in _BALANCED]
    side, begins = codes[0], np.cumsum([0, *(code.max() + 1 for code in codes)])
    places = np.array([code + begin for code, begin in zip(codes, begins, strict=False)])
    left, total = sizes.to_numpy(copy=True), int(sizes.sum())
    wanted = np.bincount(places.ravel(), np.tile(left, len(places))).astype(np.int64)
    counts = np.zeros_like(wanted)
    order = np.empty(n, dtype=np.int64)
    for k in range(n):
        # In whole numbers, since rounding would decide ties otherwise on another machine.
        behind = ((k + 1) * wanted - total * counts)[places].sum(axis=0)
        new = counts[side] == 0
        allowed = (left > 0) & (new if new.any() else True)
        order[k] = kind = np.where(allowed, behind, np.iinfo(np.int64).min).argmax()
        left[kind] -= 1
        counts[places[:, kind]] += 1
    return order


def deviation(manifest: pd.DataFrame, part: pd.DataFrame) -> pd.DataFrame:
    """How far a part's shares are from the whole's, one row a value of what it is stratified by.

    Columns ``by`` (``corpus``, ``split``, ``subset``, ``class``, and ``all four`` crossed),
    ``value``, ``whole`` and ``part`` (shares, 0..1) and ``difference``, part less whole.
    """
    frames = []
    for columns in (*([column] for column in STRATA), STRATA):
        shares = [frame.value_counts(columns, normalize=True) for frame in (manifest, part)]
        own = pd.concat(shares, axis=1, keys=["whole", "part"]).fillna(0.0).sort_index()
        named = _NAMED.get(columns[0], columns[0]) if len(columns) == 1 else "all four"
        own.insert(0, "value", [", ".join(map(str, key)) for key in own.index])
        own.insert(0, "by", named)
        frames.append(own)
    table = pd.concat(frames, ignore_index=True)
    return table.assign(difference=table["part"] - table["whole"])


def described(manifest: pd.DataFrame, part: pd.DataFrame, n: int) -> str:
    """A sentence on the part of ``n`` that was taken of a manifest, with its largest deviations."""
    if len(part) == len(manifest):
        more = f", of the {n:,} that clips asks for" if n > len(part) else ""
        return f"All {len(part):,} clips{more}: no part."
    largest = deviation(manifest, part).set_index("by")["difference"].abs().groupby(level=0).max()
    ways = ["corpus", "split", "subset", "class", "all four"]
    shares = ", ".join(f"{way} {100 * largest[way]:.1f}" for way in ways)
    return (
        f"A part of {len(part):,} of {len(manifest):,} clips, from {_groups(part):,} of "
        f"{_groups(manifest):,} groups. Largest difference to the whole's shares, in points: {shares}."
    )


def _groups(clips: pd.DataFrame) -> int:
    return int((clips["corpus"] + "/" + clips["speaker_id"]).nunique())
