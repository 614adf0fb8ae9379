"""`Call`: a call of `generate`, followed from step to step: which tokens the model reads, and where they stand."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from probekit.models import Model
from probekit.monitoring.passages import Frame

_REFUSED = {
    "num_beams": "beam search takes tokens back",
    "assistant_model": "assisted decoding takes tokens back",
    "prompt_lookup_num_tokens": "prompt lookup takes tokens back",
    "assistant_early_exit": "assisted decoding takes tokens back",
    "custom_generate": "it generates by a function that is not known",
}
_NONE = np.zeros(0, dtype=np.int64)


@dataclass
class Call:
    """What `generate` was called with, and where it is.

    Attributes:
        given: Its arguments by name, to be handed on.
        settings: What they, and the model's own generation configuration, say.
        ends: Ids of tokens that end a sequence.
        pad: Id that ended sequences are filled up with, if known.
        fills: Whether sequences may end, and be filled up, for reasons that are not known here: stop strings, criteria of one's own.
            A padding token that is generated is then taken for filling.
        tokens: `[sequence, new]` ids that the running step reads for the first time; None between steps.
        skip: How many columns stand before those, that were read at an earlier step.
        index: `[sequence, new]` position of each in its sequence, -1 at padding.
        new: `[sequence, new]` bool: no padding, and before the end of the sequence. The token that ends it is not part of it: where
            all sequences of a batch have ended it is never read, and what a sequence gives must not depend on the others.
        prompt: `[sequence]` number of prompt tokens.
        ended: `[sequence]` bool: what comes is no longer part of it.
    """

    given: dict[str, Any]
    settings: Callable[[str], Any]
    ends: tuple[int, ...]
    pad: int | None
    fills: bool = False
    tokens: np.ndarray | None = None
    skip: int = 0
    index: np.ndarray = field(default_factory=lambda: _NONE)
    new: np.ndarray = field(default_factory=lambda: _NONE)
    prompt: np.ndarray = field(default_factory=lambda: _NONE)
    ended: np.ndarray = field(default_factory=lambda: _NONE)
    _mask: np.ndarray = field(default_factory=lambda: _NONE)  # [sequence, column] of the prompt
    _columns: int = 0  # how many have been read
    _read: np.ndarray = field(default_factory=lambda: _NONE)  # [sequence] how many of them are no padding

    @classmethod
    def of(cls, model: Model, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """From the arguments of `generate`."""
        parameters = list(inspect.signature(type(model.hf).generate).parameters)[
            1:
        ]  # of the class: others may have wrapped it
        given = {**dict(zip(parameters, args, strict=False)), **kwargs}
        configurations = [given.get("generation_config"), getattr(model.hf, "generation_config", None)]

        def setting(name: str) -> Any:
            if name in given:
                return given[name]
            found = (getattr(configuration, name, None) for configuration in configurations)
            return next((value for value in found if value is not None), None)

        ends = setting("eos_token_id")
        ends = ends.reshape(-1).tolist() if isinstance(ends, Tensor) else ends
        ends = tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)
        pad = setting("pad_token_id")
        fills = bool(given.get("stopping_criteria")) or setting("stop_strings") is not None
        return cls(given, setting, tuple(int(e) for e in ends), None if pad is None else int(pad), fills)

    def step(self, kwargs: dict[str, Any], args: tuple[Any, ...] = ()) -> None:
        """The model is about to read some columns: of the whole sequence, or of what the cache does not hold yet."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor):
            raise ValueError("watch follows token ids, and the model was called with something else (inputs_embeds)")
        found = ids.detach().cpu().numpy()
        size = found.shape[1]
        first = not len(self._mask)
        if first:
            self._begin(found, kwargs)
        # Without a cache all columns come again at every step; with one, no more than were read before.
        self.skip = self._columns if not first and size > self._columns else 0
        start, stop = self._columns, self._columns + size - self.skip
        given = self._mask[:, start:stop]  # what is generated is no padding
        self.tokens = found[:, self.skip :]
        self.new = np.ones(self.tokens.shape, dtype=bool)
        self.new[:, : given.shape[1]] = given
        self.index = np.where(self.new, self._read[:, None] + self.new.cumsum(1) - 1, -1)
        self._read = self._read + self.new.sum(1)
        for t in range(given.shape[1], stop - start):
            ids = self.tokens[:, t]
            for end in self.ends:
                self.ended |= ids == end
            self.new[:, t] &= ~self.ended
            if self.fills:
                self.new[:, t] &= ids != self.pad
        self._columns = stop

    def _begin(self, ids: np.ndarray, kwargs: dict[str, Any]) -> None:
        """At the first step: the prompts with their padding."""
        past = next((int(v.get_seq_length()) for v in kwargs.values() if hasattr(v, "get_seq_length")), 0)
        prompt = next((self.given[n] for n in ("inputs", "input_ids") if isinstance(self.given.get(n), Tensor)), None)
        columns = past + ids.shape[1] if prompt is None else int(prompt.shape[1])
        mask = kwargs.get("attention_mask")
        if not (isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= columns):
            mask = self.given.get("attention_mask")  # a static cache turns the mask into another shape
        if isinstance(mask, Tensor) and mask.ndim == 2:
            known = mask[:, :columns].bool().cpu().numpy()
        elif prompt is not None and self.pad is not None and self.pad not in self.ends:
            known = (prompt != self.pad).cpu().numpy()  # as `generate` finds the padding where it is given no mask
        else:
            known = np.ones((1, columns), dtype=bool)
        self._mask = np.repeat(known, len(ids) // len(known), 0)
        self._columns, self._read = past, self._mask[:, :past].sum(1)
        self.prompt = self._mask.sum(1)
        self.ended = np.zeros(len(ids), dtype=bool)

    def put(self, name: str, value: Any) -> None:
        """Set one of the arguments, where they are set."""
        if self.given.get("generation_config") is None:
            self.given[name] = value
        else:
            configuration = copy.deepcopy(self.given["generation_config"])
            setattr(configuration, name, value)
            self.given["generation_config"] = configuration

    def special(self, ids: np.ndarray, index: np.ndarray, frame: Frame) -> np.ndarray:
        """`[sequence, new]` bool: the special tokens that stand before a text."""
        front = np.array(frame.before, dtype=np.int64)
        if not len(front) or int(index.min()) >= len(front):
            return np.zeros(ids.shape, dtype=bool)
        inside = (index >= 0) & (index < len(front))
        found: np.ndarray = inside & (ids == front[np.clip(index, 0, len(front) - 1)])
        return found


def refuse_what_is_not_followed(call: Call) -> None:
    """Refuse ways to generate that a watch cannot follow.

    Raises:
        ValueError: beams, assisted decoding, a generating function of one's own.
    """
    for name, why in _REFUSED.items():
        value = call.settings(name)
        if value is not None and not (name == "num_beams" and value == 1):
            raise ValueError(
                f"watch cannot follow generate({name}=...): {why}; generate without it, or score the texts afterwards"
            )
