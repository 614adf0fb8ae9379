"""The text behind rows: words put together from tokens, neighbours within a sequence, windows shared by a block."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from saes.naming.contexts import Contexts

PIECES = ["The", " cat", "fish", " sat", ",", " down", "\n", "Dogs", " ran", "."]
SEQUENCES = [[0, 1, 2, 3, 4, 5, 9], [7, 8, 6, 7, 9]]


@dataclass
class Rows:
    """What `Contexts` asks of features."""

    sequence: np.ndarray = field(default_factory=lambda: np.repeat([0, 1], [7, 5]))
    position: np.ndarray = field(default_factory=lambda: np.array([*range(7), *range(5)]))
    token: np.ndarray = field(default_factory=lambda: np.concatenate(SEQUENCES))

    def __len__(self):
        return len(self.sequence)


def decode(ids):
    return [PIECES[i] for i in ids]


def test_a_context_stays_within_its_sequence():
    context = Contexts(Rows(), decode).of(8, before=5, after=1)
    assert context.tokens == ("Dogs", " ran", "\n")
    assert (context.at, context.first, context.rows) == (1, 7, slice(7, 10))
    assert context.text == "Dogs ran\n"


def test_words_are_put_together_from_tokens():
    words, index = Contexts(Rows(), decode).words
    assert [words[i] for i in index] == [
        "the", "catfish", "catfish", "sat", ",", "down", ".", "dogs", "ran", "", "dogs", "."
    ]  # fmt: skip


def test_next_words():
    contexts = Contexts(Rows(), decode)
    words, _ = contexts.words
    assert [words[i] if i >= 0 else None for i in contexts.next_words] == [
        "catfish", "catfish", "sat", ",", "down", ".", None, "ran", "", "dogs", ".", None
    ]  # fmt: skip


def test_windows_hold_a_block_and_the_one_before():
    texts, index = Contexts(Rows(), decode).windows(block=3)
    assert texts == ("The catfish", "The catfish sat, down", "sat, down.", "Dogs ran", "Dogs ran\nDogs.")
    assert index.tolist() == [0] * 3 + [1] * 3 + [2] + [3] * 3 + [4] * 2


def test_rows_without_their_neighbours_are_refused():
    with pytest.raises(ValueError, match="every=1"):
        Contexts(Rows(position=np.array([0, 2, 4, 6, 8, 10, 12, *range(5)])), decode)


def test_what_does_not_decode_is_refused():
    with pytest.raises(TypeError, match="tokenizer"):
        Contexts(Rows(), object())


def test_a_tokenizer_keeps_the_space_before_a_word():
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer, made.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    made.train_from_iterator(["the cat sat . the cat ran ."] * 20, tokenizers.trainers.BpeTrainer(vocab_size=40))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    ids = tokenizer.encode("the cat ran", add_special_tokens=False)
    contexts = Contexts(Rows(np.zeros(len(ids), int), np.arange(len(ids)), np.array(ids)), tokenizer)
    assert contexts.of(0, 0, 99).text.strip() == "the cat ran"
    words, index = contexts.words
    assert list(dict.fromkeys(words[i] for i in index)) == ["the", "cat", "ran"]
