"""Running a model for what is measured of it: token ids of texts, log-probabilities, activations, greedy continuations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probekit.models import Model
from probekit.models.batching import batches, logits, nats, padded, positions_of_logits, unless_full
from probekit.models.model import evaluating
from probekit.models.transformer_lens import is_transformer_lens


@dataclass(frozen=True)
class Piece:
    """Token ids of a text, or of a window of it.

    Attributes:
        ids: `[pos]` int64: what comes before (special tokens, a prompt), then the text's own tokens, then what comes after.
        start, end: Range of the text's own tokens.
        scored: The first of them that counts as predicted: the second where nothing stands before the text itself, because
            nothing predicts the first. With a prompt put before it, it is the same token.
        item: Which of the texts it is of.
    """

    ids: np.ndarray
    start: int
    end: int
    scored: int
    item: int

    @property
    def predicted(self) -> np.ndarray:
        """`[scored]` positions of the own tokens that count as predicted."""
        return np.arange(self.scored, self.end)


def pieces(
    model: Model,
    items: Sequence[str | Sequence[int]],
    *,
    window: int | None = None,
    prefix: str | None = None,
    closed: bool = True,
) -> list[Piece]:
    """Token ids of texts, in order.

    Args:
        items: Texts, or token ids a text (which then stand as they are).
        window: Texts longer than this many own tokens are cut into windows, each with the special tokens before it; None:
            a text that is too long is refused.
        prefix: Text put before each, after the special tokens.
        closed: Whether the special tokens that the tokenizer puts after a text (in some, one that ends it) are kept.

    Raises:
        ValueError: a text without a token; one that is longer than the context; text, but the model has no tokenizer.
    """
    before = _bare(model, prefix) if prefix else np.zeros(0, np.int64)
    out = []
    for i, item in enumerate(items):
        lead, own, trail = _encoded(model, item)
        if not len(own):
            raise ValueError(f"text {i} ({item!r}) gives no token")
        room = len(own) if window is None else window
        for first in range(0, len(own), room):
            part = own[first : first + room]
            ids = np.concatenate([lead, before, part, trail if closed else trail[:0]])
            if model.context is not None and len(ids) > model.context:
                advice = "shorten it" if window is None else "choose a smaller window (tokens=)"
                raise ValueError(f"text {i} has {len(ids)} tokens with what is put before it, the context of {model.name!r} is {model.context}: {advice}")  # fmt: skip
            start = len(lead) + len(before)
            out.append(Piece(ids, start, start + len(part), start + (0 if len(lead) else 1), i))
    return out


def prompt_ids(model: Model, items: Sequence[str | Sequence[int]]) -> list[np.ndarray]:
    """`[pos]` int64 token ids of texts that something is to follow, so without special tokens after them; refuses as `pieces`."""
    return [piece.ids for piece in pieces(model, items, closed=False)]


def _encoded(model: Model, item: str | Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Special tokens before, own tokens, special tokens after."""
    none = np.zeros(0, np.int64)
    if not isinstance(item, str):
        return none, np.asarray(item, np.int64), none
    _need_tokenizer(model)
    said = model.tokenizer(item, return_special_tokens_mask=True, truncation=False, verbose=False)
    ids = np.asarray(said["input_ids"], np.int64)
    own = np.flatnonzero(np.asarray(said["special_tokens_mask"]) == 0)
    if not len(own):
        return ids, none, none
    return ids[: own[0]], ids[own[0] : own[-1] + 1], ids[own[-1] + 1 :]


