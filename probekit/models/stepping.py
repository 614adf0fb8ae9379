"""`Stepper`: a batch taken through a model block by block, its stream in hand between one block and the next."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from probekit.models.editing import changed_at
from probekit.models.model import Model, evaluating
from probekit.models.transformer_lens import is_transformer_lens


class Stepper:
    """The residual stream of one batch, and what is needed to take it on by a block at a time.

    One plain pass notes what each block is called with beside the stream (attention mask, positions, no cache). `step` calls
    a block again with that and the stream as it is by then. Edits of the weights act; so do hooks inside a block.

    Args:
        model: A Hugging Face model.
        tokens, mask: As in `Model.run`.
        blocks: How many blocks it is to go through; the plain pass ends after them.

    Attributes:
        stream: `[batch, pos, d]`, what enters the next block. Put another in its place to change it.
        done: Number of blocks it has gone through.

    Raises:
        ValueError: a TransformerLens model; blocks that do not run once each, in order; what `Model.run` refuses.
    """

    def __init__(self, model: Model, tokens: Tensor, mask: Tensor | None, blocks: int) -> None:
        if is_transformer_lens(model.hf):
            raise ValueError(
                f"{model.name!r} is a TransformerLens model, whose blocks are not called one by one here: load the Hugging Face "
                "model, load_model(name or folder)"
            )
        self.model, self.tokens, self.mask, self.done = model, tokens, mask, 0
        self._blocks = [model.hf.get_submodule(model.site(f"blocks.{i}.hook_resid_pre").module) for i in range(blocks)]
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any], str | None]] = []
        read: list[Tensor] = []
        order: list[nn.Module] = []
        here = threading.get_ident()

        def note(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() != here:  # another thread's pass comes by
                return
            order.append(block)
            name = None if args else "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
            self._calls.append((args[1:], {key: value for key, value in kwargs.items() if key != name}, name))

        def keep(site: str, h: Tensor) -> None:
            if not read:
                read.append(h.clone())  # a block may write to it

        handles = [block.register_forward_pre_hook(note, with_kwargs=True, prepend=True) for block in self._blocks]
        try:
            model.visit(tokens, mask, (model.stream_sites[0], model.stream_sites[blocks]), keep)
        finally:
            for handle in handles:
                handle.remove()
        self.stream = read[0]
        if blocks and order != self._blocks:
            self._refuse("its blocks do not run once each, in order")

    def step(self) -> None:
        """Through the next block."""
        args, kwargs, name = self._calls[self.done]
        block = self._blocks[self.done]
        with torch.inference_mode(), evaluating(block):
            out = block(self.stream, *args, **kwargs) if name is None else block(**{name: self.stream}, **kwargs)
        self.stream = out if isinstance(out, Tensor) else out[0]
        self.done += 1

    def check(self) -> None:
        """See to it that block by block is what the model does, by running it both ways from another stream than its own.

        Raises:
            ValueError: it is not: something else than the stream goes from block to block.
        """
        if not self._blocks:
            return
        first, last = self.model.stream_sites[0], self.model.stream_sites[len(self._blocks)]
        begun = self.stream
        with changed_at(self.model, first, lambda h: h.flip(-1)):
            wanted = self.model.run(self.tokens, self.mask, [last])[last]
        self.stream = begun.flip(-1)
        for _ in self._blocks:
            self.step()
        real = slice(None) if self.mask is None else self.mask.to(wanted.device)
        ours, theirs = (x.to(wanted.device)[real].float().nan_to_num(0, 0, 0) for x in (self.stream, wanted))
        self.stream, self.done = begun, 0
        if (ours - theirs).norm() > (1e-3 if wanted.dtype.itemsize >= 4 else 3e-2) * theirs.norm():
            self._refuse("something besides the stream goes from block to block, or changes it between them")

    def _refuse(self, why: str) -> None:
        raise ValueError(f"{self.model.name!r} cannot be taken through its blocks one by one: {why}")
