"""What is read of a running model to see whether what a name says changes: by the kind of name, and where.

A name from labels says something that probes read; a name `before words like ...` something of the next token; and a name
`words like ...` or `text about ...` something of the text at hand, which later layers hold as they hold that word.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from saes.naming.names import Name
from saes.naming.templates import template_states
from saes.naming.vocabulary import SAID

if TYPE_CHECKING:
    from probekit.models import Model
    from probekit.probes import SweepResult

Read: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Logits `[row, vocabulary]` and activations `[row, d]` at a later site to `[row]`."""
OTHER_WORDS = (
    "time", "people", "water", "city", "music", "family", "money", "history", "army", "game", "river", "house", "book",
    "war", "school", "film", "church", "road", "king", "food", "north", "summer", "red", "large", "first", "never",
    "often", "said", "made", "went", "under", "between",
)  # fmt: skip
"""Words whose mean state stands for no word in particular."""


@dataclass(frozen=True)
class Readout:
    """A number that is high where what a name says holds.

    Attributes:
        what: What the number is, in words.
        read: From logits and later activations.
        later: The site whose activations are read; None where logits suffice.
    """

    what: str
    read: Read
    later: str | None = None


@dataclass(frozen=True)
class Readouts:
    """Readouts for names of features at one site of a model.

    Attributes:
        model: Which.
        site: Of the SAE.
        probes: A sweep over the labels of names, at sites after this one; needed for names from labels.
    """

    model: Model
    site: str
    probes: SweepResult | None

    def of(self, name: Name) -> Readout | None:
        """What tells whether a name holds; None where nothing does: no later site, a word that cannot be read, a sentence."""
        if name.source == "labels":
            return None if self.probes is None else self._of_labels(name, self.probes)
        found = re.fullmatch("(.*)“(.+)”(.*)", name.text)
        if found is None or self.model.tokenizer is None:
            return None
        place = next((place for place, said in SAID.items() if said.startswith(found[1])), None)
        return self._of_next(found[2]) if place == "next" else self._of_text(found[2])

    @cached_property
    def _after(self) -> list[str]:
        order = list(self.model.stream_sites)
        return order[order.index(self.site) + 1 :] if self.site in order else []

    @cached_property
    def _no_word(self) -> np.ndarray:
        mean: np.ndarray = template_states(self.model, OTHER_WORDS, self._halfway).mean(0)
        return mean

    @property
    def _halfway(self) -> str:
        return self._after[(len(self._after) - 1) // 2]

    def _of_text(self, word: str) -> Readout | None:
        """How far the activation is on the way from no word in particular (0) to the word (1), half of the layers later."""
        if not self._after:
            return None
        way = template_states(self.model, [word], self._halfway)[0] - self._no_word
        length = float(way @ way)
        if length == 0:
            return None
        start, unit = torch.from_numpy(self._no_word), torch.from_numpy(way / length)
        what = f"place between no word (0) and “{word}” (1) at {self._halfway}"
        return Readout(what, lambda logits, read: (read - start) @ unit, self._halfway)

    def _of_next(self, word: str) -> Readout | None:
        tokens = _first_tokens(word, self.model)
        if not tokens:
            return None

        def log_odds(logits: Tensor, read: Tensor) -> Tensor:
            log_proba = torch.log_softmax(logits, -1)[:, tokens].logsumexp(1)
            return log_proba - torch.log1p(-log_proba.exp().clamp(max=1 - 1e-7))

        return Readout("log odds that the next token begins the word", log_odds)

    def _of_labels(self, name: Name, probes: SweepResult) -> Readout | None:
        """Log odds of all labels of a name, by the probes at the later site that reads them best on validation."""
        after = [site for site in probes.sites if site in self._after]
        labels = asked(name.text, probes)
        if not after or not labels:
            return None
        label_set = labels[0][0]
        metric = probes.headline(label_set)
        by_site = dict(zip(probes.sites, probes.validation[label_set][metric], strict=True))
        later = max(after, key=lambda s: np.nan_to_num(by_site[s], nan=-np.inf))

        def log_odds(logits: Tensor, read: Tensor) -> Tensor:
            total = torch.zeros(len(read))
            for label_set, target, class_ in labels:
                stack = probes.probes[label_set][later]
                log_proba = stack.log_proba(read)
                total += log_proba[:, list(stack.targets).index(target), list(stack.classes).index(class_)]
            return total - torch.log1p(-total.exp().clamp(max=1 - 1e-7))

        return Readout(f"log odds by the probes at {later}", log_odds, later)


def _first_tokens(word: str, model: Model) -> list[int]:
    forms = {form for w in (word, word.capitalize()) for form in (w, f" {w}")}
    return sorted({ids[0] for form in forms if (ids := model.tokenizer.encode(form, add_special_tokens=False))})


def asked(text: str, probes: SweepResult) -> Sequence[tuple[str, str, str]]:
    """Label set, target and class of each part of `D3 is mine and E4 is empty`; none where the sweep lacks one."""
    known: dict[str, tuple[str, str, str]] = {}
    for summary in probes.label_sets:
        for target, class_ in itertools.product(summary.targets, summary.classes):
            known.setdefault(f"{target} is {class_}", (summary.name, target, class_))
            known[f"{summary.name}: {target} is {class_}"] = (summary.name, target, class_)

    def parts(rest: str) -> list[tuple[str, str, str]]:
        """Of the rest of the text; a class may have " and " in its name, so it is not split there."""
        if rest in known:
            return [known[rest]]
        starts = (said for said in known if rest.startswith(f"{said} and "))
        tails = ((known[said], parts(rest[len(said) + 5 :])) for said in starts)
        return next(([head, *tail] for head, tail in tails if tail), [])

    return parts(text)
