"""Edits of activations: add, set, project out, reflect, erase, at chosen sites and tokens, while the model runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probekit.models import Model
from probekit.models.editing import changed_at
from probekit.surgery.edits.affine import AffineMap, Cast, applied_to
from probekit.surgery.edits.edit import Edit, Uncopied, Undo, edits_on
from probekit.surgery.edits.where import Place, Tokens, Where

if TYPE_CHECKING:
    from probekit.probes.direction import Direction
    from probekit.surgery.edits.weight_edits import WeightEdit

Change = AffineMap | Callable[[Tensor], Tensor]
_LOUD = 1.0  # a step as long as the activation it is added to
_TRIED = 32  # tokens that weights are tried out on


class ActivationEdit(Edit):
    """Changes what passes some sites, by hooks.

    Args:
        model: The model it is made for, or the fingerprint of that model.

    Attributes:
        changes: By site, an `AffineMap` (what folds into weights), or any function from `[batch, pos, d]` to the same.
        where: At which tokens.
    """

    def __init__(
        self,
        name: str,
        model: Model | str,
        changes: Mapping[str, Change],
        where: Place = "all",
        *,
        direction: Direction | None = None,
        strength: float | None = None,
        remake: Callable[[Direction | None, float | None], Edit] | None = None,
    ) -> None:
        self.name = name
        self.model = model.fingerprint if isinstance(model, Model) else model
        self.changes = dict(changes)
        self.where = Where.of(where)
        self.direction = direction
        self.strength = strength
        self._remake = remake
        if not self.changes:
            raise ValueError("this edit changes nothing")
        if isinstance(model, Model):
            self.check(model)

    @property
    def changes_weights(self) -> bool:
        return False

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that are changed."""
        return tuple(self.changes)

    def check(self, model: Model) -> None:
        super().check(model)
        for site, change in self.changes.items():
            width = model.site(site).width
            if isinstance(change, AffineMap) and change.width != width:
                raise ValueError(f"the edit is {change.width} wide, {site} of {model.name!r} {width}")
            if self.where.fires is not None and len(self.where.fires) != width:
                raise ValueError(f"the probe that says where to act is {len(self.where.fires)} wide, {site} {width}")

    def to_weights(self, model: Model) -> WeightEdit:
        """The same edit as a change of weights, where there is one.

        Warns where it adds a vector much longer than the activations of a few random tokens: the weights, put on, cannot tell.

        Raises:
            ValueError: there is none; says why.
        """
        from probekit.surgery.edits.folding import fold

        made = fold(self, model)
        made.searched = self.searched
        self._try_out(model)
        return made

    def _try_out(self, model: Model) -> None:
        """Run a few tokens, at which an edit that adds too much says so."""
        adds = any(isinstance(change, AffineMap) and change.bias.any() for change in self.changes.values())
        if not adds or edits_on(model):  # an edit that is on the model may take certain texts only
            return
        length, generator = min(_TRIED, model.context or _TRIED), torch.Generator().manual_seed(0)
        tokens = torch.randint(model.vocab, (1, length), generator=generator)
        with ExitStack() as end:
            for site, change in self.changes.items():
                end.enter_context(changed_at(model, site, _Hook(site, change, self.where, None)))
            model.run(tokens, None, [model.stream_sites[-1]])

    def describe(self) -> dict[str, object]:
        return {
            "kind": "activations",
            "name": self.name,
            "model": self.model,
            "sites": list(self.changes),
            "where": str(self.where),
            "strength": self.strength,
            "direction": None if self.direction is None else dict(self.direction.provenance),
        }

    def _put_on(self, model: Model) -> Undo:
        end = ExitStack()
        try:
            tokens = None
            if self.where.tokens != "all":
                tokens = Tokens(model)
                end.callback(tokens.follow())
            for site, change in self.changes.items():
                end.enter_context(changed_at(model, site, _Hook(site, change, self.where, tokens)))
        except BaseException:
            end.close()
            raise
        return end.close


class _Hook(Uncopied):
    """What stands at one site: the change, its tensors in the dtype and on the device of the activations."""

    def __init__(self, site: str, change: Change, where: Where, tokens: Tokens | None) -> None:
        self.site, self.change, self.where, self.tokens = site, change, where, tokens
        self.cast: dict[tuple[torch.dtype, torch.device], Cast] = {}
        self.checked = False

    def __call__(self, h: Tensor) -> Tensor:
        changed = self._changed(h)
        if self.where.is_everywhere:
            self._warn_if_loud(h, changed)
            return changed
        # OPT runs its MLP on [batch * pos, d].
        if self.tokens is not None and h.ndim == 3 and len(h) == 1 < len(self.tokens.index):
            h, changed = (x.expand(len(self.tokens.index), -1, -1) for x in (h, changed))  # GPT-2 embeds positions once
        wide = h if self.tokens is None or h.ndim == 3 else h.view(*self.tokens.index.shape, -1)
        changed = torch.where(self.where.chosen(wide, self.tokens).view(*h.shape[:-1], 1), changed, h)
        self._warn_if_loud(h, changed)
        return changed

    def _changed(self, h: Tensor) -> Tensor:
        if not isinstance(self.change, AffineMap):
            return self.change(h)
        dtype = torch.float32 if h.dtype.itemsize < 4 else h.dtype
        key = (dtype, h.device)
        if key not in self.cast:
            self.cast[key] = self.change.cast(dtype, h.device)
        return applied_to(h, self.cast[key])

    def _warn_if_loud(self, h: Tensor, changed: Tensor) -> None:
        """At the first call in which anything is changed, look how far the changed tokens are moved."""
        if self.checked or torch.compiler.is_compiling():
            return
        before, after = h.detach().float(), changed.detach().float()
        step = (after - before).norm(dim=-1)
        moved = step > 0
        if not bool(moved.any()):
            return
        self.checked = True
        usual, far = float(before.norm(dim=-1).median()), float(step[moved].median())
        if usual > 0 and far > _LOUD * usual:
            warnings.warn(
                f"at {self.site} the edit adds a vector {far / usual:.1f} times as long as the activations there "
                f"(median length {usual:.3g}): expect nonsense, or lower the strength",
                stacklevel=2,
            )


def refuse_infinite_strength(value: float) -> None:
    """Refuse a strength that is NaN or infinite."""
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"the strength must be a finite number, not {value}")
