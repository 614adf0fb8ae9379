"""Engines: one function over numbered pieces of work, one after another here, or on the machines of a Ray cluster."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import platform
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from probekit.versions import versions_of

Piece = TypeVar("Piece")
Result = TypeVar("Result")

LOSSES = 3
"""How often a piece is done again after the worker that had it was lost."""
PATIENCE = 30.0
"""Seconds without a single worker after which that is said."""
_DECIDE = ("torch", "transformers", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Ray:
    """Workers on a Ray cluster that runs already; `engine="ray"` is `Ray()`.

    Args:
        workers: How many at most; as many as the cluster has room for if left out.
        cpus: CPUs of each, and the threads it computes with. Left out, as many threads as this process has (so that the numbers
            are the same bit for bit), or the CPUs of the largest machine if it has fewer; 1 beside a GPU.
        gpus: GPUs of each, where the work can use one; left out, 1 if the cluster has any.
    """

    workers: int | None = None
    cpus: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("cpus", 1), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")


Engine = str | Ray


def check_engine(engine: Engine) -> Ray | None:
    """The workers that `engine=` asks for; None for this process alone.

    Raises:
        ValueError: no such engine.
        ImportError: Ray is not installed.
        ConnectionError: no Ray cluster can be reached.
    """
    if engine == "local":
        return None
    if engine == "ray":
        engine = Ray()
    if not isinstance(engine, Ray):
        raise ValueError(f"engine must be 'local', 'ray' or probekit.engine.Ray(workers=..., cpus=...), not {engine!r}")
    _connected()
    return engine


def mapped(
    do: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    engine: Engine = "local",
    *,
    on_gpu: bool = False,
    lost: Callable[[int, str], Result] | None = None,
) -> Iterator[tuple[int, Result]]:
    """`do` of every piece, with the number of the piece: in order here, as they are finished on a cluster.

    On a cluster each worker gets `do` once, at its start (a `Model` in it is loaded there from where it was loaded here), and
    claims a piece whenever it is free. A piece whose worker or machine is lost is done again by another. So `do` must be a
    function of the piece alone, and what it writes must be the same when it is written twice.

    Args:
        do: Raises what it likes: the first error ends the whole.
        pieces: Taken one by one, when there is a worker for it.
        engine: `"local"`, `"ray"` or `Ray(...)`.
        on_gpu: Whether the work uses a GPU where there is one.
        lost: Makes the result of a piece that took its worker with it more than `LOSSES` times, from its number and what there is to say
            of it. Left out, such a piece ends the whole.

    Raises:
        ImportError, ConnectionError: as `check_engine`.
        ValueError: no such engine; no machine of the cluster is large enough for a worker, or one has other versions of packages.
        TypeError: `do` holds something that cannot be sent to another process.
        OSError: a piece was lost more than `LOSSES` times, and there is no `lost`.
    """
    wanted = check_engine(engine)
    if wanted is None:
        return enumerate(map(do, pieces))
    return _on_ray(do, pieces, wanted, on_gpu, lost)


def require_seen(file: Path) -> None:
    """Refuse a folder that another machine does not see; both sides call it, each for a file of the other's.

    Raises:
        OSError: the file is not there.
    """
    if not file.is_file():
        raise OSError(
            f"{file} is not there on {platform.node()}, but on another machine of the cluster it is: give a folder (out=) that every "
            "machine sees under the same path"
        )


def _connected() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError("engine='ray' needs Ray, an extra: pip install 'probekit-interp[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConnectionError(
                "no Ray cluster is reached from here. Start one, `ray start --head` on one machine and `ray start "
                "--address=HEAD:6379` on the others, then call again (RAY_ADDRESS says where it is if not on this machine), or call "
                f"ray.init() yourself for this machine alone ({error})"
            ) from error
    return ray


class _Worker:
    """What runs in a worker's process."""

    def __init__(self) -> None:
        self.do: Callable[[Any], Any] | None = None

    def prepare(self, sent: bytes, threads: int, versions: dict[str, str]) -> None:
        """Everything that is done once."""
        from ray import cloudpickle

        here = versions_of(*_DECIDE)
        if here != versions:
            raise ValueError(f"{platform.node()} has {here}, the machine that asks has {versions}: install the same")
        torch.set_num_threads(threads)
        self.do = cloudpickle.loads(sent)

    def work(self, piece: Any) -> Any:
        assert self.do is not None
        return self.do(piece)