def _bare(model: Model, text: str) -> np.ndarray:
    """A text's tokens without special ones."""
    _need_tokenizer(model)
    return np.asarray(model.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"], np.int64)  # fmt: skip


def first_token(model: Model, wanted: str | int) -> int:
    """Id of a token given as id, or as text (the first token of it)."""
    if isinstance(wanted, str):
        ids = _bare(model, wanted)
        if not len(ids):
            raise ValueError(f"{wanted!r} gives no token")
        return int(ids[0])
    if not 0 <= int(wanted) < model.vocab:
        raise ValueError(f"no token {wanted}: the model has {model.vocab:,}, 0 to {model.vocab - 1}")
    return int(wanted)


def _need_tokenizer(model: Model) -> None:
    if model.tokenizer is None:
        raise ValueError(f"model {model.name!r} has no tokenizer: give token ids, or load_model(..., tokenizer=...)")


def logits_of(model: Model, given: Sequence[Piece]) -> Iterator[tuple[int, Tensor]]:
    """Index into `given` and logits `[pos, vocabulary]` float32 of each piece, in an order of its own.

    Raises:
        TypeError: a model that predicts no tokens.
    """
    for members in batches([len(piece.ids) for piece in given], positions_of_logits(model)):
        found = logits(model, *padded([given[i].ids for i in members]))
        for row, i in enumerate(members):
            yield i, found[row, : len(given[i].ids)].float()


def losses(model: Model, given: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
    """`[piece]` summed negative log-likelihood of the predicted own tokens (nats, NaN where not finite), and their number."""
    total, count = np.zeros(len(given)), np.zeros(len(given))
    for i, predicted in logits_of(model, given):
        at = given[i].predicted
        target = torch.from_numpy(given[i].ids[at]).to(predicted.device)
        total[i], count[i] = float(nats(predicted[at - 1], target).double().sum()), len(at)
    return np.where(np.isfinite(total), total, np.nan), count


def pooled(model: Model, given: Sequence[Piece], sites: Sequence[str], pool: str) -> dict[str, np.ndarray]:
    """Activations of each piece by site, `[piece, width]` float32.

    Args:
        pool: `"last"`: of the last token, special ones included; `"mean"`: over the own tokens; as `capture` pools.
    """
    out = {site: np.empty((len(given), model.site(site).width), np.float32) for site in sites}
    for members in batches([len(piece.ids) for piece in given]):
        tokens, mask = padded([given[i].ids for i in members])

        def keep(site: str, value: Tensor, members: Sequence[int] = members) -> None:
            for row, i in enumerate(members):
                piece = given[i]
                own = (
                    value[row, len(piece.ids) - 1]
                    if pool == "last"
                    else value[row, piece.start : piece.end].float().mean(0)
                )
                out[site][i] = own.float().cpu().numpy()

        model.visit(tokens, unless_full(mask), sites, keep)
    return out


def continuations(model: Model, prompts: Sequence[np.ndarray], most: int, batch: int) -> list[np.ndarray]:
    """The most likely tokens, one after the other, up to and with the first that ends the text.

    Args:
        prompts: `[pos]` token ids each.
        most: Tokens that are made at most.
        batch: Prompts at a time; they are padded on the left (of a TransformerLens model, only prompts of one length go together).

    Returns:
        `[new]` int64 token ids each, at least one.

    Raises:
        ValueError: a prompt that leaves no room in the context.
    """
    for i, prompt in enumerate(prompts):
        if model.context is not None and len(prompt) + most > model.context:
            raise ValueError(
                f"prompt {i} has {len(prompt)} tokens, and {most} more do not fit the context of {model.context}: shorten it, or "
                "give a smaller max_new_tokens"
            )
    lens = is_transformer_lens(model.hf)
    ends, pad = _ends(model)
    out: list[np.ndarray] = [np.zeros(0, np.int64)] * len(prompts)
    for members in _equal_lengths(prompts, batch) if lens else _in_order(len(prompts), batch):
        ids, mask = padded([prompts[i] for i in members], left=True, fill=pad)
        with torch.no_grad(), evaluating(model.hf):
            made = _generate_lens(model, ids, most) if lens else _generate(model, ids, mask, most, ends, pad)
        for row, i in enumerate(members):
            new = made[row, ids.shape[1] :].cpu().numpy().astype(np.int64)
            stops = np.flatnonzero(np.isin(new, ends))
            out[i] = new[: stops[0] + 1] if len(stops) else new
    return out


def _generate(model: Model, ids: Tensor, mask: Tensor, most: int, ends: list[int], pad: int) -> Tensor:
    from transformers import GenerationConfig

    hf = model.hf
    before = hf.generation_config
    # What a model's own settings hold (penalties, sampling) would be filled in beside those given: they are set aside.
    hf.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=most, eos_token_id=ends or None, pad_token_id=pad, bos_token_id=before.bos_token_id
    )  # fmt: skip
    try:
        made: Tensor = hf.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device).long())
        return made
    finally:
        hf.generation_config = before


def _generate_lens(model: Model, ids: Tensor, most: int) -> Tensor:
    # Without a tokenizer, TransformerLens 3.9 counts absolute positions from the end of its cache a second time.
    made: Tensor = model.hf.generate(
        ids.to(model.device), max_new_tokens=most, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False,
        prepend_bos=False, use_past_kv_cache=model.hf.tokenizer is not None,
    )  # fmt: skip
    return made


def _ends(model: Model) -> tuple[list[int], int]:
    """Tokens that end a text, and what to pad with."""
    found = getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)
    if found is None:
        found = getattr(model.tokenizer, "eos_token_id", None)
    ends = [] if found is None else [int(e) for e in (found if isinstance(found, list | tuple) else [found])]
    pad = getattr(model.tokenizer, "pad_token_id", None)
    return ends, int(pad) if pad is not None else (ends[0] if ends else 0)


def _in_order(count: int, batch: int) -> list[list[int]]:
    return [list(range(first, min(first + batch, count))) for first in range(0, count, batch)]


def _equal_lengths(prompts: Sequence[np.ndarray], batch: int) -> list[list[int]]:
    out = []
    for length in sorted({len(prompt) for prompt in prompts}):
        same = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        out += [[same[j] for j in part] for part in _in_order(len(same), batch)]
    return out
