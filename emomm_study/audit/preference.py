"""What Eq. 6's softmax over nMAS can and cannot be, beside the shares of Tables 7 and 8.

nMAS (Eq. 5) is a mean of attention weights: with K_m tokens of modality m it is at most 1 / K_m,
and K_T nMAS_T + K_A nMAS_A + K_V nMAS_V is at most 1. From that alone follow how far the printed
preference can be from uniform, how unequal two of its entries can be, and what remains of the
printed shares when they are put through it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import e
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emomm_lib.labels import MODALITIES
from emomm_study.paper import claims, hyperparameters, table
from emomm_study.paths import PAPER_DATA

CASES = {7: "TAV", 8: "TV"}
"""Tables with attention budgets, and the modalities that are present in them."""
READINGS = ("mass", "nmas")
"""The printed shares are of attention summed over tokens, or of nMAS, attention a token."""
ROUNDING = 5e-5
"""Half a unit in the last printed digit of Tables 7 and 8."""
LENGTHS = tuple(np.unique(np.geomspace(16, 16384, 41).round().astype(int)).tolist())
_SOURCES = {m.lower(): m for m in MODALITIES}


@dataclass(frozen=True)
class TokenRates:
    """Tokens a second of each modality: assumptions, of the size of Qwen2.5-Omni's.

    Attributes
    ----------
    text
        A transcript of about three words a second.
    audio
        One token for 40 ms.
    video
        Two frames a second, which share their tokens, at 448 x 448 pixels.
    """

    text: float = 4.0
    audio: float = 25.0
    video: float = 256.0

    def counts(self, length: ArrayLike, present: str = "TAV") -> NDArray[np.float64]:
        """Tokens ``(..., M)`` of the present modalities in inputs of these total lengths.

        Not rounded, so that curves are smooth, but at least one of each: short inputs are a little
        longer than asked for. Raises ``ValueError`` for an unknown modality or a rate of 0.
        """
        by = dict(zip(MODALITIES, (self.text, self.audio, self.video), strict=True))
        if not present or not set(present) <= set(by) or min(by.values()) <= 0:
            raise ValueError(f"present is some of {MODALITIES}, rates positive: {present!r}, {by}")
        rates = np.array([by[m] for m in present])
        length = np.asarray(length, dtype=np.float64)
        return np.maximum(length[..., None] * rates / rates.sum(), 1)


def softmax(nmas: ArrayLike) -> NDArray[np.float64]:
    """Eq. 6 over the last dimension, whose modalities are all present."""
    nmas = np.asarray(nmas, dtype=np.float64)
    raised = np.exp(nmas - nmas.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def distance_from_uniform(preference: ArrayLike) -> NDArray[np.float64]:
    """Total variation ``(...)`` between distributions ``(..., M)`` and the uniform one, in [0, 1).

    The largest amount by which the two differ on a set of modalities.
    """
    preference = np.asarray(preference, dtype=np.float64)
    return np.abs(preference - 1 / preference.shape[-1]).sum(axis=-1) / 2


def largest_distance(counts: ArrayLike) -> NDArray[np.float64]:
    """How far Eq. 6 can be from uniform with these token counts, whatever the attention.

    ``counts`` is ``(..., M)``, at least one token each. On a set S of modalities softmax exceeds
    its uniform share most where nMAS is 0 outside; inside, the sum of exp(nMAS) is convex, and so
    largest with all attention on one modality; a single one of K tokens, the fewest, does best:
    (M - 1)(e^(1/K) - 1) / (M (e^(1/K) + M - 1)), about (M - 1) / (M^2 K).
    """
    counts = np.asarray(counts, dtype=np.float64)
    if (counts < 1).any():
        raise ValueError(f"every present modality has a token or more; got {counts.min()}")
    m, gain = counts.shape[-1], np.expm1(1 / counts.min(axis=-1))
    return (m - 1) * gain / (m * (gain + m))


def largest_ratio(counts: ArrayLike) -> NDArray[np.float64]:
    """How unequal two entries of Eq. 6 can be: e^(1/K), K the fewest tokens; never above e.

    The same holds of any average of such preferences, over heads, layers or clips.
    """
    return np.exp(1 / np.asarray(counts, dtype=np.float64).min(axis=-1))


def nmas_of_shares(
    shares: ArrayLike, counts: ArrayLike, reading: str, attended: float = 1.0
) -> NDArray[np.float64]:
    """The nMAS ``(..., M)`` behind shares, read as attention mass or as nMAS itself.

    Parameters
    ----------
    shares, counts
        ``(..., M)``: shares that sum to about 1, and tokens.
    reading
        ``mass``: attention summed over a modality's tokens; ``nmas``: attention a token.
    attended
        Attention on all tokens of the modalities together. 1, all there is, is the case in which
        preferences are farthest from uniform: the prompt and the sinks at its start get some.
    """
    if reading not in READINGS:
        raise ValueError(f"shares are read as one of {READINGS}; got {reading!r}")
    if not 0 <= attended <= 1:
        raise ValueError(f"the attention on all modalities is in [0, 1]; got {attended}")
    shares, counts = np.broadcast_arrays(np.asarray(shares, float), np.asarray(counts, float))
    density = shares / counts if reading == "mass" else shares
    return attended * density / (density * counts).sum(axis=-1, keepdims=True)


def budgets(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """The printed attention budgets of Tables 7 and 8.

    Returns ``table, method, layer, T, A, V``, twenty rows, shares in 0..1, NaN where the modality
    is missing from the clip. Raises ``ValueError`` where a missing modality has a share.
    """
    frames = []
    for number, present in CASES.items():
        frame = table(number, folder).query("item == 'attention'")
        wide = frame.pivot(index=["method", "layer"], columns="source", values="value")
        wide = wide.rename(columns=_SOURCES).reindex(columns=list(MODALITIES)).reset_index()
        missing = [m for m in MODALITIES if m not in present]
        if len(odd := wide[(wide[missing] != 0).any(axis=1)]):
            raise ValueError(
                f"{folder / f'table{number}.csv'}: {odd['method'].iloc[0]}, layer "
                f"{odd['layer'].iloc[0]} has a share for a modality that the clip lacks, one of "
                f"{', '.join(missing)}; expected 0, restore the file"
            )
        wide[missing] = np.nan
        frames.append(wide.assign(table=number))
    frame = pd.concat(frames, ignore_index=True).rename_axis(columns=None)
    # Baseline before CHASE.
    order = frame.assign(after=frame["method"] == "CHASE").sort_values(["table", "after", "layer"])
    frame = order.drop(columns="after").reset_index(drop=True)
    return frame[["table", "method", "layer", *MODALITIES]].astype({"layer": int})


def _rows(folder: Path):
    """``(table, method, layer), present modalities, shares`` of each printed budget."""
    for row in budgets(folder).itertuples(index=False):
        present = CASES[row.table]
        yield (
            (row.table, row.method, row.layer),
            present,
            np.array([getattr(row, m) for m in present]),
        )


def printed_ratios(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Whether each printed budget could be Eq. 6's preference on some input: its ratio is above e.

    Returns ``table, method, layer, most, least, ratio, at_least, limit, possible``: the modalities
    of the largest and the smallest share, the ratio of the two, what it is at least before
    rounding, the limit e that Eq. 6 never passes, and whether the ratio stays below it.
    """
    rows = []
    for key, present, shares in _rows(folder):
        high, low = int(shares.argmax()), int(shares.argmin())
        ratio = shares[high] / shares[low] if shares[low] > 0 else np.inf
        at_least = (shares[high] - ROUNDING) / (shares[low] + ROUNDING)
        names = (present[high], present[low])
        rows.append((*key, *names, ratio, at_least, e, bool(at_least <= e)))
    columns = ["table", "method", "layer", "most", "least", "ratio", "at_least", "limit"]
    return pd.DataFrame(rows, columns=[*columns, "possible"])


