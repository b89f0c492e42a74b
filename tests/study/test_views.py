"""Several views of the same videos against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from video_answers import drawn

from emomm_lib import Bootstrap
from emomm_lib.metrics.paired import marginal_gain
from emomm_study.evaluate.paired import compare_views

SCORES = {
    "acc5": accuracy_score,
    "acc2": lambda t, p: np.mean([(a >= 2) == (b >= 2) for a, b in zip(t, p, strict=True)]),
    "f1": lambda t, p: f1_score(t, p, average="macro", zero_division=0),
}
LABEL = st.integers(0, 4)


def test_a_views_change_is_its_gain_less_that_of_the_first_view():
    views = {"original": drawn(1, 0.4), "pixels": drawn(2, 0.6), "tokens": drawn(3, 0.5)}
    table = compare_views(views, drawn(4, 0.5), bootstrap=Bootstrap(50))
    cells = table.set_index(["quantity", "view", "metric"])["value"]
    assert set(cells["change"].index.get_level_values("view")) == {"pixels", "tokens"}
    for (view, metric), change in cells["change"].items():
        gains = cells["gain"]
        assert change == pytest.approx(gains[view, metric] - gains["original", metric])


def test_clips_that_one_view_lacks_are_left_out_of_all():
    views = {"original": drawn(1, 0.4), "pixels": drawn(2, 0.6).iloc[5:]}
    base = drawn(4, 0.5).iloc[:-3]
    table = compare_views(views, base, bootstrap=Bootstrap(20))
    assert (table["n"] == 52).all()
    kept = [frame.iloc[5:57] for frame in (drawn(1, 0.4), drawn(4, 0.5))]
    alone = marginal_gain(*kept, bootstrap=Bootstrap(20))["value"].tolist()
    first = table[(table["view"] == "original") & (table["quantity"] == "gain")]
    assert first["value"].tolist() == pytest.approx(alone)
    with pytest.raises(ValueError, match="no clip in common"):
        compare_views({"original": drawn(1, 0.4).iloc[:5]}, drawn(4, 0.5).iloc[10:])
