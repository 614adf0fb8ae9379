"""Which rows train a probe, choose its penalty, and are reported; and where their activations are read."""

from __future__ import annotations

import errno
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from probekit.activations import Activations, ActivationStore, capture
from probekit.activations.plan import make_plan
from probekit.activations.progress import readable_size
from probekit.data import Dataset, LabelSet, Split, drop_seen_prefixes, split_items

if TYPE_CHECKING:
    from probekit.models import Model

VALID_SHARE, TEST_SHARE = 4, 2  # validation holds at most max_rows / 4 rows, test at most max_rows / 2
LARGE_STORE = 4 << 30  # bytes of float32 above which the temporary store is kept in half precision, which a note says


@dataclass(frozen=True)
class Part:
    """Some rows of a data set, for training, choosing or testing.

    Attributes:
        name: `train`, `valid`, `test`, or the name of an out-of-distribution set.
        data: The data set, where there is one.
        activations: Where the rows are.
        twin: The same rows of the model with random weights, if that control is on.
        rows: `[n]` row numbers there.
        cluster: `[n]` 0, 1, ...: the group that each row belongs to.
        labels: Label sets by name, of an out-of-distribution set that brings its own; None where those of training hold.
    """

    name: str
    data: Dataset | None
    activations: Activations
    twin: Activations | None
    rows: np.ndarray
    cluster: np.ndarray
    labels: Mapping[str, LabelSet] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sequence(self) -> np.ndarray:
        """`[n]` index of the sequence of each row."""
        sequence: np.ndarray = self.activations.sequence[self.rows]
        return sequence

    def items(self, level: str) -> np.ndarray:
        """`[n]` index of each row into label sets of this level."""
        item: np.ndarray = self.activations.item[self.rows] if level == "token" else self.sequence
        return item

    def read(self, site: str, twin: bool = False) -> np.ndarray:
        """`[n, width]` float32."""
        source = self.twin if twin else self.activations
        assert source is not None
        return source.read(site, self.rows)


@dataclass(frozen=True)
class Plan:
    """Row numbers of each part, ascending, what was left out on the way, and the digest of the split."""

    parts: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    split: str = ""


