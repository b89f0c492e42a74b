"""The figure of where attention on video lies."""

from __future__ import annotations

import pandas as pd
import pytest
from legible import assert_legible
from matplotlib import pyplot as plt

from emomm_study.report.figures.places import dispersion_figure


def made() -> pd.DataFrame:
    rows = [
        ("conflict", quantity, layer, value + layer / 10, value, value + 1, 80, 2)
        for quantity, value in (("face", 1.5), ("person", 1.1), ("spread", 0.2))
        for layer in range(1, 5)
    ]
    columns = ["subset", "quantity", "layer", "value", "low", "high", "n", "without"]
    return pd.DataFrame(rows, columns=columns)


def test_every_layer_s_value_is_drawn_beside_what_blindness_to_place_would_give():
    fig = dispersion_figure(made().sample(frac=1, random_state=0))
    assert_legible(fig)
    left, right = fig.axes
    face, person, blind = left.lines
    assert [*face.get_ydata()] == pytest.approx([1.6, 1.7, 1.8, 1.9])
    assert [*person.get_ydata()] == pytest.approx([1.2, 1.3, 1.4, 1.5])
    assert [*blind.get_ydata()] == [1, 1]
    assert [*right.lines[0].get_xdata()] == [1, 2, 3, 4]
    plt.close(fig)


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match="no row of 'person'"):
        dispersion_figure(made()[lambda f: f["quantity"] != "person"])
    twice = pd.concat([made(), made().assign(subset="align")])
    with pytest.raises(ValueError, match="one subset"):
        dispersion_figure(twice)
    with pytest.raises(ValueError, match=r"dispersion: columns \['high'\]"):
        dispersion_figure(made().drop(columns="high"))
