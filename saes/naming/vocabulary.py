"""Names from a vocabulary: the word that a feature's firing, decoder or effect on the output comes nearest to.

Discover-then-Name (Rao et al. 2024, arXiv 2407.14499, section 3.2) names a latent of an image model by the word whose text
embedding is nearest its decoder vector. A language model has several spaces in which a word can be near; each proposes,
and what is proposed is judged by its text alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from saes.naming.contexts import Contexts
from saes.naming.encoders import Encoder, letter_encoder
from saes.naming.judging import Claim, firing_rows, hard_rows
from saes.naming.proposals import Proposal
from saes.naming.templates import template_states
from saes.overlap import unit
from saes.progress import tracked
from saes.scoring.feature_scores import Half
from saes.scoring.scores import fired

if TYPE_CHECKING:
    from probekit.models import Model

SAID = {"word": "words like “{}”", "next": "before words like “{}”", "context": "text about “{}”"}
"""What a name says by the place it looks at: the row's own word, the next one, or the text around it (its block of 16 tokens
and the one before)."""
NEAREST = 4
"""Words tried a feature, place and space."""
GIVEN = 3
"""Proposals a feature."""
MOST_WORDS = 5000
_LEAST_OCCURRENCES = 5
_SAMPLE = 500
"""Firing and hard rows that a proposal is made from, at most; four times as many silent ones."""


@dataclass(frozen=True)
class Vocabulary:
    """Words that features may be named with.

    Attributes:
        words: Left out, the words of the texts themselves: the 5,000 commonest that occur five times or more.
        encoder: From texts to vectors (`sentence_encoder(folder)`); decides what is like a word, and so what a name
            covers. Left out, words are compared by their letters.
        model: The model the SAE reads; with it, words are also sought where the decoder vector pushes the logits, and
            among the mean hidden states of words in templates. Left out, among the texts alone.
    """

    words: Sequence[str] | None = None
    encoder: Encoder | None = None
    model: Model | None = None

    def __post_init__(self) -> None:
        if self.words is not None and not any(word.strip() for word in self.words):
            raise ValueError("an empty vocabulary names nothing: give words, or leave words out for those of the texts")

    def propose(
        self,
        sae: Any,
        choose: Half,
        report: Half,
        contexts: Contexts,
        neighbours: np.ndarray,
        *,
        seed: int = 0,
        progress: bool = False,
    ) -> list[Proposal]:
        """Up to three words a feature that fires, best first.

        A feature fires where its activation is at least the median of those above zero on the rows to choose from. How like a
        text has to be to count as covered is chosen there, too, by balanced accuracy with half of the silent rows hard.

        Raises:
            ValueError: tokens whose texts are empty; no word that is frequent enough, or words that cannot be compared.
        """
        if not any(contexts.words[0]):
            raise ValueError("the texts of all tokens are empty: decode= does not read the tokens of these activations")
        words = self._words(choose, contexts)
        encode = self.encoder or letter_encoder([*words, *contexts.words[0]])
        spaces = _Spaces(encode(words), _places(encode, contexts), self._of_decoder(sae, words))
        rng = np.random.default_rng([seed, 0x90CA])
        silent = rng.choice(len(choose.rows), min(4 * _SAMPLE, len(choose.rows)), replace=False)
        proposals: list[Proposal] = []
        often = np.flatnonzero(np.diff(choose.features.indptr) >= 2).tolist()
        for feature in tracked(often, "names from words", progress):
            threshold = float(np.median(fired(choose.features, feature)[1]))
            firing = firing_rows(choose, feature, threshold)
            kinds = (
                _some(firing, rng),
                np.setdiff1d(silent, firing),
                _some(hard_rows(choose, feature, neighbours), rng),
            )
            found = spaces.best(feature, [choose.rows[rows] for rows in kinds])
            for i, (merit, place, word, least) in enumerate(found):
                rival = found[0] if i else found[1] if len(found) > 1 else None
                proposals.append(
                    Proposal(
                        claim=Claim(feature, threshold, spaces.covers(place, word, least, report.rows)),
                        text=SAID[place].format(words[word]),
                        source="vocabulary",
                        merit=merit,
                        rival=None if rival is None else SAID[rival[1]].format(words[rival[2]]),
                        rival_merit=None if rival is None else rival[0],
                    )
                )
        return proposals

    def _words(self, choose: Half, contexts: Contexts) -> list[str]:
        if self.words is not None:
            return list(dict.fromkeys(word.strip() for word in self.words if word.strip()))
        words, index = contexts.words
        counted = Counter(index[choose.rows].tolist())
        common = [words[i] for i, n in counted.most_common() if n >= _LEAST_OCCURRENCES]
        found = [word for word in common if any(map(str.isalpha, word))][:MOST_WORDS]
        if not found:
            raise ValueError("no word occurs five times in the texts: give a vocabulary of your own (words=)")
        return found

    def _of_decoder(self, sae: Any, words: list[str]) -> dict[str, np.ndarray]:
        """By place, `[feature, NEAREST]` words nearest the decoder vectors in the model's own spaces."""
        if self.model is None:
            return {}
        found = {"word": _nearest(unit(sae.W_dec.detach().float().cpu().numpy()), self._in_templates(sae, words))}
        pushed = self._by_logits(sae, words)
        return found if pushed is None else found | {"next": pushed}

    def _in_templates(self, sae: Any, words: list[str]) -> np.ndarray:
        """`[word, d]` mean hidden state of each word in templates, less the mean word, unit length."""
        from saes.loading import site_of

        assert self.model is not None
        states = template_states(self.model, words, site_of(sae))
        return unit(states - states.mean(0))

    def _by_logits(self, sae: Any, words: list[str]) -> np.ndarray | None:
        """`[feature, NEAREST]` words whose first token the decoder vector makes likelier most."""
        from probekit.models.unembedding import logit_effects

        assert self.model is not None
        tokenizer = self.model.tokenizer
        whole = {
            i: ids[0]
            for i, word in enumerate(words)
            if len(ids := tokenizer.encode(f" {word}", add_special_tokens=False)) == 1
        }
        if len(whole) < NEAREST:
            return None
        token, of = np.array(list(whole.values())), np.array(list(whole))
        decoder, nearest = sae.W_dec.detach().float().cpu(), []
        for start in range(0, len(decoder), 256):
            effects = logit_effects(self.model, decoder[start : start + 256]).numpy()[:, token]
            nearest.append(of[np.argsort(-effects, axis=1)[:, :NEAREST]])
        return np.concatenate(nearest)


