import numpy as np
import pandas as pd
import pytest

from emomm_lib.labels import (
    COALITIONS,
    class_labels,
    coalition_modalities,
    coalition_name,
    is_class,
    polarity,
)

NO_LABELS = [np.nan, None, pd.NA, pd.NaT, 7, -1, 5, 2.5, np.inf, True, np.False_, "3", "WP", 1j]


def test_polarity_of_the_five_classes():
    assert polarity([0, 1, 2, 3, 4]).tolist() == [-1, -1, 0, 1, 1]


def test_coalition_names_and_modalities_are_inverse_over_all_eight():
    assert len(COALITIONS) == len(set(COALITIONS)) == 8
    for name in COALITIONS:
        assert coalition_name(reversed(coalition_modalities(name))) == name
    for wrong in ("VT", "", "TT"):
        with pytest.raises(ValueError, match="unknown coalition"):
            coalition_modalities(wrong)
    for wrong in ("TT", "X"):
        with pytest.raises(ValueError, match="distinct letters"):
            coalition_name(wrong)


@pytest.mark.parametrize("bad", NO_LABELS, ids=repr)
def test_one_that_is_no_class_is_found_among_others_and_counted(bad):
    mixed = [0, bad, 4, bad, 2.0]
    for values in (mixed, np.array(mixed, dtype=object), pd.Series(mixed, dtype=object)):
        assert is_class(values).tolist() == [True, False, True, False, True]
        with pytest.raises(ValueError, match=r"\(2 in all\)"):
            polarity(values)


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 2, 4], np.uint8),
        np.array([0, 2, 4], np.float32),
        pd.Series([0, 2, 4], dtype="Int64"),
        pd.Categorical([0, 2, 4]),
        (0, 2.0, 4),
    ],
    ids=lambda v: type(v).__name__ + str(getattr(v, "dtype", "")),
)
def test_whole_numbers_of_any_type_are_classes(values):
    assert polarity(values).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("empty", [[], np.zeros((0, 3)), pd.Series([], dtype=object)], ids=repr)
def test_of_no_labels_there_are_no_polarities(empty):
    for function in (polarity, class_labels):
        assert function(empty).shape == np.shape(empty) and function(empty).dtype == np.int64


@pytest.mark.parametrize("bad", NO_LABELS, ids=repr)
@pytest.mark.parametrize("function", [polarity, class_labels])
def test_what_is_no_class_has_no_polarity(function, bad):
    with pytest.raises(ValueError, match="whole numbers 0 to 4"):
        function(bad)
