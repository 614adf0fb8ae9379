"""`Monitor`: a probe in use. It scores texts, watches what a model generates, and knows how far it can be believed."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.models import Model
from probekit.monitoring.calibration import Calibration
from probekit.monitoring.domain import LEVEL, Domain
from probekit.monitoring.evidence import Evidence
from probekit.monitoring.passages import Item, Passage, read_passages, tokens_digest
from probekit.monitoring.reading import Read, read
from probekit.monitoring.readout import Readout
from probekit.monitoring.running import Alarms, Running
from probekit.monitoring.scored import Scored, ScoredToken

if TYPE_CHECKING:
    from probekit.monitoring.cost import Cost
    from probekit.monitoring.following import Follower
    from probekit.monitoring.watching import Watch

_WINDOW = 256


@dataclass(frozen=True, repr=False, eq=False)
class Monitor:
    """A fitted probe with its calibration, its thresholds, its domain, and the evidence for them. `fit` makes it.

    There are two thresholds, because there are two promises: `threshold` is for the score of a whole text, at its end; a text that
    is judged at each of its tokens has many more chances to raise a false alarm, and `running_threshold` keeps the rate for an alarm
    *anywhere* in it.

    Attributes:
        readout: The probe as one affine map, and its site.
        model_name, fingerprint: Of the model it reads; no other is taken.
        classes: The quiet class and the one that raises the alarm.
        pool: `last`, `mean` or `max`.
        warm_up: Own tokens of a text before it may raise an alarm while it streams.
        threshold, running_threshold: Log-odds; an alarm is above them.
        calibration: From log-odds to probabilities.
        domain: What texts are at home.
        evidence: Rates, recall and calibration on texts that had no part in it.
        notes: What was cut, or cannot be promised.
        manifest: Probe, data, seed, versions.
    """

    readout: Readout
    model_name: str
    fingerprint: str
    classes: tuple[str, str]
    pool: str
    warm_up: int
    threshold: float
    running_threshold: float
    calibration: Calibration
    domain: Domain
    evidence: Evidence
    notes: tuple[str, ...]
    manifest: Mapping[str, Any]

    def __repr__(self) -> str:
        return (
            f"<Monitor of {self.classes[1]!r} at {self.readout.site} of {self.model_name!r}, {self.pool}, "
            f"{100 * self.evidence.asked:g} % false alarms asked; .summary() reads it out>"
        )

    @property
    def site(self) -> str:
        """Where it reads."""
        return self.readout.site

    @property
    def probability_at_threshold(self) -> float:
        """Calibrated probability above which a whole text raises the alarm."""
        return float(self.calibration.probability(np.array(self.threshold)))

    def check(self, model: Model) -> None:
        """Refuse a model it was not fitted on.

        Raises:
            ValueError: other weights, another tokenizer, or another width.
            KeyError: the model has no such site.
        """
        place = model.site(self.readout.site)
        if model.fingerprint != self.fingerprint:
            raise ValueError(
                f"this monitor was fitted on {self.model_name!r} ({self.fingerprint}), and {model.name!r} has other weights "
                f"({model.fingerprint}): its scores and rates mean nothing there; fit one for it"
            )
        if None not in (then := self.manifest.get("tokens"), now := tokens_digest(model)) and then != now:
            raise ValueError(
                f"this monitor was fitted with another tokenizer, or with other special tokens around a text, than {model.name!r} has now: "
                "the model would read other tokens, and the rates would not hold. Load it as it was then"
            )
        if place.width != len(self.readout.weights):
            raise ValueError(
                f"the monitor reads {len(self.readout.weights)} numbers, {place.name} is {place.width} wide"
            )

    def score(self, model: Model, texts: Sequence[Item]) -> list[Scored]:
        """Score texts; see `stream`."""
        if isinstance(texts, str):
            raise TypeError("texts is one string; give a list of texts")
        return list(self.stream(model, texts))

    def stream(self, model: Model, texts: Iterable[Item], *, window: int = _WINDOW) -> Iterator[Scored]:
        """Score texts as they come, in their order.

        `window` texts are read at a time and run in batches of like length, so that memory does not grow with the number of texts.

        Args:
            model: The model it was fitted on.
            texts: Texts, or token ids of each; any iterable.

        Raises:
            ValueError: another model; an empty text (with its number); activations that are not finite.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one string; give a list of texts")
        self.check(model)
        return self._stream(model, iter(texts), max(1, window))

    def _stream(self, model: Model, texts: Iterator[Item], window: int) -> Iterator[Scored]:
        start, said = 0, False
        while some := list(itertools.islice(texts, window)):
            passages = read_passages(model, some, start)
            if not said and any(p.cut for p in passages):
                said = True
                warnings.warn(
                    f"some texts are longer than the {model.context} tokens that {model.name} can read (the first: number "
                    f"{start + next(i for i, p in enumerate(passages) if p.cut)}); what lies beyond is not scored",
                    stacklevel=3,
                )
            found = read(model, self.readout, passages, start)
            strange = self.domain.p_values(np.stack([each.mean for each in found]))
            for i, (passage, each) in enumerate(zip(passages, found, strict=True)):
                yield self._scored(start + i, passage, each, strange[i])
            start += len(some)

    def _scored(self, index: int, passage: Passage, found: Read, p_values: np.ndarray) -> Scored:
        tokens = self.tokens(passage.pieces, found.scores, passage.counted(self.pool))
        score = tokens[-1].so_far
        both = float(p_values[2])
        return Scored(
            index=index,
            text=passage.text,
            tokens=tokens,
            score=score,
            probability=float(self.calibration.probability(np.array(score))),
            alarm=score > self.threshold,
            first_alarm=next((t.position for t in tokens if t.alarm), None),
            p_value=both,
            p_mahalanobis=float(p_values[0]),
            p_neighbours=float(p_values[1]),
            out_of_domain=both <= LEVEL,
            cut=passage.cut,
        )

    def tokens(
        self,
        pieces: Sequence[str],
        scores: np.ndarray,
        counted: np.ndarray,
        running: Running | None = None,
        position: int = 0,
    ) -> tuple[ScoredToken, ...]:
        """Scored tokens of a text, or of what `running` has not seen of it yet.

        Args:
            pieces: Words of each token.
            scores: `[pos]` log-odds.
            counted: `[pos]` bool: which are pooled.
            running: What came before; nothing, unless given.
            position: Of the first of them.
        """
        running = running or Running(self.pool, 1, self.warm_up)
        so_far, ready = running.add(scores[None], counted[None])
        alarm = Alarms(self.running_threshold, 1).add(so_far, ready)[0]
        shades = self.calibration.probability(scores)
        columns = zip(pieces, scores, shades, so_far[0], alarm, strict=True)
        return tuple(
            ScoredToken(text, position + i, float(score), float(shade), float(far), bool(rings))
            for i, (text, score, shade, far, rings) in enumerate(columns)
        )

    def follow(self, model: Model) -> Follower:
        """Read one text as it comes, piece by piece, with a cache: each token is run once. See `Follower`."""
        from probekit.monitoring.following import Follower

        return Follower(self, model)

    def watch(self, model: Model, stop: bool = False, patience: int = 1, *, prompt: bool = True) -> Watch:
        """Watch what the model generates: a context manager. See `Watch`.

            with monitor.watch(model, stop=True) as watched:
                model.hf.generate(**inputs)
            watched.events

        Args:
            model: The model it was fitted on.
            stop: Whether a sequence ends where its alarm goes off; others in the batch go on.
            patience: Tokens in a row over the running threshold that raise the alarm. More than one makes false alarms rarer than
                asked.
            prompt: Whether tokens of the prompt are pooled with those generated, as `score` does with the whole text. Alarms go off at
                generated tokens only. It makes no difference to `last`.
        """
        from probekit.monitoring.watching import Watch

        return Watch(self, model, stop, patience, prompt)

    def cost(self, model: Model, *, new_tokens: int = 32, batch: int = 1, rounds: int = 5) -> Cost:
        """What watching costs: time per generated token with and without, measured in turn. See `Cost`."""
        from probekit.monitoring.cost import measure_cost

        return measure_cost(self, model, new_tokens, batch, rounds)

    def summary(self) -> str:
        """A short text for the terminal: what it is, and what it did on texts that had no part in it."""
        lines = [
            f"monitor of {self.classes[1]!r} at {self.readout.site} of {self.model_name}, {self.pool} token"
            if self.pool == "last"
            else f"monitor of {self.classes[1]!r} at {self.readout.site} of {self.model_name}, {self.pool} over tokens",
            f"alarm above {self.threshold:.3f} log-odds (probability {self.probability_at_threshold:.3f}) for whole texts, "
            f"{self.running_threshold:.3f} while streaming; {self.calibration}",
            *self.evidence.lines(),
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `monitor.json` and `monitor.safetensors` into `folder`; returns the folder."""
        from probekit.monitoring.files import write_monitor

        return write_monitor(self, Path(folder))

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Monitor:
        """Read what `save` wrote; a pickle is never opened.

        Raises:
            FileNotFoundError: no monitor there.
            ValueError: a file that is damaged, belongs to another monitor, or is something else.
        """
        from probekit.monitoring.files import read_monitor

        return read_monitor(Path(folder))

    def save_page(
        self,
        path: str | os.PathLike[str],
        scored: Iterable[Scored] = (),
        *,
        title: str | None = None,
        command: str | None = None,
    ) -> Path:
        """Write the self-contained HTML page: texts with their tokens coloured, and how far the colours can be believed."""
        from probekit.report.score_page import save_score_page

        return save_score_page(self, scored, path, title=title, command=command)