@dataclass(frozen=True)
class _Places:
    """What each row shows at each place, as vectors of the distinct texts and `[row]` indices; -1 where there is nothing."""

    vectors: dict[str, np.ndarray]
    index: dict[str, np.ndarray]


def _places(encode: Encoder, contexts: Contexts) -> _Places:
    words, of_word = contexts.words
    windows, of_window = contexts.windows()
    word_vectors = encode(words)
    return _Places(
        {"word": word_vectors, "next": word_vectors, "context": encode(windows)},
        {"word": of_word, "next": contexts.next_words, "context": of_window},
    )


@dataclass(frozen=True)
class _Spaces:
    """Where words for a feature are sought, and how well each does on the rows to choose from."""

    words: np.ndarray
    places: _Places
    of_decoder: dict[str, np.ndarray]

    @cached_property
    def centre(self) -> np.ndarray:
        """`[d]` the mean word."""
        mean: np.ndarray = self.words.mean(0)
        return mean

    def best(self, feature: int, kinds: Sequence[np.ndarray]) -> list[tuple[float, str, int, float]]:
        """`(merit, place, word, least likeness)` of the best words, one a word, best first.

        Args:
            feature: Which.
            kinds: Rows where it fires, where it is silent, and where it is silent though a nearest feature fires.
        """
        found: dict[int, tuple[float, str, int, float]] = {}
        for place in SAID:
            shown = [self._shown(place, rows) for rows in kinds]
            contrast = shown[0].mean(0) - np.concatenate(shown[1:]).mean(0) if len(shown[0]) else None
            tried = [] if contrast is None else np.argsort(-((self.words - self.centre) @ contrast))[:NEAREST].tolist()
            if place in self.of_decoder:
                tried += self.of_decoder[place][feature].tolist()
            for word in dict.fromkeys(tried):
                merit, least = _separated([part @ self.words[word] for part in shown])
                if word not in found or merit > found[word][0]:
                    found[word] = (merit, place, word, least)
        return sorted(found.values(), key=lambda one: -one[0])[:GIVEN]

    def _shown(self, place: str, rows: np.ndarray) -> np.ndarray:
        index = self.places.index[place][rows]
        shown: np.ndarray = self.places.vectors[place][index] * (index >= 0)[:, None]
        return shown

    def covers(
        self, place: str, word: int, least: float, rows: np.ndarray
    ) -> Callable[[], tuple[np.ndarray, np.ndarray | None]]:
        """Rows that show at this place something at least so like the word."""

        def covered() -> tuple[np.ndarray, np.ndarray | None]:
            index = self.places.index[place][rows]
            like = self.places.vectors[place] @ self.words[word] >= least
            return like[index] & (index >= 0), None

        return covered


def _separated(likeness: Sequence[np.ndarray]) -> tuple[float, float]:
    """Best balanced accuracy over thresholds of likeness, and the threshold: firing against silent and hard rows, half each."""
    fires, *others = likeness
    others = [part for part in others if len(part)]
    values = np.concatenate(likeness)
    weight = np.concatenate(
        [np.full(len(fires), 1 / max(len(fires), 1)), *(np.full(len(p), -1 / len(p) / len(others)) for p in others)]
    )
    order = np.argsort(-values, kind="stable")
    gained = weight[order].cumsum()
    ends = np.flatnonzero(np.diff(values[order], append=-np.inf))  # equal likeness is covered together
    best = ends[gained[ends].argmax()]
    return float(0.5 + gained[best] / 2), float(values[order][best])


def _some(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= _SAMPLE else np.sort(rng.choice(rows, _SAMPLE, replace=False))


def _nearest(vectors: np.ndarray, words: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [
            np.argsort(-(vectors[start : start + 256] @ words.T), axis=1)[:, :NEAREST]
            for start in range(0, len(vectors), 256)
        ]
    )
