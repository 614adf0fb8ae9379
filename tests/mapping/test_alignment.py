"""Tokens of different tokenizers matched by the characters they end at."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import probekit as pk
from probekit.mapping import fit, paired_tokens
from probekit.mapping.alignment import common_ends, ends_of_words, token_ends
from probekit.models import Model
from tests.mapping.worlds import byte_tokenizer, save_bytes_model, save_words_model, some_texts
from tests.models.tiny import WORDS


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """One that reads words, one that reads bytes and pieces."""
    folder = tmp_path_factory.mktemp("two")
    words, pieces = save_words_model(folder / "words"), save_bytes_model(folder / "bytes")
    return pk.load_model(words), pk.load_model(pieces)


def stub(tokenizer) -> Model:
    """A model of which the tokenizer is all there is."""

    def tokenize(texts):
        return [np.array(ids, np.int32) for ids in tokenizer(list(texts))["input_ids"]], 0

    return SimpleNamespace(tokenizer=tokenizer, tokenize=tokenize, name="stub")


LETTERS = byte_tokenizer([], merges=0)
PIECES = byte_tokenizer(WORDS)


@pytest.mark.parametrize(
    ("a", "b", "in_a", "in_b"),
    [
        ([-1, 3, 8, -1], [3, 5, 8], [1, 2], [0, 2]),
        ([1, 2, 3], [3], [2], [0]),
        ([2, 2, 2, 3], [2, 3, 3], [2, 3], [0, 2]),  # three bytes of one character: the last has read all of it
        ([-1, -1], [4], [], []),
        ([5], [4, 6], [], []),
        ([], [1], [], []),
    ],
)
def test_ends_in_common(a, b, in_a, in_b) -> None:
    found = common_ends(np.array(a, np.int64), np.array(b, np.int64))
    assert [f.tolist() for f in found] == [in_a, in_b]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("cat runs.", [3, 8]),
        ("a  b", [1, 4]),
        ("naïve café", [5, 10]),
        ("cafe\u0301 ok", [5, 8]),  # the accent belongs to its letter
        ("x=12, y", [1, 4, 7]),
        ("日本 語", [2, 4]),
        ("🙂 hi", [4]),
        ("...", []),
    ],
)
def test_ends_of_words(text: str, ends: list[int]) -> None:
    every = np.arange(1, len(text) + 1)
    assert every[ends_of_words(text, every)].tolist() == ends


@pytest.mark.parametrize(
    ("text", "bytes_of"),
    [("aé", [1, 2]), ("日本", [3, 3]), ("🙂!", [4, 1]), ("e\u0301", [1, 2]), ("é\n ж", [2, 1, 1, 2])],
)
def test_bytes_of_a_character_end_together(text: str, bytes_of: list[int]) -> None:
    found = token_ends(stub(LETTERS), [text])[0]
    ends = np.repeat(np.arange(1, len(text) + 1), bytes_of)
    assert len(found.ids) == len(text.encode())
    np.testing.assert_array_equal(found.ends, ends)
    last, same = common_ends(found.ends, found.ends)
    np.testing.assert_array_equal(last, np.cumsum(bytes_of) - 1)
    np.testing.assert_array_equal(last, same)


def test_special_tokens_have_no_end(models: tuple[Model, Model]) -> None:
    words, _ = models
    found = token_ends(words, ["The cat, Berlin runs"])[0]
    assert found.ends.tolist() == [-1, 3, 7, 8, 15, 20]
    assert found.own == (1, 6)
    assert not found.cut
    assert token_ends(words, [" ".join(["cat"] * 60)])[0].cut


def test_two_tokenizers_by_hand(models: tuple[Model, Model]) -> None:
    words, pieces = models
    text = "the city, berlin"
    ends = token_ends(pieces, [text])[0].ends
    assert {3, 8, 9, 16} <= set(ends.tolist())
    in_a, in_b = common_ends(token_ends(words, [text])[0].ends, ends)
    assert in_a.tolist() == [1, 2, 3, 4]
    assert ends[in_b].tolist() == [3, 8, 9, 16]
    rows_a, rows_b = paired_tokens(words, pieces, [text])
    assert np.flatnonzero(rows_a).tolist() == [1, 2, 4]  # no comma
    assert ends[rows_b].tolist() == [3, 8, 16]
    every = paired_tokens(words, pieces, [text], at="tokens")
    assert [int(rows.sum()) for rows in every] == [4, 4]


def test_position_zero_is_left_out_where_asked(models: tuple[Model, Model]) -> None:
    words, pieces = models
    text = "a cat"  # the pieces put no special token before it: "a" stands at 0
    assert token_ends(pieces, [text])[0].ends[0] == 1
    for first, there in ((True, 2), (False, 1)):
        rows_a, rows_b = paired_tokens(words, pieces, [text], first=first)
        assert rows_a.sum() == rows_b.sum() == there
    assert not rows_b[0]
    assert [f.tolist() for f in common_ends(np.array([3, 5]), np.array([3, 5]), first=False)] == [[1], [1]]


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab the éß日本🙂\u0301 \n.,!city"), min_size=1, max_size=30).filter(lambda t: t.strip()))
def test_matched_tokens_have_read_the_same(text: str) -> None:
    letters, pieces = stub(LETTERS), stub(PIECES)
    one, two = token_ends(letters, [text])[0], token_ends(pieces, [text])[0]
    in_a, in_b = common_ends(one.ends, two.ends)
    for a, b in zip(in_a, in_b, strict=True):
        read = [t.decode(ids.ids[: i + 1]) for t, ids, i in ((LETTERS, one, a), (PIECES, two, b))]
        assert read[0] == read[1] == text[: one.ends[a]]
    assert (np.diff(in_a) > 0).all()
    assert (np.diff(in_b) > 0).all()
    assert len(text) in one.ends[in_a]
    # Every character is a place where the letters end, so that every piece that ends with a character is matched.
    whole = [i for i in range(len(two.ids)) if PIECES.decode(two.ids[: i + 1]) == text[: two.ends[i]]]
    assert in_b.tolist() == whole


def test_captured_rows_pair_up(models: tuple[Model, Model]) -> None:
    words, pieces = models
    texts = some_texts(120, longest=7)
    rows_a, rows_b = paired_tokens(words, pieces, texts)
    a = pk.capture(words, texts, words.stream_sites[:1], rows=rows_a, progress=False)
    b = pk.capture(pieces, texts, pieces.stream_sites[:1], rows=rows_b, progress=False)
    assert len(a) == len(b) == sum(len(text.split()) for text in texts)
    np.testing.assert_array_equal(a.sequence, b.sequence)
    maps = fit(a, b, n_boot=100, progress=False)
    assert maps.manifest["data"]["pool"] == "all"
    with pytest.raises(ValueError, match="another tokenizer"):
        fit(a, pk.capture(pieces, texts, pieces.stream_sites[:1], progress=False), progress=False)


def test_stores_that_do_not_pair_up_are_refused(models: tuple[Model, Model]) -> None:
    words, pieces = models
    texts = some_texts(40, longest=6)
    last = pk.capture(words, texts, words.stream_sites[:1], pool="last", progress=False)
    other = pk.capture(pieces, texts[::-1], pieces.stream_sites[:1], pool="last", progress=False)
    with pytest.raises(ValueError, match="are of other data"):
        fit(last, other, progress=False)
    mean = pk.capture(pieces, texts, pieces.stream_sites[:1], pool="mean", progress=False)
    with pytest.raises(ValueError, match="pool='mean', the others with pool='last'"):
        fit(last, mean, progress=False)


def test_bad_input(models: tuple[Model, Model]) -> None:
    words, pieces = models
    with pytest.raises(ValueError, match="'words' or 'tokens'"):
        paired_tokens(words, pieces, ["the cat"], at="letters")
    with pytest.raises(ValueError, match="tokens already"):
        paired_tokens(words, pieces, [np.array([1, 2])])
    with pytest.raises(TypeError, match="one string"):
        token_ends(words, "the cat")
    with pytest.raises(ValueError, match="no word ends"):
        paired_tokens(words, pieces, ["..."])
    blind = SimpleNamespace(tokenizer=SimpleNamespace(is_fast=False), name="slow")
    with pytest.raises(ValueError, match="no fast tokenizer"):
        token_ends(blind, ["the cat"])