def most_tokens(nmas: float) -> int:
    """How many tokens a modality has at most, if its nMAS is this large: ``most_tokens(0.2) == 5``.

    ``nmas`` is in (0, 1]; a mean weight of K tokens is at most 1 / K (Eq. 5).
    """
    if not 0 < nmas <= 1:
        raise ValueError(f"a mean of attention weights that is above 0 is in (0, 1]; got {nmas}")
    return int(np.floor(1 / nmas + 1e-9))


def literal_budgets(counts: dict[str, float], folder: Path = PAPER_DATA) -> pd.DataFrame:
    """What Eq. 6 as printed makes of each printed budget, with these token counts.

    Returns ``table, method, layer, reading, modality, printed, nmas, preference``: the printed
    share, the nMAS behind it under each of :data:`READINGS`, and its softmax over the modalities
    that are present. ``counts`` has a number of tokens for T, A and V.
    """
    if missing := set(MODALITIES) - set(counts):
        raise ValueError(f"counts needs tokens of {MODALITIES}; {sorted(missing)} are missing")
    rows = []
    for key, present, shares in _rows(folder):
        tokens = [counts[m] for m in present]
        for reading in READINGS:
            density = nmas_of_shares(shares, tokens, reading)
            values = zip(present, shares, density, softmax(density), strict=True)
            rows += [(*key, reading, *value) for value in values]
    columns = ["table", "method", "layer", "reading", "modality", "printed", "nmas", "preference"]
    return pd.DataFrame(rows, columns=columns)


