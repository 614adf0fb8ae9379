"""Items among the texts that an edit was found on are refused, and only those."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import probekit as pk
from probekit.surgery.evaluating.behaviours import custom
from probekit.surgery.evaluating.found_on import refuse_overlap

WORDS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9)


def measure(items):
    return custom("any", items, lambda model: [0.0] * len(items))


def slow(item: list[str], texts: list[list[str]]) -> bool:
    return any(
        text == item or (len(item) >= 5 and text[: len(item)] == item) or (len(text) >= 5 and item[: len(text)] == text)
        for text in texts
    )


@given(WORDS, st.lists(WORDS, min_size=1, max_size=12))
def test_an_item_is_refused_where_the_slow_rule_says_so(item, texts):
    given_texts = ["  ".join(words).upper() for words in texts]
    if slow(item, texts):
        with pytest.raises(ValueError, match="1 of 1 items are among"):
            refuse_overlap([measure([" ".join(item)])], given_texts)
    else:
        assert f"one of the {len(texts)} texts" in refuse_overlap([measure([" ".join(item)])], given_texts)


def test_token_ids_and_data_sets_count_likewise():
    ids = [[1, 2, 3, 4, 5, 6], [7, 8]]
    with pytest.raises(ValueError, match="1 of 2 items"):
        refuse_overlap([measure([[1, 2, 3, 4, 5], [9]])], pk.Dataset("ids", tokens=ids))
    with pytest.raises(ValueError, match="1 of 1 items"):
        refuse_overlap([measure(["Here it is"])], pk.Dataset("texts", texts=("here it is", "or not")))
    with pytest.raises(ValueError, match="1 of 1 items"):
        refuse_overlap([measure(["I saw the new film"])], ["I saw the new film, and it was good"])
    assert refuse_overlap([measure([[1, 2], [7]])], ids)
    with pytest.raises(TypeError, match="cannot be held against each other"):
        refuse_overlap([measure([[1, 2]])], ["a text"])
    with pytest.raises(TypeError, match="neither a text nor"):
        refuse_overlap([measure(["a"])], [("a", "b")])
    with pytest.raises(ValueError, match="found_on is empty"):
        refuse_overlap([measure(["a"])], [])
    with pytest.raises(TypeError, match="one string"):
        refuse_overlap([measure(["a"])], "a text")
