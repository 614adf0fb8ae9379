"""`Edit`: a reversible change of a model, and the record of which edits are on which model."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from probekit.models import Model, load_model
from probekit.probes.direction import Direction

EditType = TypeVar("EditType", bound="Edit")
Undo = Callable[[], None]


@dataclass
class _Applied:
    """An edit that is on a model, how to take it off, the fingerprint of the model without it, and versions of the weights that it
    leaves alone and, as it left them, of those that it changes."""

    edit: Edit
    undo: Undo
    before: str
    untouched: dict[str, tuple[int, int]]
    touched: dict[str, tuple[int, int]]


class _Stack(list[_Applied]):
    """The edits on a model in the order in which they were put on; kept on the model itself, so that they go when it goes."""

    def __reduce__(self) -> Any:
        return list, ()  # a copy has none to take off: what edits wrote to its weights is there for good


_ON = "_probekit_edits"  # attribute of `Model.hf`


class Edit(ABC):
    """A reversible change of what a model computes.

    An edit is on the model for every thread that runs it; put it on and take it off while none does. One that acts at some tokens
    only (`where`) follows the calls of one thread: run such a model from one thread at a time.
    A copy (`copy.deepcopy`) of a model whose weights are edited has the edited weights as its own; one with an edit of
    activations on it is refused.

    Attributes:
        name: What it does, in a few words: `ablate blocks.3.hook_resid_post`.
        model: Fingerprint of the model it was made for.
        direction: The direction it follows, or None (an erasure, a patch).
        strength: What `remade` scales, in the units of the edit; None where it has no strength.
        recipe: How it was made, as `making.make_edit` takes it, so that a saved edit can be made again; None where numbers
            alone do not say.
        searched: Whether a search chose it on one half of some items: `evaluate` then reports on the other half only.
    """

    name: str
    model: str
    direction: Direction | None
    strength: float | None
    recipe: Mapping[str, Any] | None = None
    searched: bool = False
    _remake: Callable[[Direction | None, float | None], Edit] | None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"

    @contextmanager
    def applied(self, model: Model | Any) -> Iterator[Model]:
        """While inside, the model is edited; on leaving it is what it was, bit for bit, also after an exception.

        Args:
            model: The `Model`, or the Hugging Face or TransformerLens model in it.

        Raises:
            ValueError: another model than the edit was made for, or the edit is on it already.
        """
        model = load_model(model)
        self.apply_(model)
        try:
            yield model
        finally:
            stack = _stack(model)
            if any(one.edit is self for one in stack):
                while stack[-1].edit is not self:  # put on inside and never taken off
                    stack[-1].edit.undo_(model)
                self.undo_(model)

    def apply_(self: EditType, model: Model | Any) -> EditType:
        """Edit the model until `undo_`. Warns where an equal edit along a direction, made or loaded again, is on it already: both act.

        Raises:
            ValueError: as `applied`.
        """
        model = load_model(model)
        stack = _stack(model)
        if any(one.edit is self for one in stack):
            raise ValueError(
                f"this edit is on {model.name!r} already ({self.name}): leave its `with` block, or call undo_, before applying it again"
            )
        self.check(model)
        if any(_equal(one.edit, self) for one in stack):
            warnings.warn(
                f"an equal edit is on {model.name!r} already ({self.name}): both act, one after the other",
                stacklevel=2,
            )
        before = stack[-1].before if stack and not stack[-1].edit.changes_weights else model.fingerprint
        undo = self._put_on(model)
        stack.append(_Applied(self, undo, before, self._untouched(model), self._touched(model)))
        model.hf.__dict__[_ON] = stack
        _forget_compiled()
        return self

    def undo_(self, model: Model | Any) -> None:
        """Take the edit off again.

        Raises:
            ValueError: it is not on this model (never applied, or undone already), or another edit was put on after it.
        """
        model = load_model(model)
        stack = _stack(model)
        if not any(one.edit is self for one in stack):
            raise ValueError(f"this edit is not on {model.name!r} ({self.name}): it was not applied, or undone already")
        if stack[-1].edit is not self:
            later = ", ".join(one.edit.name for one in reversed(stack) if one.edit is not self)
            raise ValueError(f"edits are undone in the reverse of their order: first undo {later}")
        last = stack.pop()
        if not stack:
            del model.hf.__dict__[_ON]
        alone = last.touched == self._touched(model)  # else other rows of a weight may have been written to meanwhile
        last.undo()
        alone = alone and last.untouched == self._untouched(model)
        if alone and stack:  # what this edit wrote and took back is nothing to the one below
            below = stack[-1]
            below.touched, below.untouched = below.edit._touched(model), below.edit._untouched(model)
        if self.changes_weights and alone:
            model.remember_fingerprint(last.before)
        _forget_compiled()

    def _untouched(self, model: Model) -> dict[str, tuple[int, int]]:
        """Versions of the weights that the edit does not change."""
        return {}

    def _touched(self, model: Model) -> dict[str, tuple[int, int]]:
        """Versions of the weights that it changes."""
        return {}

    def check(self, model: Model) -> None:
        """Refuse a model that the edit was not made for.

        It must be that model as it is now, or as it was before the edits that are on it.

        Raises:
            ValueError: another model.
        """
        stack = _stack(model)
        known = {one.before for one in stack}
        if self.model not in known and self.model != model.fingerprint:
            raise ValueError(
                f"this edit was made for the model {self.model}, but {model.name!r} is {model.fingerprint}"
                f"{': its weights or configuration differ' if not stack else ', with other edits on it'}; make the edit again for this model"
            )

    def remade(self, direction: Direction | None = None, strength: float | None = None) -> Edit:
        """The very same edit along another direction (a control), or with another strength (a dose).

        Raises:
            TypeError: an edit that has neither.
        """
        if self._remake is None:
            raise TypeError(f"this edit follows no direction and has no strength: {self.name}")
        made = self._remake(direction, strength)
        made.searched = made.searched or self.searched
        return made

    @property
    @abstractmethod
    def changes_weights(self) -> bool:
        """Whether it changes parameters, rather than activations in passing."""

    @abstractmethod
    def _put_on(self, model: Model) -> Undo:
        """Edit the model and return what takes it back."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """JSON values that say what the edit does, for pages and manifests."""


class Uncopied:
    """What an edit of activations hooks into a model: a copy of it in a copy of the model could never be taken off again."""

    def __reduce__(self) -> Any:
        raise ValueError(
            "a model cannot be copied or pickled while an edit of its activations is on it: take the edit off (edit.undo_(model), or "
            "leave its `with` block), copy the model, and put the edit on the copy, too"
        )


def _equal(one: Edit, other: Edit) -> bool:
    """Whether two edits do the same along the same direction, at the same places."""
    if one.direction is None or other.direction is None or one.describe() != other.describe():
        return False
    return _numbers(one, one.direction) == _numbers(other, other.direction)


def _numbers(edit: Edit, direction: Direction) -> tuple[object, ...]:
    """What `describe` says in words only: the direction's vector, and the probe that decides where to act."""
    where: Any = getattr(edit, "where", None)
    fires = None if where is None or where.fires is None else where.fires.tolist()
    return direction.vector.tolist(), fires, None if where is None else where.threshold