class _Workers:
    """The workers of one run: what each is at, and how many there may be."""

    def __init__(self, ray: Any, sent: bytes, wanted: Ray, on_gpu: bool) -> None:
        self.ray, self.wanted = ray, wanted
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        any_gpu = any(node.get("GPU", 0) for node in nodes)
        self.gpus = 0 if not on_gpu else (1 if any_gpu else 0) if wanted.gpus is None else wanted.gpus
        largest = int(max((node.get("CPU", 0) for node in nodes), default=0))
        self.cpus = wanted.cpus or (1 if self.gpus else max(1, min(torch.get_num_threads(), largest)))
        if not self.room():
            have = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise ValueError(
                f"a worker needs {self.cpus} CPUs and {self.gpus:g} GPUs, and no machine of the Ray cluster has them ({have}): "
                "ask for less, engine=probekit.engine.Ray(cpus=..., gpus=...)"
            )
        self.start = ray.remote(_Worker).options(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0)
        self.sent = ray.put(sent)
        self.at: dict[Any, tuple[Any, int | None]] = {}
        """By what is awaited: the worker, and the number of its piece (None while it prepares)."""
        self.free: list[Any] = []
        self.refused = 0

    def room(self) -> int:
        """How many the cluster, as it is now, can hold."""
        total = 0
        for node in self.ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                by_cpu = has.get("CPU", 0) // self.cpus
                total += int(min(by_cpu, has.get("GPU", 0) // self.gpus) if self.gpus else by_cpu)
        return total if self.wanted.workers is None else min(total, self.wanted.workers)

    def grow(self, pieces: int, room: int) -> None:
        """Start workers for so many pieces that have none, where there is room."""
        starting = sum(number is None for _, number in self.at.values())
        for _ in range(min(pieces - starting, room - len(self.at) - len(self.free))):
            worker = self.start.remote()
            self.at[worker.prepare.remote(self.sent, self.cpus, versions_of(*_DECIDE))] = worker, None

    def give(self, number: int, piece: Any) -> None:
        worker = self.free.pop()
        self.at[worker.work.remote(piece)] = worker, number

    def next(self) -> tuple[int | None, Any, Exception | None] | None:
        """Number, result, and why there is none, of the next piece that ends. None: nothing to tell within a second."""
        if not self.at:
            time.sleep(1)
            return None
        ended, _ = self.ray.wait(list(self.at), num_returns=1, timeout=1)
        if not ended:
            return None
        worker, number = self.at.pop(ended[0])
        try:
            result = self.ray.get(ended[0])
        except self.ray.exceptions.RayTaskError as error:
            self.kill(worker)
            raise _as_raised(error) from None
        except self.ray.exceptions.RayError as error:  # the worker, its machine, or what it made is lost
            self.kill(worker)
            if number is None:
                self.refused += 1
                if self.refused > LOSSES:
                    raise OSError(
                        f"{self.refused} workers in a row died before their first piece: is there memory for what each has to load? "
                        f"Ray says: {error}"
                    ) from error
            return number, None, error
        self.free.append(worker)
        self.refused = 0
        return number, result, None

    def kill(self, worker: Any) -> None:
        with contextlib.suppress(Exception):  # dead already
            self.ray.kill(worker)

    def end(self) -> None:
        for worker in [*self.free, *(worker for worker, _ in self.at.values())]:
            self.kill(worker)


def _on_ray(
    do: Callable[[Any], Any],
    pieces: Iterable[Any],
    wanted: Ray,
    on_gpu: bool,
    given_up: Callable[[int, str], Any] | None,
) -> Iterator[tuple[int, Any]]:
    ray = _connected()
    workers = _Workers(ray, _sendable(do), wanted, on_gpu)
    source = enumerate(pieces)
    ready: deque[tuple[int, Any]] = deque()
    open_pieces: dict[int, Any] = {}
    losses: dict[int, int] = {}
    heard, said = time.monotonic(), False
    try:
        while True:
            room = workers.room()
            ready.extend(itertools.islice(source, max(0, room + 1 - len(ready))))
            if not ready and not open_pieces:
                return
            while ready and workers.free:
                number, piece = ready.popleft()
                open_pieces[number] = piece
                workers.give(number, piece)
            workers.grow(len(ready), room)
            ended = workers.next()
            if ended is None:
                if not workers.free and not open_pieces and not said and time.monotonic() - heard > PATIENCE:
                    warnings.warn(
                        f"no worker has started for {PATIENCE:g} s: the Ray cluster has no room for {workers.cpus} CPUs and "
                        f"{workers.gpus:g} GPUs now, or loading takes long (`ray status` says); waiting on",
                        stacklevel=3,
                    )
                    said = True
                continue
            heard = time.monotonic()
            found, result, lost = ended
            if found is None:
                continue
            piece = open_pieces.pop(found)
            if lost is None:
                yield found, result
                continue
            losses[found] = losses.get(found, 0) + 1
            if losses[found] > LOSSES:
                in_a_line = " ".join(str(lost).split())[:500]
                why = f"lost {losses[found]} times with the worker that had it: does it fit in memory there? Ray says: {in_a_line}"
                if given_up is None:
                    raise OSError(f"piece {found} was {why}") from lost
                yield found, given_up(found, why)
                continue
            ready.appendleft((found, piece))
    finally:
        workers.end()


def _sendable(do: Callable[[Any], Any]) -> bytes:
    from ray import cloudpickle

    try:
        sent: bytes = cloudpickle.dumps(do)
    except (TypeError, AttributeError, RuntimeError, pickle.PicklingError) as error:
        raise TypeError(
            f"the work cannot be sent to workers: {error}. Give models as load_model(...) made them from a name or a folder, and "
            "objects that can be pickled"
        ) from error
    return sent


def _as_raised(error: Any) -> BaseException:
    """What the work itself raised, with where."""
    cause = getattr(error, "cause", None)
    if not isinstance(cause, Exception):
        return RuntimeError(str(error))
    cause.add_note(f"on a Ray worker at {getattr(error, 'ip', 'another machine')}")
    return cause