def distance_by_length(
    lengths: Iterable[int] = LENGTHS,
    rates: TokenRates | None = None,
    folder: Path = PAPER_DATA,
) -> pd.DataFrame:
    """How far Eq. 6's preference is from uniform as inputs grow: the bound, and printed budgets.

    Returns ``table, reading, length, fewest, distance``. ``reading`` is ``bound``, the largest
    distance whatever the attention, or how the printed baseline budgets are read; ``distance`` is
    then the largest over a table's layers. ``fewest`` is the number of tokens of the shortest
    modality: it is this that sets the scale, and not the length of the whole.
    """
    lengths, rates = np.array([*lengths]), rates or TokenRates()
    printed: dict[int, list] = {number: [] for number in CASES}
    for (number, method, _), _, shares in _rows(folder):
        if method == "baseline":
            printed[number].append(shares)
    rows = []
    for number, present in CASES.items():
        counts = rates.counts(lengths, present)
        found = {"bound": largest_distance(counts)}
        for reading in READINGS:
            density = nmas_of_shares(np.array(printed[number])[:, None], counts[None], reading)
            found[reading] = distance_from_uniform(softmax(density)).max(axis=0)
        rows += [
            (number, reading, int(length), fewest, distance)
            for reading, distances in found.items()
            for length, fewest, distance in zip(
                lengths, counts.min(axis=-1), distances, strict=True
            )
        ]
    return pd.DataFrame(rows, columns=["table", "reading", "length", "fewest", "distance"])


def largest_spread(counts: ArrayLike) -> NDArray[np.float64]:
    """How much the scores of Eq. 11 of two heads can differ under Eq. 6, whatever gate and input.

    The slope of the divergence in entry m of the preference is log(2 pi_m / (pi_m + g_m)) / 2,
    between log(2 pi_m / (pi_m + 1)) / 2 and log(2) / 2, and two preferences are at most twice
    :func:`largest_distance` apart: the product bounds the difference, d log(1 + 1 / pi_least). A
    bound, not what occurs. ``counts`` is ``(..., M)``.
    """
    counts = np.asarray(counts, dtype=np.float64)
    # No entry is smaller than one without attention beside the fewest tokens with all of it.
    least = 1 / (largest_ratio(counts) + counts.shape[-1] - 1)
    return largest_distance(counts) * np.log1p(1 / least)


def spread_by_length(
    lengths: Iterable[int] = LENGTHS, rates: TokenRates | None = None
) -> pd.DataFrame:
    """In which decimal Eq. 11 ranks heads under Eq. 6, as inputs of T, A and V grow.

    Returns ``length, fewest, spread, decimal``: tokens of the input and of its shortest modality,
    :func:`largest_spread`, and the first decimal in which two heads' scores can differ by a unit.
    """
    lengths = np.array([*lengths])
    counts = (rates or TokenRates()).counts(lengths)
    spread = largest_spread(counts)
    decimal = np.ceil(-np.log10(spread)).astype(int)
    columns = {"length": lengths, "fewest": counts.min(axis=-1), "spread": spread}
    return pd.DataFrame(columns | {"decimal": decimal})


def largest_bias(share: ArrayLike, strength: float) -> NDArray[np.float64]:
    """The largest b_m of Eq. 13 for a modality of this preference, with all of the gate on it.

    log(1 - eta p + eta p / pi_m), epsilon_a = 0; ``strength`` is eta p of Eq. 12, in [0, 1].
    """
    return np.log(1 - strength + strength / np.asarray(share, dtype=np.float64))


