"""`MultiMaxProbe` and `RollingMeanProbe`: a text read at its strongest token, or at its strongest passage.

For long texts in which a short passage matters, which a mean over all tokens drowns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.probes.spectrum import Standardisation
from probekit.probes.texts import Texts, segments, softmax_over
from probekit.probes.token_probe import Pool, TokenProbe, check_whole, mean_pooled, train

SHARPNESS = (1.0, 4.0, 16.0, 64.0)  # of the softened maximum, stage by stage, over the spread of a text's scores
POLISH = 25  # steps with the maximum itself
COLUMNS = 64  # features whose running sums are held at a time


@dataclass(frozen=True)
class Windows:
    """All runs of `size` consecutive tokens of each text; a shorter text is one window."""

    size: int
    starts: Tensor  # [window] first sorted row
    ends: Tensor  # [window] the row after the last
    of_window: Tensor  # [window] text
    offsets: Tensor  # [text + 1] first window of each text, and the end

    @classmethod
    def of(cls, texts: Texts, size: int) -> Windows:
        counts = (texts.lengths - size + 1).clamp(min=1)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        of_window = torch.arange(len(texts), device=counts.device).repeat_interleave(counts)
        starts = torch.arange(len(of_window), device=counts.device) + (texts.offsets - offsets)[of_window]
        return cls(size, starts, torch.minimum(starts + size, texts.offsets[1:][of_window]), of_window, offsets)

    @property
    def lengths(self) -> Tensor:
        """`[window, 1]` tokens of each."""
        return (self.ends - self.starts)[:, None]

    def means(self, values: Tensor) -> Tensor:
        """Sorted `[row, k]` -> `[window, k]`, from running sums in float64."""
        if self.size == 1:
            return values
        running = torch.nn.functional.pad(values.double().cumsum(0), (0, 0, 1, 0))
        return ((running[self.ends] - running[self.starts]) / self.lengths).to(values.dtype)

    def back(self, gradient: Tensor, rows: int) -> Tensor:
        """Gradient of `means`: `[window, k]` -> `[row, k]`."""
        if self.size == 1:
            return gradient
        share = gradient.double() / self.lengths
        change = share.new_zeros(rows + 1, gradient.shape[1])
        change[self.starts] += share  # no two windows start, or end, at the same row
        change[self.ends] -= share
        return change.cumsum(0)[:-1].to(gradient.dtype)

    def first_highest(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Maximum over the windows of each text of `[window, k]`: `[text, k]`, and the first window that has it."""
        highest = segments(values, self.offsets, "max")
        numbers = torch.arange(len(values), device=values.device)[:, None].expand_as(values)
        numbers = torch.where(values == highest[self.of_window], numbers, len(values))
        first = torch.full(highest.shape, len(values), device=values.device)
        return highest, first.scatter_reduce_(0, self.of_window[:, None].expand_as(values), numbers, "amin")


def peak_pool(windows: Windows, heads: int, classes: int, sharpness: Tensor | None = None) -> Pool:
    """The sum over heads of the highest mean score of a window, for token scores whose columns are `[class, head]`.

    With `sharpness [class * head]` b the maximum is softened into `log(mean(exp(b s))) / b` over the windows of a text.
    Two classes give one output, the second's score less the first's.
    """

    def pool(scores: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        means = windows.means(scores)
        if sharpness is None:
            peaks, at = windows.first_highest(means)
        else:
            weights, partition = softmax_over(means * sharpness, windows.of_window, windows.offsets)
            peaks = (partition - windows.offsets.diff().to(scores.dtype).log()[:, None]) / sharpness
        found = peaks.view(-1, classes, heads).sum(2)

        def back(gradient: Tensor) -> Tensor:
            signed = torch.cat([-gradient, gradient], 1) if classes == 2 else gradient
            each = signed.repeat_interleave(heads, 1)  # [text, class * head]
            if sharpness is None:
                on_means = torch.zeros_like(means).scatter_(0, at, each)
            else:
                on_means = weights * each[windows.of_window]
            return windows.back(on_means, len(scores))

        return (found[:, 1:] - found[:, :1] if classes == 2 else found), back

    return pool


class PeakProbe(TokenProbe):
    """What the probes share that read a text at its strongest place.

    The score of a class is the sum over heads of the highest mean of `coef . x` over a window of tokens, plus the
    intercept. Every class has weights of its own, two classes too: a passage that speaks for one class need not
    lower the highest score of the other, and names can be swapped.

    A maximum has kinks, at which L-BFGS (and gradient descent) gets stuck, and from a random start the wrong tokens
    stay chosen. So training begins at the logistic probe on mean tokens and softens the maximum, over the windows of
    a text, into `log mean exp(b s) / b`, with b growing fourfold a stage, from one over the spread of the scores in
    a text: almost a mean at first, almost the maximum at last. Each stage is smooth and run to its tolerance.
    A few last steps with the maximum itself, which may only lower the loss, leave nothing softened.

    Attributes:
        coef_: `[class, head, d]`, on raw activations.
    """

    grid_parameter: ClassVar[str | None] = "C"
    default_grid: ClassVar[tuple[float, ...]] = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1)

    coef_: np.ndarray
    C: float
    tol: float
    max_iter: int

    def _shape(self) -> tuple[int, int, int]:
        """Heads, window and seed."""
        raise NotImplementedError

    def _fit(self, rows: Tensor, texts: Texts, codes: Tensor, n_classes: int) -> None:
        heads, size, seed = self._shape()
        check_whole(heads=heads, window=size)
        if not self.C > 0:
            raise ValueError(f"C must be positive, got {self.C}")
        standard = Standardisation.of(rows)
        z = standard.apply(rows)
        windows = Windows.of(texts, size)
        # Means of unrelated tokens vary by one over the root of their number; far less is not to be blown up.
        unit = _deviation_of_means(z, windows).clamp(min=1 / int(windows.lengths.max()))
        start, intercept = mean_pooled(texts.means(z), codes, self.C)
        if n_classes == 2:
            start = torch.cat([-start / 2, start / 2])
        weights = (start * unit / heads).repeat_interleave(heads, 0)
        if heads > 1:  # heads that start alike stay alike
            random = torch.Generator().manual_seed(seed)
            noise = torch.randn(weights.shape, generator=random).to(z) / z.shape[1] ** 0.5
            weights = weights + 0.5 * noise * weights.norm(dim=1, keepdim=True)
        # Two classes have each weight twice, in halves, and are penalised as the one weight vector of LogisticProbe.
        strength = z.new_full((len(weights), 1), heads * (2 if n_classes == 2 else 1) / (self.C * len(texts)))
        scale = (1 / unit).expand_as(weights)
        self.n_iter_ = 0
        for sharpness in (*SHARPNESS, None):
            relative = (
                None if sharpness is None else sharpness / _spread(windows.means(z @ (weights * scale).T), windows)
            )
            weights, intercept, found = train(
                z,
                codes,
                peak_pool(windows, heads, n_classes, relative),
                weights,
                intercept,
                strength,
                scale,
                tolerance=self.tol,
                max_iter=self.max_iter if sharpness else min(POLISH, self.max_iter),
            )
            self.n_iter_ += int(found.n_iter)
            if sharpness:
                self.converged_ = bool(found.converged)
        self.coef_ = (weights * scale / standard.std).view(n_classes, heads, -1).cpu().numpy()
        self._set_intercept(intercept, self._shifted())

    def _shifted(self) -> np.ndarray:
        """`[output, d]`: what a shift of all tokens adds to the scores."""
        summed: np.ndarray = self.coef_.sum(1)
        return summed[1:] - summed[:1] if len(summed) == 2 else summed

    def _shares(self, X: Tensor, texts: Texts) -> tuple[Tensor, Tensor]:
        _, size, _ = self._shape()
        classes, heads, d = self.coef_.shape
        windows = Windows.of(texts, size)
        scores = self._beyond_center(X, self.coef_.reshape(-1, d))
        _, at = windows.first_highest(windows.means(scores))
        chosen = torch.zeros(len(windows.starts), classes * heads, dtype=X.dtype).scatter_(0, at, 1)
        shares = (windows.back(chosen, len(X)) * scores).view(-1, classes, heads).sum(2)
        return (shares[:, 1:] - shares[:, :1] if classes == 2 else shares), self._at_center(self._shifted()).to(X.dtype)


