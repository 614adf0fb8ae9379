"""`Model`: a language model, its tokenizer, and the places in it that can be read."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probekit.models.architectures import Layout
from probekit.models.fingerprint import fingerprint_model, weights_version
from probekit.models.origin import Origin, sent
from probekit.models.placement import entry_device
from probekit.models.sites import Site, describe_unknown


class _LastSiteRead(Exception):
    """Ends the forward pass once every site asked for has been read."""


class _Running(threading.local):
    """What is known of the pass that runs, each thread its own."""

    padding: Tensor | None = None


class Model:
    """A language model with named sites. `load_model` makes it. Several threads may run it at once, unless an edit is on
    it that says otherwise.

    Attributes:
        hf: The Hugging Face model; for a model that came from TransformerLens, that model itself.
        tokenizer: Its tokenizer, or None for a model of tokens only.
        name: What it was loaded as, for titles and manifests.
        sites: Names of all sites in forward order.
        stream_sites: `blocks.0.hook_resid_pre`, then every `blocks.i.hook_resid_post`: `n_layers + 1` of them.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        context: The most tokens a sequence may have, or None where the configuration names no limit.
        vocab: Number of token ids.
        origin: The name or folder it was loaded from, and how; None for one that was made in this process. A pickle of the model
            is that and the fingerprint, not the weights.
    """

    def __init__(
        self,
        hf: nn.Module,
        tokenizer: Any,
        name: str,
        layout: Layout,
        *,
        context: int | None,
        vocab: int,
        forward: Callable[[Tensor, Tensor | None], object],
        rebuild: Callable[[], Model],
        wrap: Callable[[Any], Model],
    ) -> None:
        self.hf: Any = hf
        self.tokenizer = tokenizer
        self.name = name
        self.context = context
        self.vocab = vocab
        self.n_layers = layout.n_layers
        self._layout = layout
        self._forward = forward
        self._rebuild = rebuild
        self._wrap = wrap
        self._fingerprint: tuple[object, str] | None = None
        self._running = _Running()
        self.origin: Origin | None = None
        self.sites: tuple[str, ...] = tuple(layout.sites)
        posts = tuple(f"blocks.{layer}.hook_resid_post" for layer in range(layout.n_layers))
        self.stream_sites: tuple[str, ...] = ("blocks.0.hook_resid_pre", *posts)
        self.d_model = layout.sites[self.stream_sites[0]].width

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.hf.parameters())
        return (
            f"Model({self.name!r}, {type(self.hf).__name__}, {size / 1e6:.3g} M parameters, {self.n_layers} blocks of "
            f"width {self.d_model}, {len(self.sites)} sites)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process loads it again from where it was loaded here; see `Origin`."""
        return sent(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        other = self._wrap(copy.deepcopy(self.hf, memo))
        other.name, other.tokenizer = self.name, self.tokenizer
        return other

    @property
    def padding(self) -> Tensor | None:
        """While `run` or `visit` runs a batch with padding, its mask `[batch, pos]`, for edits that have to tell padding from
        tokens; else None. Each thread has its own."""
        return self._running.padding

    @padding.setter
    def padding(self, mask: Tensor | None) -> None:
        self._running.padding = mask

    @property
    def device(self) -> torch.device:
        """Where the model begins: tokens given to `run` are moved there. What is read at a site of a model on several devices is
        on that of its block."""
        return entry_device(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored and computed in."""
        return next(self.hf.parameters()).dtype

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of a SHA-256 of configuration and weights.

        Two models with the same fingerprint compute the same. It is kept until a weight changes. What is written past torch's
        bookkeeping (`parameter.data[3] = 0`) is noticed where it meets one of the few dozen numbers that are looked at in each
        tensor: surely if it changes a whole tensor, hardly if it changes a few numbers. Write to the parameter itself, under
        `torch.no_grad()`, and everything is noticed.
        """
        version = weights_version(self.hf)
        if self._fingerprint is None or self._fingerprint[0] != version:
            self._fingerprint = (version, fingerprint_model(self.hf))
        return self._fingerprint[1]

    def remember_fingerprint(self, fingerprint: str) -> None:
        """Take a fingerprint as that of the weights as they are: for an edit that was undone bit for bit."""
        self._fingerprint = (weights_version(self.hf), fingerprint)

    def site(self, name: str) -> Site:
        """The site called `name`.

        Raises:
            KeyError: no such site in this model. Says why where the architecture lacks it, and names the near ones.
            TypeError: `name` is a number: which place "layer 0" means differs from tool to tool.
        """
        if isinstance(name, str) and name in self._layout.sites:
            return self._layout.sites[name]
        message = describe_unknown(name, self._layout.sites, self.n_layers, self._layout.absent)
        raise (KeyError if isinstance(name, str) else TypeError)(message)

    def why_absent(self, kind: str) -> str | None:
        """Why this architecture lacks a kind of site (`hook_resid_mid`) that others have, or None."""
        return self._layout.absent.get(kind)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[np.ndarray], int]:
        """Turn texts into token ids, with the special tokens the tokenizer itself adds.

        Args:
            texts: The texts.

        Returns:
            An int32 array a text, `[pos]`, cut after `context` tokens; and how many of the texts were cut.

        Raises:
            ValueError: the model has no tokenizer, or a text gives no token.
            TypeError: `texts` is one string, or holds something else than strings.
        """
        if self.tokenizer is None:
            raise ValueError(
                f"model {self.name!r} has no tokenizer, so it takes token ids only: pass "
                f"load_model(..., tokenizer=...), or data with tokens"
            )
        if isinstance(texts, str):
            raise TypeError("texts is one string; give a list of texts")
        texts = list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{i}] is {type(text).__name__}, not a string")
        if not texts:
            return [], 0
        encoded = self.tokenizer(texts, return_attention_mask=False, truncation=False, verbose=False)["input_ids"]
        for i, ids in enumerate(encoded):
            if len(ids) == 0:
                raise ValueError(f"texts[{i}] = {texts[i]!r} gives no token")
        cut = 0 if self.context is None else sum(len(ids) > self.context for ids in encoded)
        return [np.asarray(ids[: self.context], dtype=np.int32) for ids in encoded], cut

    def run(self, tokens: Tensor, mask: Tensor | None, sites: Sequence[str]) -> dict[str, Tensor]:
        """Read sites on a batch and keep them all: `visit` for when there is memory for every site at once.

        Args:
            tokens: `[batch, pos]` integers.
            mask: `[batch, pos]`, true on tokens and false on the padding, which must stand on the right; None when
                there is no padding. What is read at padding is meaningless.
            sites: Names of sites.

        Returns:
            By site, in the order asked for, a tensor `[batch, pos, width]` in the model's dtype, on its device. Heads
            are flattened: `attn.hook_z` is `[batch, pos, head * d_head]`.

        Raises:
            KeyError: an unknown site.
            ValueError: tokens out of range, longer than the context, or padded on the left.
        """
        read: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor) -> None:
            read[name] = value if self._layout.known else value.clone()

        self.visit(tokens, mask, sites, keep)
        return {name: read[name] for name in sites}

    def visit(
        self, tokens: Tensor, mask: Tensor | None, sites: Sequence[str], receive: Callable[[str, Tensor], None]
    ) -> None:
        """Read sites on a batch and hand each over as the forward pass comes by, so that none has to be kept.

        The forward pass ends after the last site; no logits are computed. Dropout is off whatever mode the model is
        in, no gradient is kept, and hooks that others have put on the model act. Attention stays what the model was
        loaded with (`sdpa`, unless the architecture forbids it).

        Args:
            tokens, mask, sites: As in `run`.
            receive: Called with the name of the site and its activations `[batch, pos, width]`, once a site, in
                forward order. They are the model's own memory: read them before returning, and do not write to them.

        Raises:
            KeyError, ValueError: as `run`.
        """
        wanted = {name: self.site(name) for name in sites}
        tokens, mask = self._check_batch(torch.as_tensor(tokens), mask)
        if tokens.numel() == 0:
            for name, site in wanted.items():
                receive(name, torch.empty((*tokens.shape, site.width), dtype=self.dtype, device=self.device))
        if not wanted or tokens.numel() == 0:
            return
        left, here = set(wanted), threading.get_ident()

        def hand_over(name: str, value: Tensor) -> None:
            if threading.get_ident() != here:  # another thread's pass comes by
                return
            if value.shape[0] == 1 and len(tokens) > 1:  # position embeddings are the same for every sequence
                value = value.expand(len(tokens), *value.shape[1:])
            receive(name, value.reshape(*tokens.shape, -1))
            left.discard(name)
            if not left:
                raise _LastSiteRead

        with torch.inference_mode(), evaluating(self.hf), self._reading(wanted.values(), hand_over):
            self.padding = mask
            try:
                self._forward(tokens, mask)
            except _LastSiteRead:
                pass
            else:
                raise RuntimeError(f"the forward pass never came by {[name for name in wanted if name in left]}")
            finally:
                self.padding = None

    def randomized(self, seed: int) -> Model:
        """The same architecture with fresh weights, as its own initialisation draws them: the control.

        The same seed gives the same weights; the global random state is left as it was.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._rebuild()
        model.name = f"{self.name} (random weights, seed {seed})"
        return model

    def _check_batch(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(f"tokens must be integers [batch, pos], got {tokens.dtype} {tuple(tokens.shape)}")
        tokens = tokens.to(self.device, torch.long)
        if mask is not None:
            mask = torch.as_tensor(mask).to(self.device, torch.bool)
            if mask.shape != tokens.shape:
                raise ValueError(f"mask has shape {tuple(mask.shape)}, tokens {tuple(tokens.shape)}")
            if (mask[:, 1:] & ~mask[:, :-1]).any():
                raise ValueError("padding must stand on the right: mask has a token after padding")
            tokens = tokens.masked_fill(~mask, 0)
        if self.context is not None and tokens.shape[1] > self.context:
            raise ValueError(f"{tokens.shape[1]} positions, but the context of {self.name!r} is {self.context} tokens")
        if tokens.numel() and (tokens.min() < 0 or tokens.max() >= self.vocab):
            raise ValueError(
                f"token ids must lie in 0..{self.vocab - 1} for {self.name!r}, found {tokens.min()}..{tokens.max()}"
            )
        return tokens, mask

    @contextmanager
    def _reading(self, sites: Iterable[Site], keep: Callable[[str, Tensor], None]) -> Iterator[None]:
        """Hook every site, so that `keep(name, value)` is called when the forward pass comes by."""
        handles = []
        try:
            for site in sites:
                module = self.hf.get_submodule(site.module)
                if site.at == "output":
                    handles.append(module.register_forward_hook(_output_hook(site, keep)))
                else:
                    handles.append(module.register_forward_pre_hook(_input_hook(site, keep), with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _output_hook(site: Site, keep: Callable[[str, Tensor], None]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        keep(site.name, output if isinstance(output, Tensor) else output[0])

    return hook


def _input_hook(site: Site, keep: Callable[[str, Tensor], None]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        value = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
        keep(site.name, normalize(module, value) if site.at == "normalized" else value)

    return hook


def normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """What a LayerNorm or RMSNorm makes of `x` before gain and bias, computed in float32, in `x`'s dtype."""
    wide = x.float()
    if isinstance(norm, nn.LayerNorm):
        wide = wide - wide.mean(-1, keepdim=True)
    eps = next(getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name))
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and back to what each was."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
