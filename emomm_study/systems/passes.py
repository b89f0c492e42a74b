"""Prompts that begin alike share the computation of their beginning.

A clip's prompts come in the order video, audio, text, so its eight coalitions begin in few ways:
V, TV, AV and TAV with the same video, AV and TAV with the same video and sound. Under a causal
decoder the keys and values of a beginning do not depend on what follows. So each beginning is
computed once and its cache is forked, and the cost of eight coalitions stays near that of one when
media are long.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, DynamicCache


@dataclass(frozen=True)
class Tokens:
    """B prompts, or pieces of prompts, left-padded to Q positions.

    ``ids``, ``mask`` and ``marks`` (modality ids) are ``(B, Q)``, ``positions`` ``(3, B, Q)``.
    """

    ids: Tensor
    mask: Tensor
    marks: Tensor
    positions: Tensor

    def cut(self, rows: Sequence[int], start: Sequence[int], end: Sequence[int]) -> Tokens:
        """The pieces [start, end) of some rows, left-padded anew."""
        device = self.ids.device
        chosen = torch.as_tensor(rows, device=device)
        first, last = (torch.as_tensor(x, device=device) for x in (start, end))
        width = max(y - x for x, y in zip(start, end, strict=True))
        index = last[:, None] - width + torch.arange(width, device=device)
        inside = index >= first[:, None]
        parts = self.ids[chosen], self.mask[chosen], self.marks[chosen], self.positions[:, chosen]
        return Tokens(*parts)._at(index.clamp(min=0), inside)

    def only(self, keep: Tensor) -> Tokens:
        """Without the tokens that ``keep`` ``(B, Q)`` leaves out, left-padded anew.

        Those that stay keep their positions: what was dropped leaves a gap.
        """
        width = int(keep.sum(1).max())
        # A stable sort moves what is dropped to the front and leaves the rest in order.
        index = keep.int().argsort(dim=1, stable=True)[:, -width:]
        return self._at(index, keep.gather(1, index))

    def _at(self, index: Tensor, inside: Tensor) -> Tokens:
        """The tokens at ``index`` ``(B, width)``, padding where they are not ``inside``."""

        def take(values: Tensor, fill: int) -> Tensor:
            return values.gather(1, index).masked_fill(~inside, fill)

        return Tokens(
            take(self.ids, 0),
            take(self.mask, 0),
            take(self.marks, -1),
            torch.stack([take(axis, 0) for axis in self.positions]),
        )


@dataclass(frozen=True)
class Beginning:
    """A piece of a prompt from its start that may be shared: equal keys, equal computation.

    Attributes
    ----------
    kind
        Beginnings of one kind are about equally long and are computed in one batch.
    end
        Position in the padded prompt that follows it.
    """

    kind: str
    key: Hashable
    end: int


@dataclass(frozen=True)
class Pass:
    """One run of the decoder over a batch of pieces.

    Attributes
    ----------
    rows
        The prompts whose pieces are computed; for a shared beginning, the first that has it.
    start, end
        Where each piece lies.
    parent
        The pass whose caches are continued, and which of its rows each piece continues; None for
        pieces that begin a prompt.
    last
        Whether these pieces end their prompts, so that the answer is here.
    """

    rows: list[int]
    start: list[int]
    end: list[int]
    parent: tuple[int, list[int]] | None
    last: bool


def schedule(
    starts: Sequence[int], length: int, beginnings: Sequence[Sequence[Beginning]]
) -> list[Pass]:
    """Passes that compute every prompt, and each beginning that two or more share only once.

    Parameters
    ----------
    starts
        First position of each prompt after its padding.
    length
        Positions of the padded prompts, at which all end.
    beginnings
        Of each prompt from short to long; a longer one contains the shorter. Prompts of equal key
        have equal beginnings.

    Parents precede their children.
    """
    passes: list[Pass] = []

    def descend(
        rows: list[int], at: list[int], depth: int, parent: int | None, of: dict[int, int] | None
    ) -> None:
        """Schedule rows that are computed up to ``at``, in ``parent``'s rows ``of``."""
        groups: dict[str, dict[Hashable, list[int]]] = {}
        kinds: dict[str, list[int]] = {}
        for row in rows:
            if len(beginnings[row]) > depth:
                b = beginnings[row][depth]
                groups.setdefault(b.kind, {}).setdefault(b.key, []).append(row)
            # Those that share nothing are grouped by all they hold: like lengths go together.
            kinds.setdefault("".join(b.kind for b in beginnings[row]), []).append(row)
        shared: set[int] = set()
        for by_key in groups.values():
            common = [members for members in by_key.values() if len(members) > 1]
            if not common:
                continue
            leaders = [members[0] for members in common]
            ends = [beginnings[row][depth].end for row in leaders]
            link = None if parent is None else (parent, [of[row] for row in leaders])
            passes.append(Pass(leaders, [at[row] for row in leaders], ends, link, False))
            below = {row: i for i, members in enumerate(common) for row in members}
            shared |= set(below)
            further = list(at)
            for row in below:
                further[row] = beginnings[row][depth].end
            descend(list(below), further, depth + 1, len(passes) - 1, below)
        for members in kinds.values():
            if alone := [row for row in members if row not in shared]:
                link = None if parent is None else (parent, [of[row] for row in alone])
                ends = [length] * len(alone)
                passes.append(Pass(alone, [at[row] for row in alone], ends, link, True))

    descend(list(range(len(starts))), list(starts), 0, None, None)
    return passes


def fork(cache: Cache, rows: Sequence[int]) -> DynamicCache:
    """A cache of its own for rows of another; a row may be taken several times."""
    copy, chosen = DynamicCache(), torch.as_tensor(rows)
    for index, layer in enumerate(cache.layers):
        # Brought to a device once, and not for every layer.
        chosen = chosen.to(layer.keys.device)
        copy.update(layer.keys[chosen], layer.values[chosen], index)
    return copy
