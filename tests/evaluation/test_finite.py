import json
from math import inf, nan

import pytest
import torch

from bitgen.evaluation.finite import NotFiniteError, check_finite, named, without_nonfinite


def test_what_is_no_number_is_none_and_named_by_its_place():
    found = {"t2i": {"r1": nan, "r5": 0.5}, "in_box": [0.1, inf], "points": [[1.0, -inf]], "count": 3, "name": "a"}
    clean, places = without_nonfinite(found)
    assert clean == {
        "t2i": {"r1": None, "r5": 0.5},
        "in_box": [0.1, None],
        "points": [[1.0, None]],
        "count": 3,
        "name": "a",
    }
    assert places == ["t2i.r1", "in_box[1]", "points[0][1]"]
    assert json.dumps(clean, allow_nan=False)


def test_what_is_finite_stays_as_it_is():
    found = {"a": [0.5, None, True], "b": {}, "c": []}
    assert without_nonfinite(found) == (found, [])


def test_the_first_few_places_are_named_and_the_rest_counted():
    assert named(["a", "b"]) == "a, b"
    assert named(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"


def test_rows_that_are_not_finite_are_counted():
    with pytest.raises(NotFiniteError, match="expected finite codes, found 2 of 3 that are not"):
        check_finite("codes", torch.tensor([[nan, 1.0], [0.0, 1.0], [inf, nan]]))
    check_finite("codes", torch.zeros(3, 2))
