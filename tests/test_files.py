"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from probekit.files import with_nans, with_nulls, write_whole


@pytest.mark.parametrize(
    "content", ["new: ü\n", "new: ü\n".encode(), lambda path: path.write_text("new: ü\n", encoding="utf-8")]
)
def test_the_new_file_takes_the_place_of_the_old(content: object, tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"
    write_whole(path, "old")
    write_whole(path, content)  # type: ignore[arg-type]
    assert path.read_bytes() == "new: ü\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_whole(path, "old")

    def fails(place: Path) -> None:
        place.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fails)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_numbers_that_json_lacks_are_null_and_come_back_as_nan() -> None:
    value = {1: np.array([1.5, np.nan]), "b": (np.float32(2), math.inf, np.int64(3), True), "c": [{"d": -math.inf}]}
    plain = with_nulls(value)
    assert plain == {"1": [1.5, None], "b": [2.0, None, 3, True], "c": [{"d": None}]}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    np.testing.assert_array_equal(with_nans(plain["1"]), [1.5, np.nan])
