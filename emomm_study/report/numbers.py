"""Numbers as text: fixed digits, typographic minus, ``n/a`` where there is none."""

from __future__ import annotations

import numpy as np

MINUS = "\N{MINUS SIGN}"


def fixed(value: float, digits: int) -> str:
    """A number with fixed digits, a decimal tie going to the even digit, as in the paper's Table 4.

    ``fixed(0.79975, 4) == "0.7998"``, where plain formatting sees the binary number just below the
    tie and gives 0.7997.
    """
    return f"{np.round(value, digits):.{digits}f}"


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """A number with fixed digits: ``−0.021``, with ``sign`` also ``+0.300``; zero has none.

    What rounds to zero is zero; what is not finite is ``n/a``.
    """
    if not np.isfinite(value):
        return "n/a"
    # Adding zero takes the sign off the -0.0 of a small loss.
    value = float(np.round(value, digits)) + 0.0
    text = fixed(value, digits).replace("-", MINUS)
    return f"+{text}" if sign and value > 0 else text


def bracketed(low: float, high: float, digits: int) -> str:
    """An interval, ``[−0.02, 0.29]``."""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def points(fraction: float, *, sign: bool = False) -> str:
    """A fraction in points with one digit: ``points(0.0234) == "2.3"``."""
    return number(100 * fraction, 1, sign=sign)
