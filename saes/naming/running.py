"""A model run up to single rows, with the stream changed there: what comes before a row is computed once for all changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from probekit.data import Dataset, as_dataset
from probekit.models.editing import changed_at
from saes.rows import token_ids

if TYPE_CHECKING:
    from probekit.models import Model
    from saes.features import SparseFeatures


@dataclass(frozen=True)
class Runner:
    """A model run up to single rows, with the stream changed there.

    Attributes:
        model: Which.
        site: Where the stream is changed.
        sequences: `[sequence]` token ids.
        later: A site to read in place of the logits, or None.
    """

    model: Model
    site: str
    sequences: Sequence[np.ndarray]
    later: str | None = None

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def run(self, places: np.ndarray, *edits: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """Run the sequences up to rows, once for each edit, which adds a step to the stream at each row itself.

        A causal model computes the same before a row whatever is changed there; so that is computed once, and kept in the
        model's own cache of keys and values, where it has one.

        Args:
            places: `[row, 2]` sequence and position.
            edits: Each `[row, d]`, or None to change nothing.

        Returns:
            For each edit, logits `[row, vocabulary]` (`[row, 0]` with a later site) and activations `[row, d]` (`[row, 0]` without
            one), float32.
        """
        rows = [
            self._at(self.sequences[sequence][: position + 1], i, edits)
            for i, (sequence, position) in enumerate(places)
        ]
        logits, read = (torch.stack(part, 1) for part in zip(*rows, strict=True))  # [edit, row, ...]
        return [(logits[k], read[k]) for k in range(len(edits))]

    def _at(self, sequence: np.ndarray, row: int, edits: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """`[edit, vocabulary]` and `[edit, d]` at the end of one sequence."""
        tokens = torch.from_numpy(sequence.astype(np.int64))[None].to(self.model.device)
        steps = [None if edit is None else edit[row].to(self.model.dtype) for edit in edits]
        before = self._before(tokens[:, :-1])
        options: dict[str, Any] = {}
        if before is not None:
            name, cache = before
            cache.batch_repeat_interleave(len(edits))
            tokens, options = tokens[:, -1:], {name: cache, "use_cache": True}
        seen: list[Tensor] = []

        def change(stream: Tensor) -> Tensor:
            changed = stream.clone()
            for i, step in enumerate(steps):
                if step is not None:
                    changed[i, -1] += step.to(stream.device)
            return changed

        def keep(stream: Tensor) -> Tensor:
            seen.append(stream[:, -1].float().cpu())
            return stream

        batch = tokens.repeat(len(edits), 1)
        with changed_at(self.model, self.site, change), _last_logits_only(self.model):
            if self.later is None:
                output = self.model.hf(batch, **options)
            else:
                with changed_at(self.model, self.later, keep):
                    output = self.model.hf(batch, **options)
        if self.later is not None:
            return torch.zeros(len(edits), 0), seen[0]
        logits = output if isinstance(output, Tensor) else output.logits
        return logits[:, -1].float().cpu(), torch.zeros(len(edits), 0)

    def _before(self, tokens: Tensor) -> tuple[str, Any] | None:
        """The model's cache after these tokens, and what it calls it; None where there are none, or no cache that can be repeated."""
        if tokens.shape[1] == 0 or not hasattr(self.model.hf, "prepare_inputs_for_generation"):
            return None
        with _last_logits_only(self.model):
            output = self.model.hf(tokens, use_cache=True)
        found = ((name, output.get(name)) for name in ("cache", "past_key_values") if isinstance(output, dict))
        return next((each for each in found if hasattr(each[1], "batch_repeat_interleave")), None)


@contextmanager
def _last_logits_only(model: Model) -> Iterator[None]:
    """While inside, the unembedding reads the last position only: logits of all would be `vocabulary / d` times the stream.

    A model whose unembedding cannot be found computes them all.
    """
    hf = model.hf
    head = hf.get_output_embeddings() if hasattr(hf, "get_output_embeddings") else getattr(hf, "unembed", None)
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][:, -1:], *args[1:]) if args else None)
    try:
        yield
    finally:
        handle.remove()


def runner_of(model: Model, data: Dataset | Sequence[str], site: str) -> Runner:
    """A runner over the sequences of a data set."""
    data = as_dataset(data)
    return Runner(model, site, [np.asarray(t)[: model.context] for t in token_ids(model, data)])


def places_of(features: SparseFeatures, rows: np.ndarray) -> np.ndarray:
    """`[row, 2]` sequence and position of rows."""
    return np.stack([features.sequence[rows], features.position[rows]], 1)
