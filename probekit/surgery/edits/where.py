"""`Where`: at which tokens an activation edit acts, and `Tokens`, which follows a running model to know."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from probekit.models import Model
from probekit.models.transformer_lens import is_transformer_lens
from probekit.probes.direction import Direction
from probekit.surgery.edits.edit import Uncopied

if TYPE_CHECKING:
    from probekit.probes.base import LinearProbe

Place: TypeAlias = "Where | Literal['all', 'prompt', 'generated'] | Sequence[int]"


@dataclass(frozen=True)
class Where:
    """Which tokens an edit acts on.

    Attributes:
        tokens: `"all"`; `"prompt"`; `"generated"`; or positions, counted from the first token of a sequence, or, where
            negative, from the last of its prompt. Padding does not count.
        first: With `"generated"`: whether the first token that is generated is affected. It is chosen at the last token of the
            prompt, so that token is edited too. Without it, the edit begins at the first generated token itself, and the
            second is the first to be affected.
        fires: Act only where `activation @ fires > threshold` holds before the edit, at the edited site itself: `[d]`, or None.
        threshold: In units of the score.

    What is generated is known inside `generate`. In any other call every token counts as prompt.
    """

    tokens: Literal["all", "prompt", "generated"] | tuple[int, ...] = "all"
    first: bool = True
    fires: Tensor | None = field(default=None, compare=False)
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.tokens, str):
            if self.tokens not in ("all", "prompt", "generated"):
                raise ValueError(
                    f"where must be 'all', 'prompt', 'generated' or a list of positions, not {self.tokens!r}"
                )
        elif (
            isinstance(self.tokens, int)
            or not self.tokens
            or not all(isinstance(p, int) and not isinstance(p, bool) for p in self.tokens)
        ):
            raise ValueError(f"where names positions as a list of whole numbers that is not empty, not {self.tokens!r}")

        if self.fires is not None and not isinstance(self.fires, Tensor):
            raise TypeError("fires is a vector [d]; for a probe or a direction: Where(...).where_probe_fires(probe)")
        if (self.fires is not None and not bool(torch.isfinite(self.fires).all())) or math.isnan(self.threshold):
            raise ValueError("the probe that decides where to act has NaN or infinite values: it would never fire")

    @classmethod
    def of(cls, place: Place) -> Where:
        """From what functions take as `where=`."""
        if isinstance(place, Where):
            return place
        if not isinstance(place, str | Sequence):
            raise ValueError(
                f"where must be 'all', 'prompt', 'generated', a list of positions or a Where, not {place!r}"
            )
        return cls(place if isinstance(place, str) else tuple(place))

    def to_json(self) -> dict[str, Any]:
        """What a saved edit says; `fires` is still a tensor."""
        return {"tokens": self.tokens, "first": self.first, "fires": self.fires, "threshold": self.threshold}

    @classmethod
    def from_json(cls, tokens: Any, first: bool, fires: Tensor | None = None, threshold: float = 0.0) -> Where:
        """From what a saved edit says: positions come as a list."""
        return cls(tokens if isinstance(tokens, str) else tuple(tokens), first, fires, threshold)  # type: ignore[arg-type]

    def where_probe_fires(self, probe: LinearProbe | Direction, threshold: float | None = None) -> Where:
        """The same, but only at tokens whose activation a probe reads as its second class.

        Args:
            probe: A fitted probe of two classes or of a continuous target, or a direction.
            threshold: Score above which it fires; default 0 for a probe, `center` for a direction.

        Raises:
            ValueError: a probe of several classes, or a direction that does not know its center.
        """
        if not isinstance(probe, Direction):
            if len(probe.coef_) != 1:
                raise ValueError("this probe has several classes: give probe.direction(class_) and a threshold")
            limit = (0.0 if threshold is None else threshold) - float(probe.intercept_[0])
            return replace(self, fires=torch.as_tensor(probe.coef_[0]).float(), threshold=limit)
        limit_at = probe.center if threshold is None else threshold
        if limit_at is None:
            raise ValueError("this direction does not know where its probe changes its mind (center): give threshold=")
        return replace(self, fires=probe.vector, threshold=limit_at)

    def __str__(self) -> str:
        if self.tokens == "all":
            words = "at every token"
        elif self.tokens == "prompt":
            words = "at every token of the prompt"
        elif self.tokens == "generated":
            words = "at generated tokens, " + (
                "the first of them affected" if self.first else "the first of them not affected"
            )
        else:
            words = f"at positions {', '.join(map(str, self.tokens))}"
        return words + (" where the probe fires" if self.fires is not None else "")

    @property
    def is_everywhere(self) -> bool:
        return self.tokens == "all" and self.fires is None

    def chosen(self, h: Tensor, tokens: Tokens | None) -> Tensor:
        """`[..., pos]` bool: which of the activations `[..., pos, d]` to edit."""
        if self.tokens == "all":
            mask = torch.ones(h.shape[:-1], dtype=torch.bool, device=h.device)
        else:
            assert tokens is not None
            mask = tokens.among(self).to(h.device).expand(h.shape[:-1])
        if self.fires is not None:
            mask = mask & (h.float() @ self.fires.to(h.device) > self.threshold)
        return mask


class Tokens(Uncopied):
    """Follows a model from call to call: which position of its sequence each token is, and where the prompt ended.

    One thread at a time: it keeps one call in mind, so that torch.compile can trace it.

    Attributes:
        index: `[batch, pos]` position within its sequence of every token of the call that runs, -1 at padding.
        prompt: `[batch]` number of prompt tokens, or None where that is not known (a call with a cache, outside `generate`).
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.index = torch.zeros(1, 1, dtype=torch.long)
        self.prompt: Tensor | None = None
        self._generating = False
        self._given: Tensor | None = None  # `[sequence, pos]` mask of the prompts, while generating
        self._inside = False  # a call of the whole model, which calls its base model with other arguments

    def follow(self) -> Callable[[], None]:
        """Begin; what is returned ends it."""
        hf = self.model.hf
        if is_transformer_lens(hf):
            return self._follow_lens(hf)
        handles = [
            hf.register_forward_pre_hook(self._enter, with_kwargs=True),
            hf.register_forward_hook(self._leave, always_call=True),
        ]
        base = getattr(hf, "base_model", hf)  # `Model.run` calls it, without a head
        if isinstance(base, torch.nn.Module) and base is not hf:
            handles.append(base.register_forward_pre_hook(self._see_below, with_kwargs=True))
        put_back = _replace(hf, {"generate": self._while_generating(hf.generate)} if hasattr(hf, "generate") else {})

        def end() -> None:
            for handle in handles:
                handle.remove()
            put_back()

        return end

    def _while_generating(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def generate(*args: Any, **kwargs: Any) -> Any:
            self._generating, self.prompt, self._given = True, None, _prompt_mask(args, kwargs)
            try:
                return plain(*args, **kwargs)
            finally:
                self._generating, self.prompt, self._given = False, None, None

        return generate

    def _follow_lens(self, lens: Any) -> Callable[[], None]:
        """TransformerLens's `generate` calls `forward` itself, past the hooks of the whole model."""
        plain = lens.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            self._see(args, kwargs)
            return plain(*args, **kwargs)

        return _replace(lens, {"forward": forward, "generate": self._while_generating(lens.generate)})

    def among(self, where: Where) -> Tensor:
        """`[batch, pos]` bool: which tokens of the running call `where.tokens` names."""
        index, prompt = self.index, self.prompt
        real = index >= 0
        if where.tokens == "prompt":
            return real & (index < prompt[:, None]) if prompt is not None else real
        if where.tokens == "generated":
            if not self._generating or prompt is None:
                return torch.zeros_like(real)
            return real & (index >= prompt[:, None] - (1 if where.first else 0))
        found = torch.zeros_like(real)
        for position in where.tokens:
            assert isinstance(position, int)
            if position >= 0:
                found |= index == position
            elif prompt is None:
                raise ValueError(
                    f"where={position} counts from the end of the prompt, which is not known in a call that goes on from a cache: use "
                    "generate, or call the model with the whole sequence"
                )
            else:
                found |= real & (index == prompt[:, None] + position)
        return found

    def _enter(self, module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._see(args, kwargs | _named(module, args))
        self._inside = True

    def _leave(self, module: object, args: object, output: object) -> None:
        self._inside = False

    def _see_below(self, module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._inside:
            self._see(args, kwargs | _named(module, args))

    def _see(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next((kwargs[k] for k in ("input_ids", "input", "inputs_embeds") if kwargs.get(k) is not None), None)  # fmt: skip
        if not isinstance(given, Tensor):
            raise ValueError("an edit at some tokens only needs the model to be called with token ids")
        batch, new = given.shape[:2]
        past = _past_length(kwargs)
        mask = self.model.padding if self.model.padding is not None else kwargs.get("attention_mask")
        prompts = self._prompts(batch, mask)
        if not (isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= past + new):
            mask = None
            if (
                prompts is not None
            ):  # a static cache is given a mask of another shape: what follows the prompt is no padding
                more = max(0, past + new - prompts.shape[1])
                mask = torch.cat([prompts.long(), prompts.new_ones(batch, more, dtype=torch.long)], 1)
        if mask is not None:
            seen = mask[:, : past + new].long()
            index = (seen.cumsum(1) - 1).masked_fill(seen == 0, -1)[:, past:]
        else:
            index = torch.arange(past, past + new, device=given.device).expand(batch, new)
        self.index = index
        if not self._generating:
            self.prompt = index.amax(1) + 1 if past == 0 else None
        elif prompts is not None:
            self.prompt = prompts.long().sum(1)
        elif self.prompt is None and past == 0:
            self.prompt = index.amax(1) + 1

    def _prompts(self, batch: int, mask: object) -> Tensor | None:
        """`[batch, pos]`: which tokens given to `generate` are no padding, a row a sequence of the running call."""
        if self._given is None or batch % len(self._given):
            return None
        given = self._given.repeat_interleave(batch // len(self._given), 0)
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= given.shape[1]:
            given = mask[:, : given.shape[1]].bool()  # `generate` finds the padding itself where no mask is given
        return given


def _prompt_mask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """`[sequence, pos]` bool from what `generate` is called with."""
    names = ("inputs", "input_ids", "input", "inputs_embeds")
    given = args[0] if args else next((kwargs[name] for name in names if kwargs.get(name) is not None), None)
    if not isinstance(given, Tensor) or given.ndim < 2:
        return None
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == given.shape[:2]:
        return mask.bool()
    return torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)


def _named(module: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """Positional arguments after the first, by the names that the module's `forward` gives them."""
    if len(args) < 2:
        return {}
    import inspect

    names = list(inspect.signature(type(module).forward).parameters)[1:]
    return dict(zip(names[1:], args[1:], strict=False))


def _replace(model: Any, methods: dict[str, Callable[..., Any]]) -> Callable[[], None]:
    """Put methods of this one object in the place of its class's; what is returned puts back what was there."""
    own = {name: model.__dict__[name] for name in methods if name in model.__dict__}
    model.__dict__.update(methods)

    def end() -> None:
        for name in methods:
            del model.__dict__[name]
        model.__dict__.update(own)

    return end


def _past_length(kwargs: dict[str, Any]) -> int:
    """How many positions lie in the cache, by whatever name it is passed."""
    for value in kwargs.values():
        if hasattr(value, "get_seq_length"):
            return int(value.get_seq_length())
    lens = kwargs.get("past_kv_cache")  # of TransformerLens
    return int(lens[0].past_keys.shape[1]) if lens is not None else 0
