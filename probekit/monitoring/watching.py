"""`Watch`: what a model generates, watched token by token, and stopped where the alarm goes off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from probekit.models import Model
from probekit.models.transformer_lens import is_transformer_lens
from probekit.monitoring.generating import Call, refuse_what_is_not_followed
from probekit.monitoring.passages import Frame, words_of
from probekit.monitoring.reading import listening
from probekit.monitoring.running import Alarms, Running

if TYPE_CHECKING:
    from probekit.monitoring.monitor import Monitor


@dataclass(frozen=True)
class Event:
    """Where an alarm went off: the first place in a sequence.

    Attributes:
        call: Number of the call of `generate`, from 0, while it is watched.
        sequence: Row of the batch that `generate` returns.
        position: Of the token in the sequence, from 0, padding not counted; the same as in `Scored.tokens`.
        generated: Which generated token it is, from 0.
        token: Its id.
        text: What it spells.
        score: Its own log-odds.
        so_far: Pooled log-odds that went over the threshold.
        probability: Calibrated, of `so_far`.
        stopped: Whether the sequence was stopped for it.
    """

    call: int
    sequence: int
    position: int
    generated: int
    token: int
    text: str
    score: float
    so_far: float
    probability: float
    stopped: bool


@dataclass
class _Seen:
    """What is known of the call of `generate` that runs."""

    number: int
    call: Call
    running: Running | None = None
    alarms: Alarms | None = None
    rang: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    scores: list[np.ndarray] = field(default_factory=list)


class Watch:
    """While it holds, `model.hf.generate` is watched at each generated token; `Monitor.watch` makes it.

    A hook reads the site as the model passes it, so that each token costs one product of its activation with the probe, and a copy of
    one number a sequence. Batches, padding on the left, `num_return_sequences`, sampling, a cache of any kind or none, and streamers
    are followed; beams and assisted decoding are refused, because they take tokens back.

    The activation of a token is there once the model reads it, which is when the next one is chosen. So a sequence that is stopped
    ends with the token after the one that raised the alarm, and the last token of a sequence (an end token, too) is never read. What a cache that is handed to `generate` already holds is not pooled.

    What is read is what passes when the hook's turn comes: an edit at the same site that was put on before the watch is seen, one that was
    put on after it is not.

    With `stop=True` a stopping criterion is added to those that `generate` is given; nothing has to be passed by hand.

    Attributes:
        events: First alarm of each sequence, over all calls, in the order in which they went off.
        calls: Number of calls of `generate` that were watched.
        scores: Of the last call, for each sequence `[pos]` log-odds of the tokens that were read, padding left out.
    """

    def __init__(self, monitor: Monitor, model: Model, stop: bool, patience: int, prompt: bool) -> None:
        if is_transformer_lens(model.hf) or not hasattr(model.hf, "generate"):
            raise ValueError("watch needs a Hugging Face model that generates; score texts of any other")
        Alarms(0.0, 1, patience)  # refuses a patience that is none
        monitor.check(model)
        self.monitor, self.model = monitor, model
        self.stop, self.patience, self.prompt = stop, patience, prompt
        self.events: list[Event] = []
        self.calls = 0
        self.scores: list[np.ndarray] = []
        self._frame = Frame.of(model)
        self._seen = threading.local()  # each thread generates for itself
        self._end: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._end is not None:
            raise RuntimeError("this watch is already on: make another with monitor.watch(model)")
        hf = self.model.hf
        with ExitStack() as stack:
            handle = hf.register_forward_pre_hook(self._before, with_kwargs=True)
            stack.callback(handle.remove)
            stack.enter_context(listening(self.model, self.monitor.site, self._receive))
            own = hf.__dict__.get("generate")
            hf.__dict__["generate"] = self._watched(hf.generate)
            stack.callback(_put_back, hf, own)
            self._end = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._end is not None
        self._end.close()
        self._end = None

    def _watched(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def generate(*args: Any, **kwargs: Any) -> Any:
            call = Call.of(self.model, args, kwargs)
            refuse_what_is_not_followed(call)
            self._seen.now = _Seen(self.calls, call)
            self.calls += 1
            call.put("disable_compile", True)  # a compiled call would not see the hook
            if self.stop:
                self._add_criterion(call)
            try:
                return plain(**call.given)
            finally:
                seen, self._seen.now = self._seen.now, None
                self.scores = _by_sequence(seen.scores)

        return generate

    def _add_criterion(self, call: Call) -> None:
        from transformers import StoppingCriteria, StoppingCriteriaList

        watch = self

        class AlarmWentOff(StoppingCriteria):  # type: ignore[misc]
            # `generate` fills up ended sequences only where a criterion has this attribute.
            eos_token_id = None

            def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
                rang = watch._seen.now.rang
                rang = rang if len(rang) == len(input_ids) else np.zeros(len(input_ids), dtype=bool)
                return torch.from_numpy(rang.copy()).to(input_ids.device)

        call.given["stopping_criteria"] = StoppingCriteriaList(
            [*(call.given.get("stopping_criteria") or ()), AlarmWentOff()]
        )
        if (
            call.pad is None and not call.ends
        ):  # to fill up with; `generate` takes one itself where there is an end token
            call.put("pad_token_id", 0)

    def _before(self, module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen: _Seen | None = getattr(self._seen, "now", None)
        if seen is not None:
            seen.call.step(kwargs, args)

    def _receive(self, activations: Tensor) -> None:
        seen: _Seen | None = getattr(self._seen, "now", None)
        if seen is None or seen.call.tokens is None:  # another call of the model than those of `generate`
            return
        sequences, new = seen.call.tokens.shape
        if activations.ndim == 3 and len(activations) == 1 < sequences:  # GPT-2 embeds positions once for all
            activations = activations.expand(sequences, -1, -1)
        activations = activations.reshape(sequences, new + seen.call.skip, -1)[:, seen.call.skip :]
        self._take(seen, self.monitor.readout.scores(activations).double().cpu().numpy())
        seen.call.tokens = None

    def _take(self, seen: _Seen, scores: np.ndarray) -> None:
        monitor, call = self.monitor, seen.call
        tokens, index, new = call.tokens, call.index, call.new
        assert tokens is not None
        if seen.running is None or seen.alarms is None:
            seen.running = Running(monitor.pool, len(tokens), monitor.warm_up)
            seen.alarms = Alarms(monitor.running_threshold, len(tokens), self.patience)
            seen.rang = np.zeros(len(tokens), dtype=bool)
        generated = new & (index >= call.prompt[:, None])
        counted = new & ~call.special(tokens, index, self._frame) & (generated | self.prompt)
        so_far, ready = seen.running.add(scores, counted)
        alarm = seen.alarms.add(so_far, ready & generated)
        seen.scores.append(np.where(new, scores, np.nan))
        for row in np.flatnonzero(alarm.any(1) & ~seen.rang) if alarm.any() else ():
            at = int(alarm[row].argmax())
            seen.rang[row] = True
            self.events.append(
                Event(
                    call=seen.number,
                    sequence=int(row),
                    position=int(index[row, at]),
                    generated=int(index[row, at] - call.prompt[row]),
                    token=int(tokens[row, at]),
                    text=words_of(self.model, [int(tokens[row, at])])[0],
                    score=float(scores[row, at]),
                    so_far=float(so_far[row, at]),
                    probability=float(monitor.calibration.probability(so_far[row, at])),
                    stopped=self.stop,
                )
            )
        if self.stop:
            call.ended |= seen.rang


def _by_sequence(steps: list[np.ndarray]) -> list[np.ndarray]:
    if not steps:
        return []
    whole = np.concatenate(steps, 1)
    return [row[~np.isnan(row)] for row in whole]


def _put_back(hf: Any, own: Any) -> None:
    hf.__dict__.pop("generate", None)
    if own is not None:
        hf.__dict__["generate"] = own
