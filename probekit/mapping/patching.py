"""`patched_perplexity`: how well a model goes on when its stream is replaced by what another model's stream is mapped to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from probekit.data.dataset import as_groups
from probekit.mapping.alignment import TokenEnds, common_ends, token_ends
from probekit.mapping.linear_map import LinearMap
from probekit.mapping.running import Change, losses, read_at
from probekit.models import Model
from probekit.probes.intervals import cluster_counts, paired_interval

if TYPE_CHECKING:
    import pandas as pd

CONDITIONS = ("plain", "mapped", "shuffled", "mean")
_TOKENS = 16_384  # of B, whose patches are held at a time
_TEXTS = 64


@dataclass(frozen=True)
class PatchedPerplexity:
    """What a text costs B under each condition.

    Attributes:
        losses: By condition `[text]` summed negative log-likelihood in nats.
        tokens: `[text]` how many tokens were predicted.
        replaced: Share of B's own tokens whose stream was replaced.
        site_a, site_b: Where it was read and put in.
        draws: `[draw, text]` how often each text was drawn.
        notes: What was cut.
    """

    losses: dict[str, np.ndarray]
    tokens: np.ndarray
    replaced: float
    site_a: str
    site_b: str
    draws: np.ndarray
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        said = ", ".join(f"{row.condition} {row.perplexity:.2f}" for row in self.to_frame().itertuples())
        return f"<PatchedPerplexity at {self.site_b}, {self.replaced:.0%} of the tokens replaced: {said}>"

    def to_frame(self) -> pd.DataFrame:
        """A row a condition: condition, perplexity with `low` and `high` (95 %, over texts), recovered with its interval, replaced,
        texts, tokens.

        `recovered` is how much of what the mean costs beyond the plain model is won back, in log-likelihood: 1 is as good as
        unpatched, 0 no better than the mean.
        """
        import pandas as pd

        rows = []
        for name in CONDITIONS:
            value, low, high = self._perplexity(name)
            won, won_low, won_high = self.recovered(name)
            rows.append(
                {
                    "condition": name, "perplexity": value, "low": low, "high": high,
                    "recovered": won, "recovered_low": won_low, "recovered_high": won_high,
                    "replaced": 0.0 if name == "plain" else self.replaced,
                    "texts": len(self.tokens), "tokens": int(self.tokens.sum()),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def recovered(self, condition: str = "mapped") -> tuple[float, float, float]:
        """`(mean - condition) / (mean - plain)` in mean log-likelihood a token, with its 95 % interval over texts.

        NaN where the mean costs nothing.
        """

        def share(means: dict[str, np.ndarray]) -> np.ndarray:
            costs = means["mean"] - means["plain"]
            found: np.ndarray = np.where(
                costs > 0, (means["mean"] - means[condition]) / np.where(costs > 0, costs, 1), np.nan
            )
            return found

        whole = np.ones((1, len(self.tokens)))
        value, drawn = (share({n: self._mean(n, w) for n in CONDITIONS}) for w in (whole, self.draws))
        return (float(value[0]), *paired_interval(drawn))

    def _perplexity(self, condition: str) -> tuple[float, float, float]:
        value, drawn = (np.exp(self._mean(condition, w)) for w in (np.ones((1, len(self.tokens))), self.draws))
        return (float(value[0]), *paired_interval(drawn))

    def _mean(self, condition: str, weights: np.ndarray) -> np.ndarray:
        mean: np.ndarray = (weights @ self.losses[condition]) / (weights @ self.tokens)
        return mean


def patched_perplexity(
    model_b: Model,
    model_a: Model,
    linear_map: LinearMap,
    texts: Sequence[str],
    *,
    first: bool = True,
    groups: object = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> PatchedPerplexity:
    """Perplexity of B when its activations at the map's site are replaced by the mapped activations of A at the same places.

    Tokens are matched by the character they end at, so that the tokenizers may differ. Where no token of A ends where one of B
    does, B keeps its own activation; so do B's special tokens. The share replaced is given. Since all kinds of places are
    replaced, fit the map on all kinds (`paired_tokens(..., at="tokens")`), not on the last tokens of texts.

    Conditions: `plain` (nothing replaced), `mapped`, and at the same places `mean` (B's own mean over all the places) and
    `shuffled` (mapped activations of another text, from as far through it). Every text's own tokens are predicted but the first,
    unless a special token stands before it.

    The measure is the one of model stitching (Chen, Merullo, Stolfo & Pavlick 2025, arXiv 2506.06609), with controls.

    Args:
        model_b: Whose stream is replaced and who predicts.
        model_a: Whose activations are mapped.
        linear_map: From a site of A to a site of B, such as `maps[site_a, site_b]`, with both named.
        texts: Two or more. What lies beyond a model's context is left out, and said.
        first: Whether tokens at position 0 are replaced; as in `paired_tokens`, with which the map was fitted.
        groups: `[text]`: drawn together by the bootstrap; each text its own if left out.

    Raises:
        KeyError: a site that its model does not have.
        TypeError: not texts, or a model that predicts no tokens.
        ValueError: a map of other models or widths; fewer than two texts in which tokens end at the same characters; a site that
            cannot be replaced; models without fast tokenizers.
    """
    site_a, site_b = _checked(model_b, model_a, linear_map)
    if isinstance(texts, str):
        raise TypeError("texts is one string; give a list of texts")
    if len(texts) < 2:
        raise ValueError(f"give two texts or more: {len(texts)} has no other to be shuffled with")
    if n_boot < 100:
        raise ValueError(f"n_boot must be at least 100, got {n_boot}")
    group = np.arange(len(texts)) if groups is None else as_groups(groups)
    if len(group) != len(texts):
        raise ValueError(f"groups has {len(group)} entries for {len(texts)} texts")
    in_a, in_b = token_ends(model_a, texts), token_ends(model_b, texts)
    matched = [common_ends(one.ends, two.ends, first=first) for one, two in zip(in_a, in_b, strict=True)]
    places_a, places_b = [m[0] for m in matched], [m[1] for m in matched]
    if sum(len(p) > 0 for p in places_a) < 2:
        raise ValueError(
            "fewer than two of the texts have a token of A and one of B that end at the same character: nothing to patch"
        )
    found = {name: np.zeros((len(texts), 2)) for name in CONDITIONS}
    total, count = torch.zeros(model_b.site(site_b).width, dtype=torch.float64), 0

    def read(members: list[int], h: Tensor) -> Tensor:
        nonlocal total, count
        for row, i in enumerate(members):
            total += h[row, torch.from_numpy(places_b[i]).to(h.device)].double().sum(0).cpu()
            count += len(places_b[i])
        return h

    found["plain"] = losses(model_b, in_b, site_b, read)
    mean = (total / count).float()
    order = np.random.default_rng([seed, 0x9A7C]).permutation(len(texts))
    for some in _portions(order, in_b, places_a):
        read_in_a = read_at(model_a, site_a, [in_a[i] for i in some], [places_a[i] for i in some])
        mapped = [linear_map.apply(rows) for rows in read_in_a]
        if not all(bool(torch.isfinite(rows).all()) for rows in mapped):
            raise ValueError(f"the mapped activations of {model_a.name!r} are NaN or infinite")
        patches = {
            "mapped": mapped,
            "shuffled": _of_others(mapped),
            "mean": [mean.expand(len(rows), -1) for rows in mapped],
        }
        own, at = [in_b[i] for i in some], [places_b[i] for i in some]
        for name, rows in patches.items():
            found[name][some] = losses(model_b, own, site_b, _putting(at, rows))
    tokens = found["plain"][:, 1]
    if not tokens.any():
        raise ValueError(f"no text has a token that {model_b.name!r} predicts: they are one token long")
    cluster = np.unique(group, return_inverse=True)[1]
    draws = cluster_counts(int(cluster.max()) + 1, n_boot, seed).numpy()[:, cluster]
    if cluster.max() == 0:
        draws = draws[:0]  # a single group says nothing about another sample
    replaced = count / sum(text.own[1] - text.own[0] for text in in_b)
    notes = tuple(
        f"{number:,} of {len(texts):,} texts are longer than {model.name!r} can read; what lies beyond is left out"
        for model, ends in ((model_a, in_a), (model_b, in_b))
        if (number := sum(text.cut for text in ends))
    )
    return PatchedPerplexity({n: v[:, 0] for n, v in found.items()}, tokens, replaced, site_a, site_b, draws, notes)


def _checked(model_b: Model, model_a: Model, linear_map: LinearMap) -> tuple[str, str]:
    site_a, site_b = linear_map.site_a, linear_map.site_b
    if site_a is None or site_b is None:
        raise ValueError("this map does not name its sites: give LinearMap(..., site_a=, site_b=)")
    for whose, model, site, width, known in (
        ("A", model_a, site_a, linear_map.widths[0], linear_map.model_a),
        ("B", model_b, site_b, linear_map.widths[1], linear_map.model_b),
    ):
        if model.site(site).width != width:
            raise ValueError(
                f"{site} of {model.name!r} is {model.site(site).width} wide, the map's side {whose} {width}: the models may be the "
                "wrong way round (the one that is patched comes first)"
            )
        if known is not None and known != model.fingerprint:
            raise ValueError(
                f"the map was fitted on another model {whose} (fingerprint {known}) than {model.name!r} ({model.fingerprint}); the "
                "one that is patched comes first"
            )
    return site_a, site_b


def _portions(order: np.ndarray, texts: Sequence[TokenEnds], places: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The texts in random order, some at a time so that their patches fit in memory; those in which nothing is matched with others.

    Each portion has two texts with matched places at least, so that each has another to be shuffled with.
    """
    some = [i for i in order if len(places[i])]
    tokens = sum(len(texts[i].ids) for i in some)
    number = min(max(-(-len(some) // _TEXTS), -(-tokens // _TOKENS)), len(some) // 2)
    portions = np.array_split(np.array(some, np.int64), number)
    none = np.array([i for i in order if not len(places[i])], np.int64)
    return [np.concatenate([portions[0], none]), *portions[1:]]


def _of_others(mapped: Sequence[Tensor]) -> list[Tensor]:
    """For each text what the next text with any has, as far through it."""
    some = [i for i, rows in enumerate(mapped) if len(rows)]
    out = list(mapped)
    for i, j in zip(some, [*some[1:], some[0]], strict=True):
        out[i] = mapped[j][torch.arange(len(mapped[i])) * len(mapped[j]) // len(mapped[i])]
    return out


def _putting(places: Sequence[np.ndarray], rows: Sequence[Tensor]) -> Change:
    """Puts each text's rows at its places."""

    def change(members: list[int], h: Tensor) -> Tensor:
        h = h.clone()
        for row, i in enumerate(members):
            h[row, torch.from_numpy(places[i]).to(h.device)] = rows[i].to(h)
        return h

    return change
