"""Texts as padded batches of tokens beside the labels of those tokens: what a maker that runs the model itself reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probekit.data import Dataset, LabelSet
from probekit.models import Model
from probekit.surgery.directions.labelled import Labelled, Labels
from probekit.surgery.edits.where import Tokens, Where


@dataclass(frozen=True)
class Part:
    """A batch of texts, padded on the right.

    Attributes:
        tokens: `[batch, pos]` int64.
        mask: `[batch, pos]` bool: which are no padding.
        row: `[batch, pos]` number of each token among those of all texts in their order; 0 at padding.
        edited: `[batch, pos]` bool: which an edit with this `where` acts on; never padding.
    """

    tokens: Tensor
    mask: Tensor
    row: Tensor
    edited: Tensor


def parts_of(model: Model, ids: list[np.ndarray], where: Where, batch: int) -> list[Part]:
    """Batches, the longest texts first.

    Args:
        ids: `[pos]` token ids of each text.
        where: Any that names the same tokens at every site.
        batch: Texts at a time.
    """
    lengths = np.array([len(one) for one in ids])
    starts = np.cumsum(lengths) - lengths
    out = []
    order = np.argsort(-lengths, kind="stable")
    for members in np.split(order, range(batch, len(ids), batch)):
        position = torch.arange(int(lengths[members[0]])).expand(len(members), -1)
        mask = position < torch.from_numpy(lengths[members])[:, None]
        tokens = torch.zeros(mask.shape, dtype=torch.long)
        tokens[mask] = torch.from_numpy(np.concatenate([ids[i] for i in members]).astype(np.int64))
        row = (torch.from_numpy(starts[members])[:, None] + position).masked_fill(~mask, 0)
        at = Tokens(model)
        at.index, at.prompt = position.masked_fill(~mask, -1), mask.sum(1)
        out.append(Part(tokens, mask, row, mask if where.tokens == "all" else at.among(where)))
    return out


def token_ids(model: Model, data: Dataset) -> list[np.ndarray]:
    """`[pos]` int32 of each text, special tokens with them.

    Raises:
        ValueError: text, but the model has no tokenizer; texts longer than the context.
    """
    ids, cut = model.tokenize(data.texts) if data.texts is not None else (list(data.tokens or ()), 0)
    cut = cut or sum(len(one) > (model.context or len(one)) for one in ids)
    if cut:
        raise ValueError(f"{cut} of {len(ids)} texts are longer than the context of {model.name!r}, {model.context} tokens: shorten them")  # fmt: skip
    return ids


def of_tokens(labels: Labels, lengths: np.ndarray) -> Labelled:
    """Labels of every token of some texts, one text after the other.

    Args:
        labels: A value for each text, or a label set of texts or of tokens.
        lengths: `[text]` number of tokens.

    Raises:
        TypeError, ValueError: labels of another number, or that `LabelSet.from_values` refuses.
    """
    if isinstance(labels, str):
        raise TypeError(f"labels is the name {labels!r}; give the label set itself, data.label_set({labels!r})")
    if not isinstance(labels, LabelSet):
        labels = LabelSet.from_values("labels", labels, missing="undefined")
    expected = len(lengths) if labels.level == "sequence" else int(lengths.sum())
    if len(labels) != expected:
        what = "texts" if labels.level == "sequence" else f"tokens that the {len(lengths):,} texts have in this model"
        raise ValueError(f"{len(labels):,} labels for {expected:,} {what}: give one for each, None where there is none")
    each = np.repeat(np.arange(len(lengths)), lengths) if labels.level == "sequence" else np.arange(expected)
    return Labelled.at(labels, each)