class MultiMaxProbe(PeakProbe):
    """A text read at its strongest token: the sum over heads of the highest `coef_h . x_i`, for each class.

    MultiMax is of Kramár et al. 2026, "Building Production-Ready Probes For Gemini" (arXiv 2601.11516), there on the
    outputs of a small MLP, here on the activations; training (see `PeakProbe`) is this package's own.

    Args:
        heads: Kinds of evidence a class may have, each with a maximum of its own.
        C: Inverse strength of the L2 regularisation, > 0, on tokens standardised feature by feature.
        tol: Largest entry of the gradient of the mean loss at which a stage counts as done.
        max_iter: Iterations after which a stage is given up (`converged_` is then False if it was the last smooth one).
        seed: Of what makes the heads differ at the start; one head needs none.
    """

    family: ClassVar[str] = "multi_max"

    def __init__(self, heads: int = 1, C: float = 1.0, tol: float = 1e-4, max_iter: int = 500, seed: int = 0) -> None:
        self.heads = heads
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.seed = seed

    def _shape(self) -> tuple[int, int, int]:
        return self.heads, 1, self.seed


class RollingMeanProbe(PeakProbe):
    """A text read at its strongest passage: the highest mean of `coef . x` over `window` tokens in a row, by class.

    The tokens of a text are taken in the order of its rows; a text shorter than the window is read as a whole. With
    a window as long as the longest text this is the logistic probe on mean tokens. Training is deterministic (see
    `PeakProbe`). A relative, with attention inside the window, is the "max of rolling means attention probe" of
    Kramár et al. 2026 (arXiv 2601.11516).

    Args:
        window: Tokens, about the length of the passages that matter.
        C: Inverse strength of the L2 regularisation, > 0, on means of windows standardised feature by feature.
        tol: Largest entry of the gradient of the mean loss at which a stage counts as done.
        max_iter: Iterations after which a stage is given up (`converged_` is then False if it was the last smooth one).
    """

    family: ClassVar[str] = "rolling_mean"

    def __init__(self, window: int = 8, C: float = 1.0, tol: float = 1e-4, max_iter: int = 500) -> None:
        self.window = window
        self.C = C
        self.tol = tol
        self.max_iter = max_iter

    def _shape(self) -> tuple[int, int, int]:
        return 1, self.window, 0


def _deviation_of_means(z: Tensor, windows: Windows) -> Tensor:
    """Standard deviation of each feature's mean over a window, `[d]`, a few features at a time."""
    return torch.cat([windows.means(part).std(0, correction=0) for part in z.split(COLUMNS, 1)])


def _spread(scores: Tensor, windows: Windows) -> Tensor:
    """Standard deviation of `[window, k]` within texts, `[k]`."""
    means = segments(scores, windows.offsets, "sum") / windows.offsets.diff()[:, None]
    spread = (scores - means[windows.of_window]).square().mean(0).sqrt()
    return torch.where(spread > 1e-6, spread, 1.0)  # all texts are one window, or alike: nothing to soften
