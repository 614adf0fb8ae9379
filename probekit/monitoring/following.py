"""`Follower`: one text that comes piece by piece, each token run once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from probekit.models import Model
from probekit.models.model import evaluating
from probekit.models.transformer_lens import is_transformer_lens
from probekit.monitoring.passages import Frame, words_of
from probekit.monitoring.reading import listening
from probekit.monitoring.running import Running
from probekit.monitoring.scored import ScoredToken

if TYPE_CHECKING:
    from probekit.monitoring.monitor import Monitor


class Follower:
    """Reads one text as it comes. What it says of a token is what `Monitor.score` says of it in the whole text.

        follower = monitor.follow(model)
        for piece in stream:
            for token in follower.feed(piece): ...

    Attributes:
        position: Number of tokens read so far.

    Raises:
        ValueError: a TransformerLens model, whose cache is its own.
    """

    def __init__(self, monitor: Monitor, model: Model) -> None:
        if is_transformer_lens(model.hf):
            raise ValueError("follow needs a Hugging Face model; of a TransformerLens model, score the whole text")
        monitor.check(model)
        self.monitor = monitor
        self.model = model
        self.position = 0
        self._frame = Frame.of(model)
        self._running = Running(monitor.pool, 1, monitor.warm_up)
        self._begun = np.zeros(0, dtype=np.int64)  # as many tokens as special ones may stand at the front
        self._cache: dict[str, Any] = {}

    def feed(self, piece: str | Sequence[int] | np.ndarray) -> tuple[ScoredToken, ...]:
        """Read what has come.

        Args:
            piece: Token ids, or text. Text is cut into tokens by itself (the first piece with the special tokens that stand
                before a text): where a word is divided between pieces, its tokens are others than in the whole text.

        Raises:
            ValueError: more tokens than the context holds.
        """
        ids = self._ids(piece)
        if not len(ids):
            return ()
        if self.model.context is not None and self.position + len(ids) > self.model.context:
            raise ValueError(
                f"{self.position + len(ids)} tokens are more than the {self.model.context} that {self.model.name} can read: "
                "begin a new follower"
            )
        heard: list[np.ndarray] = []

        def receive(activations: Tensor) -> None:
            heard.append(self.monitor.readout.scores(activations).double().cpu().numpy().reshape(-1))

        tokens = torch.from_numpy(ids)[None].to(self.model.device)
        mask = torch.ones(1, self.position + len(ids), dtype=torch.long, device=tokens.device)
        with torch.inference_mode(), evaluating(self.model.hf), listening(self.model, self.monitor.site, receive):
            output = self.model.hf(input_ids=tokens, attention_mask=mask, use_cache=True, **self._cache)
        # transformers calls it `cache`, and before 5.2x `past_key_values`: it goes back in by the name it came out with.
        self._cache = {name: output[name] for name in ("cache", "past_key_values") if name in output.keys()}  # noqa: SIM118
        counted = self._counted(ids)
        found = self.monitor.tokens(words_of(self.model, ids), heard[0], counted, self._running, self.position)
        self.position += len(ids)
        return found

    def _ids(self, piece: str | Sequence[int] | np.ndarray) -> np.ndarray:
        if not isinstance(piece, str):
            return np.asarray(piece, dtype=np.int64).reshape(-1)
        if self.model.tokenizer is None:
            raise ValueError(f"model {self.model.name!r} has no tokenizer: feed token ids")
        plain = self.model.tokenizer(piece, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        front = self._frame.before if self.position == 0 else ()
        return np.array([*front, *plain], dtype=np.int64)

    def _counted(self, ids: np.ndarray) -> np.ndarray:
        """Which are no special tokens at the front. A tokenizer's front may come in several pieces."""
        size = len(self._frame.before)
        self._begun = np.concatenate([self._begun, ids])[:size]
        at = self.position + np.arange(len(ids))
        special = tuple(self._begun) == self._frame.before[: len(self._begun)]
        return at >= size if special else np.ones(len(ids), dtype=bool)
