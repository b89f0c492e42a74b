"""Another clip for each, of the same kind: whose gate, or whose video, it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping

import numpy as np


def partners(group: Mapping[str, Hashable], seed: int = 0) -> dict[str, str]:
    """For each name another of its group, and each of a group to one: a cycle drawn by ``seed``.

    Who is alone keeps its own name. What is drawn in a group depends on its name and its members
    alone, not on their order nor on other groups.
    """
    members: dict[Hashable, list[str]] = {}
    for name in sorted(group):
        members.setdefault(group[name], []).append(name)
    found = {}
    for label, names in members.items():
        key = hashlib.sha256(f"{seed} {label}".encode()).digest()
        order = np.random.default_rng(int.from_bytes(key[:8], "little")).permutation(len(names))
        following = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
        found |= {name: names[following[i]] for i, name in enumerate(names)}
    return found
