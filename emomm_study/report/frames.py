"""What a figure asks of the frame that it draws."""

from __future__ import annotations

import pandas as pd


def need(
    frame: pd.DataFrame,
    what: str,
    *columns: str,
    once: tuple[str, ...] = (),
    empty: bool = False,
) -> None:
    """Raise ``ValueError`` unless a frame has the columns, rows, and one row for each ``once``.

    ``what`` names the frame in the message; ``empty`` lets one without rows pass.
    """
    if absent := set(columns) - set(frame.columns):
        raise ValueError(f"{what}: columns {sorted(absent)} are missing; it has {[*frame.columns]}")
    if frame.empty and not empty:
        raise ValueError(f"{what}: no rows, so there is nothing to draw")
    if once and (twice := frame.duplicated([*once])).any():
        first = frame.loc[twice, [*once]].iloc[0].to_dict()
        raise ValueError(f"{what}: expected one row for each {', '.join(once)}; {first} has more")
