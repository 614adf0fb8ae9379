"""How good an SAE is on rows it was not trained on: sparsity, reconstruction, dead and dense features, and what the model
loses when its activations are replaced by the reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probekit.data import Dataset, drop_seen_prefixes
from probekit.models.batching import batches, logits, padded, positions_of_logits
from probekit.models.editing import changed_at
from saes.loading import check_fits, check_read, site_of
from saes.rows import held_out_sequences, token_ids

if TYPE_CHECKING:
    import pandas as pd

    from probekit.activations import Activations
    from probekit.models import Model

DENSE = 0.1
"""Share of the rows from which a feature that fires counts as dense."""
_CHUNK = 4096


@dataclass(frozen=True)
class Spliced:
    """What the model loses when a site is replaced, in nats a token, mean over sequences' tokens.

    Attributes:
        loss: Cross-entropy of the next token as the model is.
        loss_spliced: With the SAE's reconstruction in place of the activations.
        loss_mean: With the mean activation in their place: what not knowing anything costs.
        recovered: `(loss_mean - loss_spliced) / (loss_mean - loss)`: 1 is lossless.
        recovered_low, recovered_high: Ends of its 95 % interval (bootstrap over sequences).
        kl: KL divergence of the next-token distribution with the reconstruction from that without.
        tokens: Predictions that these are means of.
    """

    loss: float
    loss_spliced: float
    loss_mean: float
    recovered: float
    recovered_low: float
    recovered_high: float
    kl: float
    tokens: int


@dataclass(frozen=True)
class Health:
    """Figures of an SAE on held-out rows.

    Attributes:
        l0: Features that fire at a row, mean.
        variance_unexplained: Squared error of the reconstruction over the variance of the activations.
        dead: Share of the features that never fire.
        dense: Share of the features that fire at more than a tenth of the rows.
        density: `[feature]` share of the rows at which each fires.
        rows: Rows that these are of.
        held_out: Whether no row was trained on: True of the rows that training held out, False where they cannot be told from
            the others. None: the data are not those of the training; whether some of it is the same text is not known.
        spliced: What the model loses; None when no model was given.
        seen: Held-out rows left out, since training had a row with the same prefix (the first moves of a game, a text twice).
    """

    l0: float
    variance_unexplained: float
    dead: float
    dense: float
    density: np.ndarray
    rows: int
    held_out: bool | None
    spliced: Spliced | None = None
    seen: int = 0

    def __str__(self) -> str:
        kind = {True: "held-out rows", False: "rows", None: "rows of other data than the training's"}[self.held_out]
        text = (
            f"L0 {self.l0:.1f}, variance unexplained {self.variance_unexplained:.3f}, dead {self.dead:.1%}, "
            f"dense {self.dense:.1%} ({self.rows:,} {kind}"
        )
        text += f"; {self.seen:,} more left out, whose prefix was trained on)" if self.seen else ")"
        if self.spliced is not None:
            s = self.spliced
            text += f"; loss {s.loss:.3f}, spliced {s.loss_spliced:.3f}, mean {s.loss_mean:.3f}, KL {s.kl:.4f}"
        return text

    def to_frame(self, floor: Health | None = None) -> pd.DataFrame:
        """A row a figure, the deciles and median of the density among them; given `floor`, the same of a random model beside it.

        Args:
            floor: `health` of the SAE and activations of `saes.floor`.
        """
        import pandas as pd

        columns = {"SAE": self._figures()} | ({} if floor is None else {"random weights": floor._figures()})
        return pd.DataFrame(columns)

    def _figures(self) -> dict[str, float]:
        found = {
            "L0": self.l0,
            "variance unexplained": self.variance_unexplained,
            "dead": self.dead,
            "dense": self.dense,
        }
        for share in (10, 50, 90):
            found[f"density, {share} % of features below"] = float(np.quantile(self.density, share / 100))
        if self.spliced is not None:
            s = self.spliced
            found |= {"loss": s.loss, "loss spliced": s.loss_spliced, "loss with the mean": s.loss_mean}
            found |= {"loss recovered": s.recovered, "KL spliced": s.kl}
        return found | {"rows": float(self.rows)}


@torch.no_grad()  # type: ignore[untyped-decorator]
def health(
    sae: Any,
    activations: Activations,
    *,
    site: str | None = None,
    model: Model | None = None,
    data: Dataset | None = None,
    sequences: int = 200,
    seed: int = 0,
) -> Health:
    """Measure an SAE on rows it was not trained on.

    When the activations are of the data it was trained on (by fingerprint), these are of the sequences held out then, without
    rows whose prefix training saw; otherwise all, and `held_out` is None. Arrays have no fingerprint: those of as many sequences
    as were trained on are taken to be the same, and `held_out` is False.

    Args:
        sae: A `sae_lens.SAE`.
        activations: A store, or arrays.
        site: What it reads; left out, its configuration says. Another one is refused where the activations have the SAE's own.
        model, data: The model and what it reads, to measure what splicing costs; data must be what was captured.
        sequences: At most so many of them are run through the model.
        seed: Of the bootstrap.

    Raises:
        KeyError: the activations lack the site.
        ValueError: other width, model or data; a model without data; activations or reconstructions that are not finite; no row to
            measure on.
    """
    site = site_of(sae, site)
    check_fits(sae, activations, site)
    if (model is None) != (data is None):
        raise ValueError("splicing needs both the model and the data it reads")
    check_read(activations, model, data)
    rows, held_out, seen = _rows(sae, activations)
    if len(rows) < 2:
        why = "training saw the same prefixes" if seen else "the activations hold too few sequences"
        raise ValueError(f"no held-out rows to measure on: {why}")
    kept = np.bincount(activations.sequence[rows]) > 0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)
    total, squares, errors = torch.zeros(sae.cfg.d_in, dtype=torch.float64), 0.0, 0.0
    for start in range(0, len(rows), _CHUNK):
        read = torch.from_numpy(activations.read(site, rows[start : start + _CHUNK]))
        if not bool(torch.isfinite(read.sum(dtype=torch.float64))):
            row = rows[start + int(torch.isfinite(read).all(1).int().argmin())]
            raise ValueError(f"activations at {site} are NaN or infinite at row {row}: nothing can be measured on them")
        x = read.to(sae.device, sae.dtype)
        features = sae.encode(x)
        features = features.to_dense() if features.is_sparse else features
        fired += (features != 0).sum(0).cpu()
        errors += float((sae.decode(features) - x).double().square().sum())
        total += x.double().sum(0).cpu()
        squares += float(x.double().square().sum())
    if not np.isfinite(errors):
        raise ValueError(f"the SAE's reconstruction of {site} is NaN or infinite")
    density = (fired / len(rows)).numpy()
    mean = total / len(rows)
    variance = squares - len(rows) * float(mean.square().sum())
    return Health(
        l0=float(density.sum()),
        variance_unexplained=errors / max(variance, 1e-300),
        dead=float((density == 0).mean()),
        dense=float((density > DENSE).mean()),
        density=density,
        rows=len(rows),
        held_out=held_out,
        spliced=None
        if model is None or data is None
        else _spliced(sae, site, model, data, kept, mean, sequences, seed),
        seen=seen,
    )


def _rows(sae: Any, activations: Activations) -> tuple[np.ndarray, bool | None, int]:
    """Rows to measure on, whether it is known that they were not trained on, and how many were left out as seen in training."""
    sequence = activations.sequence
    count = int(sequence.max()) + 1
    trained = sae.cfg.metadata.get("probekit") or {}
    of_training = trained.get("sequences", count)  # older SAEs do not say
    manifest = getattr(activations, "manifest", None)
    same = manifest is not None and manifest.data_fingerprint == trained.get("data_fingerprint")
    if not trained.get("held_out") or not (same or (manifest is None and of_training == count)):
        other = manifest is not None and trained.get("data_fingerprint") is not None and not same
        return np.arange(len(sequence)), None if other else False, 0
    held = held_out_sequences(of_training, trained["held_out"])
    held = np.append(held, np.ones(max(count - of_training, 0), bool))[
        sequence
    ]  # what came after was not there to train on
    rows = np.flatnonzero(held)
    fresh = drop_seen_prefixes(activations.prefix[~held], activations.prefix[rows])
    return rows[fresh], same, int((~fresh).sum())


def _spliced(
    sae: Any, site: str, model: Model, data: Dataset, kept: np.ndarray, mean: torch.Tensor, most: int, seed: int
) -> Spliced:
    tokens = token_ids(model, data)
    chosen = [np.asarray(tokens[i])[: model.context] for i in np.flatnonzero(kept) if i < len(tokens)]
    chosen = [t for t in chosen if len(t) > 1][:most]
    if not chosen:
        raise ValueError("no held-out sequence of two tokens or more to splice into")

    def rebuilt(x: torch.Tensor) -> torch.Tensor:
        return sae(x.to(sae.device, sae.dtype).flatten(0, -2)).to(x).view_as(x)

    sums = []  # a row a sequence: loss, spliced, mean, KL, tokens
    for group in batches([len(ids) for ids in chosen], positions_of_logits(model)):
        batch, mask = padded([chosen[i] for i in group])
        plain = logits(model, batch, mask).float().log_softmax(-1)
        with changed_at(model, site, rebuilt):
            spliced = logits(model, batch, mask).float().log_softmax(-1)
        with changed_at(model, site, lambda x: mean.to(x).expand_as(x)):
            ignorant = logits(model, batch, mask).float().log_softmax(-1)
        real = mask.to(plain)
        target, counted = batch.to(plain.device)[:, 1:, None], real[:, 1:]
        losses = [-(p[:, :-1].gather(-1, target)[..., 0] * counted).sum(1) for p in (plain, spliced, ignorant)]
        kl = ((plain.exp() * (plain - spliced)).sum(-1) * real)[:, :-1] * counted
        sums.append(torch.stack([*losses, kl.sum(1), counted.sum(1)], 1).double().cpu())
    each = torch.cat(sums).numpy()
    loss, spliced_loss, ignorant_loss, kl_mean = each[:, :4].sum(0) / each[:, 4].sum()
    counts = np.random.default_rng([seed, 0xB007]).multinomial(len(each), np.full(len(each), 1 / len(each)), size=1000)
    drawn = counts @ each[:, :3]
    low, high = np.quantile((drawn[:, 2] - drawn[:, 1]) / (drawn[:, 2] - drawn[:, 0]), [0.025, 0.975])
    return Spliced(
        loss=float(loss),
        loss_spliced=float(spliced_loss),
        loss_mean=float(ignorant_loss),
        recovered=float((ignorant_loss - spliced_loss) / (ignorant_loss - loss)),
        recovered_low=float(low),
        recovered_high=float(high),
        kl=float(kl_mean),
        tokens=int(each[:, 4].sum()),
    )