def plan_rows(
    sequence: np.ndarray, groups: np.ndarray, prefix: np.ndarray, *, given: np.ndarray | None, seed: int, max_rows: int
) -> Plan:
    """Split rows by group, drop those that training has seen, and cap the rest.

    Args:
        sequence: `[row]` sequence of each row.
        groups: `[sequence]` group of each sequence.
        prefix: `[row]` hash of the tokens that the row could see. Rows of validation whose prefix occurs in training,
            and rows of test whose prefix occurs in training or validation, count nowhere.
        given: `[sequence]` a split that came with the data.
        max_rows: Most training rows; they are drawn evenly over the sequences.
    """
    split = split_items(sequence, groups, seed, given=given)
    notes = []
    if split.left_out:
        notes.append(
            f"{split.left_out:,} rows are in no part: their group (or an identical sequence) is in another part of the given split"
        )
    kept = _drop_seen(split, prefix)
    dropped = [
        f"{before - len(kept[name]):,} of {before:,} {name} rows"
        for name, before in _sizes(split).items()
        if before > len(kept[name])
    ]
    if dropped:
        notes.append(
            f"{' and '.join(dropped)} do not count: their whole prefix also occurs in training (for test rows: or in validation)"
        )
    for name in ("valid", "test"):
        if not len(kept[name]):
            raise ValueError(
                f"no {name} row is left: the prefix of every one of the {_sizes(split)[name]} also occurs in training; "
                "the sequences are too alike to be split"
            )
    rng = np.random.default_rng([seed, 0x20])
    caps = {"train": max_rows, "valid": max(1, max_rows // VALID_SHARE)}
    parts = {}
    for name, rows in kept.items():
        parts[name] = draw_evenly(rows, sequence[rows], caps.get(name, max(1, max_rows // TEST_SHARE)), rng)
        if len(parts[name]) < len(rows):
            notes.append(
                f"{len(parts[name]):,} of {len(rows):,} {name} rows are used, drawn evenly over the sequences (max_rows={max_rows:,})"
            )
    return Plan(parts, tuple(notes), split.digest(sequence))


def _sizes(split: Split) -> dict[str, int]:
    return {name: len(rows) for name in ("valid", "test", "ood") if len(rows := getattr(split, name)) or name != "ood"}


def _drop_seen(split: Split, prefix: np.ndarray) -> dict[str, np.ndarray]:
    parts = {"train": split.train}
    parts["valid"] = split.valid[drop_seen_prefixes(prefix[split.train], prefix[split.valid])]
    seen = prefix[np.concatenate([split.train, split.valid])]
    parts["test"] = split.test[drop_seen_prefixes(seen, prefix[split.test])]
    if len(split.ood):
        parts["ood"] = split.ood[drop_seen_prefixes(seen, prefix[split.ood])]
    return parts


@dataclass(frozen=True)
class Seen:
    """What was trained or chosen on: prefixes of rows, and names of groups where the data set knows them."""

    prefix: np.ndarray
    groups: frozenset[str]

    @classmethod
    def of(cls, parts: Mapping[str, Part]) -> Seen:
        used = (parts["train"], parts["valid"])
        names: set[str] = set()
        for part in used:
            of_sequence = None if part.data is None else part.data.group_names
            if of_sequence is not None:
                names |= {name for i in np.unique(part.sequence).tolist() if (name := of_sequence[i]) is not None}
        return cls(np.concatenate([p.activations.prefix[p.rows] for p in used]), frozenset(names))

    def group_of(self, data: Dataset | None, sequence: np.ndarray) -> np.ndarray:
        """`[row]` bool: rows of another data set, of these sequences, whose group is among those seen."""
        names = None if data is None else data.group_names
        if names is None or not self.groups:
            return np.zeros(len(sequence), bool)
        known: np.ndarray = np.array([name in self.groups for name in names], bool)[sequence]
        return known


def plan_elsewhere(
    name: str,
    data: Dataset | None,
    sequence: np.ndarray,
    prefix: np.ndarray,
    seen: Seen,
    *,
    seed: int,
    number: int,
    max_rows: int,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows of an out-of-distribution set whose prefix and group are not in `seen`, at most as many as test may have, and notes.

    Args:
        sequence, prefix: `[row]` of the set, as in `plan_rows`.
        data: The set, whose groups may have names.
        seen: Of the rows that were trained or chosen on.
        number: Of the set among the others, for its own random draw.

    Raises:
        ValueError: no row is left.
    """
    fresh, of_seen = drop_seen_prefixes(seen.prefix, prefix), seen.group_of(data, sequence)
    rows = np.flatnonzero(fresh & ~of_seen)
    if not len(rows):
        why = (
            "every row also occurs in training"
            if not fresh.any()
            else "every row is of a group that is in training, too"
        )
        raise ValueError(f"out-of-distribution set {name!r}: {why}; nothing is left to test on")
    most = max(1, max_rows // TEST_SHARE)
    kept = draw_evenly(rows, sequence[rows], most, np.random.default_rng([seed, 0x00D, number]))
    notes = []
    for count, why in (
        (int((~fresh).sum()), "their whole prefix also occurs in training or validation"),
        (int((fresh & of_seen).sum()), "their group is also in training or validation"),
    ):
        if count:
            notes.append(f"{count:,} of {len(sequence):,} rows of {name!r} do not count: {why}")
    if len(kept) < len(rows):
        notes.append(f"{len(kept):,} of {len(rows):,} rows of {name!r} are used (max_rows={max_rows:,})")
    return kept, tuple(notes)


def draw_evenly(rows: np.ndarray, sequence: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most `most` of `rows`, ascending: the same number from every sequence, as nearly as their lengths allow."""
    if len(rows) <= most:
        return rows
    order = np.lexsort((rng.random(len(rows)), sequence))
    ordered = sequence[order]
    new = np.r_[True, ordered[1:] != ordered[:-1]]
    turn = np.arange(len(rows)) - np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))
    picked = np.lexsort((rng.random(len(rows)), turn))[:most]  # everyone's first row, then everyone's second, ...
    return np.sort(rows[order[picked]])


def parts_of(
    activations: Activations, data: Dataset | None, groups: np.ndarray, plan: Plan, twin: Activations | None = None
) -> dict[str, Part]:
    """The plan's parts, read from activations whose rows are the plan's rows."""
    parts = {}
    for name, rows in plan.parts.items():
        cluster = np.unique(groups[activations.sequence[rows]], return_inverse=True)[1]
        parts[name] = Part(name, data, activations, twin, rows, cluster)
    return parts


@dataclass(frozen=True)
class Capturing:
    """How a sweep captures what it needs: from which models, at which sites, into which folder."""

    model: Model
    random: Model | None
    sites: tuple[str, ...]
    pool: str
    folder: Path
    seed: int
    max_rows: int
    progress: bool

    def parts(self, data: Dataset) -> tuple[dict[str, Part], tuple[str, ...], str]:
        """Train, valid and test of the data set that probes are fitted on: decided first, then captured; notes; digest of the split."""
        index = self._rows(data)
        assert data.groups is not None
        plan = plan_rows(
            index["sequence"], data.groups, index["prefix"], given=data.split, seed=self.seed, max_rows=self.max_rows
        )
        parts, kept = self._capture(data, "data", index, plan.parts)
        return parts, (*self._say_cut(data), *plan.notes, *kept), plan.split

    def part_elsewhere(
        self, name: str, data: Dataset, labels: Mapping[str, LabelSet], seen: Seen, number: int
    ) -> tuple[Part, tuple[str, ...]]:
        """The rows of an out-of-distribution set, as `plan_elsewhere` chooses them."""
        index = self._rows(data)
        kept, notes = plan_elsewhere(
            name, data, index["sequence"], index["prefix"], seen, seed=self.seed, number=number, max_rows=self.max_rows
        )
        parts, said = self._capture(data, f"ood-{number}", index, {name: kept})
        return replace(parts[name], labels=labels), (*self._say_cut(data, f" of {name!r}"), *notes, *said)

    def _rows(self, data: Dataset) -> dict[str, np.ndarray]:
        """One number a row for every row there could be: `sequence`, `item`, `prefix`."""
        return make_plan(self.model, data, self.pool, 1, None, 8192, 4, 4).index

    def _say_cut(self, data: Dataset, of: str = "") -> tuple[str, ...]:
        context = self.model.context
        if data.texts is not None:
            cut = self.model.tokenize(data.texts)[1]
        else:
            cut = 0 if context is None else sum(len(t) > context for t in data.tokens or ())
        unit = "texts" if data.texts is not None else "sequences"
        return (
            (f"{cut:,} of {len(data):,} {unit}{of} are longer than the context of {context} tokens and were cut",)
            if cut
            else ()
        )

    def _capture(
        self, data: Dataset, name: str, index: dict[str, np.ndarray], parts: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Part], tuple[str, ...]]:
        """Capture the planned rows only, from the model and, if that control is on, from the random one; and notes."""
        tokens = sum(map(len, data.tokens)) if data.tokens is not None else int(index["item"].max()) + 1
        key = index["item"] if self.pool == "all" else index["sequence"]
        wanted = np.zeros(tokens if self.pool == "all" else len(data), dtype=bool)
        for rows in parts.values():
            wanted[key[rows]] = True
        size = 4 * int(wanted.sum()) * sum(self.model.site(site).width for site in self.sites)
        stores = [
            self._store(model, data, f"{name}-{kind}", wanted, size)
            for kind, model in (("model", self.model), ("random", self.random))
            if model is not None
        ]
        notes: tuple[str, ...] = ()
        if size > LARGE_STORE:
            kept = " and ".join(dict.fromkeys(store.manifest.dtype for store in stores))
            notes = (
                f"activations of {data.name!r} would take {readable_size(size)} in float32 and were kept in {kept}",
            )
        store, twin = stores[0], stores[1] if len(stores) > 1 else None
        row_of = np.full(len(wanted), -1)
        row_of[store.item if self.pool == "all" else store.sequence] = np.arange(len(store))
        plan = Plan({part: row_of[key[rows]] for part, rows in parts.items()}, ())
        assert data.groups is not None
        return parts_of(store, data, data.groups, plan, twin), notes

    def _store(self, model: Model, data: Dataset, name: str, wanted: np.ndarray, size: int) -> ActivationStore:
        """One store; a large one (`size` bytes of float32) in half precision: float16, or bfloat16 where values lie beyond what
        float16 can hold."""

        def captured(dtype: str) -> ActivationStore:
            try:
                return capture(
                    model,
                    data,
                    self.sites,
                    out=self.folder / f"{name}-{dtype}",
                    pool=self.pool,
                    rows=wanted,
                    dtype=dtype,
                    progress=self.progress,
                )
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                needed = size if dtype == "float32" else size // 2
                raise OSError(
                    errno.ENOSPC,
                    f"the temporary activations of {data.name!r} need {readable_size(needed)} in {tempfile.gettempdir()}, which is too "
                    "full: set TMPDIR to a folder on another disk, ask for fewer sites or lower max_rows; or capture them to a folder of "
                    "your own first (probekit.capture), which goes on where it stopped, and sweep that store",
                ) from error

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is cut is said in the notes
            if size <= LARGE_STORE:
                return captured("float32")
            try:
                return captured("float16")
            except ValueError:  # where something else was wrong, it is wrong in bfloat16 too, and said then
                shutil.rmtree(self.folder / f"{name}-float16", ignore_errors=True)
                return captured("bfloat16")
