"""Whole groups into parts of given ratios: sizes first, then each part as mixed as the whole.

All arithmetic is in whole numbers, so that the result is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Parts = NDArray[np.int64]


def pack(counts: NDArray[np.int64], ratios: Sequence[int], bound: float) -> Parts:
    """The part ``(G,)`` of each group, so that the parts' sizes come near their ratios.

    Largest groups first, each into the part that lacks most; then groups are moved and swapped
    while that brings the worst size nearer to its share, as far as ``bound`` of all, and within it
    the parts' mixes nearer to the whole's. Where that leaves a size off by more than ``bound``,
    the sizes are found exactly, among all ways to deal the groups out. No part is empty.

    Parameters
    ----------
    counts
        Members of each group in each stratum, ``(G, K)``; at least as many groups as parts.
    ratios
        Positive integers, one a part: three.
    bound
        Deviation of a part's share of all members from its ratio that is good enough.
    """
    problem = _Problem(counts, np.array(ratios), bound)
    parts = problem.improved(problem.largest_first(), problem.bound)
    worst = problem.worst(parts)
    # No split is better than what its largest group leaves.
    if worst > max(problem.bound, problem.unavoidable()):
        parts = problem.best_sizes(worst)
        parts = problem.improved(parts, max(problem.bound, problem.worst(parts)))
    return parts


class _Problem:
    """Deviations are in members times the sum of the ratios, which makes them integers."""

    def __init__(self, counts: Parts, ratios: Parts, bound: float) -> None:
        self.counts, self.ratios = counts.astype(np.int64), ratios.astype(np.int64)
        self.sizes, self.whole = self.counts.sum(1), self.counts.sum(0)
        self.all, self.total = int(self.sizes.sum()), int(self.ratios.sum())
        self.scale = math.lcm(*ratios.tolist()) // self.ratios
        self.bound = math.floor(bound * self.all * self.total)

    def held(self, parts: Parts) -> NDArray[np.int64]:
        """Members of each part in each stratum, ``(3, K)``."""
        held = np.zeros((len(self.ratios), self.counts.shape[1]), np.int64)
        np.add.at(held, parts, self.counts)
        return held

    def worst(self, parts: Parts) -> int:
        return int(self._cost(self.held(parts), 0)[0])

    def unavoidable(self) -> int:
        """What the part with the largest group is off by at least, wherever it goes."""
        over = self.total * int(self.sizes.max()) - self.ratios * self.all
        return max(0, int(over.min()))

    def _cost(self, held: NDArray, allowed: int) -> tuple[NDArray, NDArray, NDArray]:
        """Of ``(..., 3, K)`` the worst deviation of a size, at least ``allowed``; the squares of
        what sizes are off by beyond the bound, relative to their ratios; the distance of mixes."""
        sizes = held.sum(-1)
        off = np.abs(self.total * sizes - self.ratios * self.all)
        worst = np.where((sizes == 0).any(-1), self.total * self.all, off.max(-1))
        beyond = np.maximum(off - self.bound, 0) ** 2
        apart = np.abs(self.total * held - self.ratios[:, None] * self.whole).sum(-1)
        return (
            np.maximum(worst, allowed),
            (beyond * self.scale).sum(-1),
            (apart * self.scale).sum(-1),
        )

    def largest_first(self) -> Parts:
        parts = np.zeros(len(self.sizes), np.int64)
        lacking = self.ratios * self.all
        for group in np.argsort(-self.sizes, kind="stable"):
            parts[group] = lacking.argmax()
            lacking[parts[group]] -= self.total * self.sizes[group]
        return parts

    def improved(self, parts: Parts, allowed: int) -> Parts:
        """Groups moved, or else swapped, the best change first, until none makes it better."""
        parts, held = parts.copy(), self.held(parts)
        cost = tuple(int(x) for x in self._cost(held, allowed))
        while True:
            for changes in (self._moves, self._swaps):
                group, target, back = changes(parts)
                moved = self.counts[group] - np.where(back[:, None] < 0, 0, self.counts[back])
                after, at = np.repeat(held[None], len(group), axis=0), np.arange(len(group))
                after[at, parts[group]] -= moved
                after[at, target] += moved
                costs = self._cost(after, allowed)
                best = np.lexsort(costs[::-1])[0]
                if (found := tuple(int(x[best]) for x in costs)) < cost:
                    cost, held = found, after[best]
                    if back[best] >= 0:
                        parts[back[best]] = parts[group[best]]
                    parts[group[best]] = target[best]
                    break
            else:
                return parts

    def _moves(self, parts: Parts) -> tuple[Parts, Parts, Parts]:
        """Every group to every part: groups, parts, and nothing that comes back."""
        groups, to = np.indices((len(parts), len(self.ratios))).reshape(2, -1)
        return groups, to, np.full(len(groups), -1)

    def _swaps(self, parts: Parts) -> tuple[Parts, Parts, Parts]:
        """Every group to the part of every other one, which comes back for it."""
        one, other = np.nonzero(parts[:, None] <= parts)
        return one, parts[other], other

    def best_sizes(self, known: int) -> Parts:
        """Groups dealt out so that the worst deviation, at most ``known``, is the least possible.

        Which pairs of sizes of the first two parts can be reached is found group by group, and
        traced back.
        """
        order = np.argsort(-self.sizes, kind="stable")
        most = np.minimum((self.ratios * self.all + known) // self.total, self.all)
        reached = np.zeros((most[0] + 1, most[1] + 1), bool)
        reached[0, 0] = True
        steps = []
        for size in self.sizes[order]:
            steps.append(np.packbits(reached, axis=1))
            then = reached.copy()
            then[size:] |= reached[: len(reached) - size] if size < len(reached) else False
            width = reached.shape[1]
            then[:, size:] |= reached[:, : width - size] if size < width else False
            reached = then
        a, b = np.nonzero(reached)
        sizes = np.stack([a, b, self.all - a - b], axis=1)
        off = self.total * sizes - self.ratios * self.all
        worst = np.where((sizes > 0).all(1), np.abs(off).max(1), self.total * self.all)
        # Of equally bad ones that which hurts no small part more than a large one.
        chosen = np.lexsort(((off**2 * self.scale).sum(1), worst))[0]
        a, b = int(a[chosen]), int(b[chosen])
        parts = np.full(len(order), 2)
        for group, packed in zip(order[::-1], steps[::-1], strict=True):
            before = np.unpackbits(packed, axis=1, count=reached.shape[1])
            size = int(self.sizes[group])
            if before[a, b]:
                continue
            if a >= size and before[a - size, b]:
                parts[group], a = 0, a - size
            else:
                parts[group], b = 1, b - size
        return parts