def bias_bounds(counts: dict[str, float], folder: Path = PAPER_DATA) -> pd.DataFrame:
    """The largest bias on video that Eq. 13 allows, by how Eq. 6 is read, for each baseline budget.

    Returns ``table, layer, preference, share, bias, factor``: ``preference`` is ``softmax`` (Eq. 6
    as printed, on nMAS behind the printed shares read as nMAS) or ``share`` (the printed shares
    themselves); ``bias`` the largest b_V at p = 1 and the published eta; ``factor`` what e^(gamma
    b_V) multiplies the weight of a video token by, before normalisation (Eq. 15). A budget is a
    layer's, a mean over heads: this is what a head with that budget would get.
    """
    settings = hyperparameters(folder)
    eta, gamma = (float(settings[n].value) for n in ("max_steering", "inter_strength"))
    frame = literal_budgets(counts, folder)
    frame = frame.query("method == 'baseline' and reading == 'nmas' and modality == 'V'")
    rows = [
        (row.table, row.layer, kind, share)
        for row in frame.itertuples()
        for kind, share in (("softmax", row.preference), ("share", row.printed))
    ]
    found = pd.DataFrame(rows, columns=["table", "layer", "preference", "share"])
    found["bias"] = largest_bias(found["share"], eta)
    return found.assign(factor=np.exp(gamma * found["bias"]))


def largest_move(odds: ArrayLike) -> NDArray[np.float64]:
    """The most by which a share can rise when its odds are multiplied by this: (√r - 1) / (√r + 1).

    Of a share s it makes r s / (r s + 1 - s); the rise is largest where s = 1 / (1 + √r).
    """
    root = np.sqrt(np.asarray(odds, dtype=np.float64))
    return (root - 1) / (root + 1)


def move_bounds(counts: dict[str, float], heads: int, folder: Path = PAPER_DATA) -> pd.DataFrame:
    """How far Eq. 12-13's bias can move a layer's budget on video, beside the printed moves.

    With the whole gate on V at p = 1, b of every other modality is log(1 - eta), whatever its
    preference, and b_V is :func:`largest_bias`: so V's odds in a steered head are multiplied by
    ((1 - eta + eta / pi_V) / (1 - eta))^gamma, and K of the layer's ``heads`` are steered. Under Eq. 6
    as printed pi_V has a floor (:func:`largest_ratio`), under shares it has none, and all of a steered
    head's attention could move. Without Eq. 14's part, which lifts tokens of V as well, and without
    what earlier layers change.

    Returns ``table, printed, odds, alike, softmax, share``: the largest printed rise of V, by how
    much the softmax multiplies its odds, and the most that a budget, a mean over heads, can rise:
    under the softmax where all heads are alike, each with that layer's printed baseline, and
    whatever the heads; under shares, whatever the heads.
    """
    settings = hyperparameters(folder)
    names = ("max_steering", "inter_strength", "heads")
    eta, gamma, top_k = (float(settings[n].value) for n in names)
    changes = budget_changes(folder).query("modality == 'V'")
    rows = []
    for number, present in CASES.items():
        own = largest_ratio([counts[m] for m in present])
        least = 1 / (own + len(present) - 1)
        odds = float((np.exp(largest_bias(least, eta)) / (1 - eta)) ** gamma)
        here = changes[changes["table"] == number]
        most = here.loc[here["change"].idxmax()]
        share = most["baseline"]
        alike = odds * share / (odds * share + 1 - share) - share
        moves = np.array([alike, float(largest_move(odds)), 1.0]) * top_k / heads
        rows.append((number, most["change"], odds, *moves))
    columns = ["table", "printed", "odds", "alike", "softmax", "share"]
    return pd.DataFrame(rows, columns=columns)


