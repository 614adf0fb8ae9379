"""Text encoders: a saved folder gives unit vectors of its own, and letters tell like words from unlike ones."""

from __future__ import annotations

import numpy as np
import pytest

from saes.naming.encoders import letter_encoder, sentence_encoder
from tests.models.tiny import make_tokenizer


def test_a_sentence_transformers_folder_is_read(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(tmp_path / "bert")
    make_tokenizer().save_pretrained(tmp_path / "bert")
    made = library.SentenceTransformer(str(tmp_path / "bert"), device="cpu")
    made.save(str(tmp_path / "encoder"))
    encode = sentence_encoder(tmp_path / "encoder", device="cpu")
    found = encode(["the cat runs", "the dog sleeps", "the cat runs"])
    assert found.shape == (3, 16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found[0], found[2], atol=1e-5)
    np.testing.assert_allclose(
        found, made.encode(["the cat runs", "the dog sleeps", "the cat runs"], normalize_embeddings=True), atol=1e-5
    )


def test_letters_tell_like_words_from_unlike_ones():
    words = ["running", "runner", "table", "tables", "green", "greenish", "walk", "walking"] * 3
    encode = letter_encoder(words)
    run, runner, table, inside = encode(["running", "runner", "table", "a green table stands"])
    assert run @ runner > 2 * abs(run @ table)
    assert table @ inside > 2 * abs(run @ inside)


def test_vectors_are_kept_a_part_at_a_time(tmp_path):
    from saes.naming.encoders import in_parts

    asked: list[int] = []

    def encode(texts):
        asked.append(len(texts))
        if len(asked) == killed:
            raise KeyboardInterrupt
        return np.array([[len(text), text.count("a")] for text in texts], np.float32).reshape(len(texts), 2)

    texts, killed = [f"{'a' * (i % 5)} {i}" for i in range(250)], 2
    wrapped = in_parts(encode, "counts", tmp_path, False, size=100)
    with pytest.raises(KeyboardInterrupt):
        wrapped(texts)
    assert np.array_equal(wrapped(texts), encode(texts))
    assert asked == [100, 100, 100, 50, 250]  # the first hundred were kept
    file = next(tmp_path.rglob("*.npy"))
    file.write_bytes(file.read_bytes()[:-3])
    assert np.array_equal(wrapped(texts), encode(texts))
    in_parts(encode, "another encoder", tmp_path, False, size=100)(texts[:100])
    assert asked[-1] == 100