def _stack(model: Model) -> _Stack:
    found: _Stack = model.hf.__dict__.get(_ON) or _Stack()
    return found


def edits_on(model: Model | Any) -> tuple[Edit, ...]:
    """The edits that are on a model, in the order in which they were put on."""
    return tuple(one.edit for one in _stack(load_model(model)))


def refuse_other_model(direction: Direction, model: Model) -> None:
    """Refuse a direction of another model, of a site this model has not, or of another width.

    Raises:
        KeyError: the model has no such site.
        ValueError: another model, another width, or no site named.
    """
    if not isinstance(direction, Direction):
        raise TypeError(
            f"an edit needs a Direction, not a {type(direction).__name__}: give Direction(vector, site='blocks.3.hook_resid_post'), or "
            "what a probe's .direction() or surgery.difference_of_means gives"
        )
    known = {one.before for one in _stack(model)}
    if direction.model is not None and direction.model not in known and direction.model != model.fingerprint:
        raise ValueError(
            f"the direction was found in the model {direction.model}, but {model.name!r} is {model.fingerprint}: a direction "
            f"means nothing in another model's space; find it again in this one"
        )
    if direction.site is None:
        raise ValueError(
            "this direction does not say which site it lives in: give Direction(vector, site='blocks.3.hook_resid_post')"
        )
    width = model.site(direction.site).width
    if len(direction) != width:
        raise ValueError(f"the direction has {len(direction)} dimensions, {direction.site} of {model.name!r} {width}")


def _forget_compiled() -> None:
    """Code that `torch.compile` made does not look at hooks again: let it be made anew."""
    import sys

    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