def budget_changes(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """What CHASE changes in the printed budgets: ``table, layer, modality, baseline, chase,
    change``, a row for each present modality, shares in 0..1."""
    long = budgets(folder).melt(["table", "method", "layer"], list(MODALITIES), "modality")
    wide = long.dropna().pivot(
        index=["table", "layer", "modality"], columns="method", values="value"
    )
    wide = wide.rename(columns={"CHASE": "chase"}).rename_axis(columns=None).reset_index()
    order = {m: i for i, m in enumerate(MODALITIES)}
    wide = wide.sort_values(["table", "layer", "modality"], key=lambda c: c.replace(order))
    wide["change"] = (wide["chase"] - wide["baseline"]).round(4)
    return wide[["table", "layer", "modality", "baseline", "chase", "change"]].reset_index(
        drop=True
    )


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


Statement = tuple[str, str, str, bool, str]


def preference_statements(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """What can be said of Eq. 6 and the printed budgets.

    Returns ``whose, statement, reference, holds, detail``; ``whose`` is ``paper`` for what the
    paper says, ``reading`` for what one may read into it.

    Statements on what Table 7's interpretation says are about the printed shares of five layers;
    the authors saw all layers, and heads one by one.
    """
    rows = [*_of_equation(folder), *_of_sums(folder), *_of_layers(folder)]
    return pd.DataFrame(rows, columns=["whose", "statement", "reference", "holds", "detail"])


def _of_equation(folder: Path) -> list[Statement]:
    ratios = printed_ratios(folder)
    closest = ratios.loc[ratios["at_least"].idxmin()]
    limit = float(claims(folder).set_index("id").at["nmas_v_limit", "value"])
    second = int(TokenRates.video)
    return [
        (
            "reading",
            "no printed budget is Eq. 6's preference on any input",
            "Eq. 6, Tables 7-8",
            not ratios["possible"].any(),
            f"the least unequal has ratio {closest['ratio']:.1f} (Table {closest['table']}, "
            f"{closest['method']}, layer {closest['layer']}); the limit is {e:.3f}",
        ),
        (
            "paper",
            f"nMAS of a second of video, {second} tokens, is below {limit:g}",
            "Eq. 5, Figure 10",
            1 / second < limit,
            f"a mean weight of K tokens is at most 1/K, here {1 / second:.4f}: an axis on which "
            f"{limit:g} can be told from 0 shows something that was normalised, since {limit:g} "
            f"takes {most_tokens(limit)} tokens or fewer",
        ),
    ]


def _of_sums(folder: Path) -> list[Statement]:
    rows: list[Statement] = []
    for (number, method), rows_of in budgets(folder).groupby(["table", "method"], sort=False):
        sums = rows_of[list(MODALITIES)].sum(axis=1)
        holds = bool((np.abs(sums - 1) <= len(CASES[number]) * ROUNDING + 1e-9).all())
        statement = f"shares of {method} sum to 1 in every layer, up to rounding"
        rows.append(("paper", statement, f"Table {number}", holds, _listed(sums)))
    return rows


def _of_layers(folder: Path) -> list[Statement]:
    """What Table 7's interpretation says of layers, and Table 8's of video."""
    all_budgets = budgets(folder)
    before, after = (
        all_budgets.query("table == 7 and method == @m").set_index("layer")
        for m in ("baseline", "CHASE")
    )
    late = before.iloc[-2:]
    changes = budget_changes(folder)
    rise = changes.loc[changes["modality"] == "V"]
    audio, text = before["A"], before["T"]
    change = (after["A"] - audio).round(4)
    return [
        (
            "reading",
            "audio has the largest share of the baseline in some layer",
            "Table 7",
            bool((audio > text).any()),
            f"text {_listed(text)}; audio {_listed(audio)}",
        ),
        (
            "reading",
            "audio's share in the last two layers is above the earlier ones' on average",
            "Table 7",
            bool(late["A"].mean() > audio.iloc[:-2].mean()),
            f"{late['A'].mean():.4f} and {audio.iloc[:-2].mean():.4f}",
        ),
        (
            "reading",
            "audio's share of the baseline rises from each layer shown to the next",
            "Table 7",
            bool((audio.diff().dropna() > 0).all()),
            _listed(audio),
        ),
        (
            "reading",
            "CHASE lowers audio's share in some layer",
            "Table 7",
            bool((change < 0).any()),
            f"changes {', '.join(f'{c:+.4f}' for c in change)}",
        ),
        (
            "paper",
            "CHASE raises video's share in every layer shown",
            "Tables 7-8",
            bool((rise["change"] > 0).all()),
            f"by {rise['change'].min():.4f} to {rise['change'].max():.4f}",
        ),
    ]
