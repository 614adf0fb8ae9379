"""A fitted probe as one safetensors file: its arrays as tensors, all else as JSON in the metadata; a pickle is never opened.

Classes are found by name in the fixed tables below, never imported by a name that a file gives.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.files import write_whole
from probekit.probes.estimator import Estimator
from probekit.probes.spectrum import Standardisation
from probekit.probes.tensor_file import read_tensors

_FORMAT = "probekit.probe"
_SAVE_AGAIN = "save the probe again"

ESTIMATORS = {  # name of the class: its module in probekit.probes
    "AttentionProbe": "attention",
    "CalibratedProbe": "calibrated",
    "ConformalSets": "conformal",
    "DifferenceInMeans": "difference_in_means",
    "ElasticNetProbe": "elastic_net",
    "KSparseProbe": "k_sparse",
    "KernelRidgeProbe": "kernel_ridge",
    "LDAProbe": "lda",
    "LogisticProbe": "logistic",
    "MLPProbe": "mlp",
    "MomentProbe": "moment",
    "MultiLayerProbe": "multi_layer",
    "MultiMaxProbe": "window",
    "RidgeProbe": "ridge",
    "RollingMeanProbe": "window",
}
_SCIKIT_LEARN = {"IsotonicRegression": "sklearn.isotonic", "Nystroem": "sklearn.kernel_approximation"}  # held by ours


def load_probe(path: str | Path) -> Estimator:
    """Read a probe of any family from the file that its `save` wrote.

    It predicts the same as the one saved, bit for bit on the same machine, and has the same parameters.

    Args:
        path: The file. What it holds is data and is never run: a file from elsewhere can mislead but not do anything.

    Raises:
        FileNotFoundError: no such file.
        IsADirectoryError: a folder.
        ValueError: no saved probe, a damaged one, or one of a class that this version of probekit does not have.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the file that the probe's save wrote")
    tensors, metadata = read_tensors(path, _FORMAT, "probe")
    text = metadata.get("probe", "")
    if metadata.get("checksum") != _checksum(text, tensors):
        raise ValueError(f"{path} is damaged: its content is not what was saved; {_SAVE_AGAIN}")
    try:
        found = _Reader(tensors).value(json.loads(text))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = str(error) if type(error) is ValueError else f"it lacks or misplaces something ({error})"
        raise ValueError(f"{path} holds no probe that can be read: {reason}") from error
    if not isinstance(found, Estimator):
        raise ValueError(f"{path} holds no probe but a {type(found).__name__}; {_SAVE_AGAIN}")
    return found


def write_probe(probe: Estimator, path: str | Path) -> Path:
    """See `Estimator.save`."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give a file, such as {path / 'probe.safetensors'}")
    if not probe.__sklearn_is_fitted__():
        raise ValueError(
            f"this {type(probe).__name__} is not fitted yet, so there is nothing to save but its parameters "
            "(get_params): call fit first"
        )
    writer = _Writer()
    text = json.dumps(writer.value(probe, ""), allow_nan=False)
    metadata = {"format": _FORMAT, "probe": text, "checksum": _checksum(text, writer.tensors)}
    from safetensors.torch import save

    write_whole(path, save(writer.tensors, metadata))
    return path


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Of the JSON and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class _Writer:
    """Values as JSON; what is not plain in it stands as `{kind: ...}`, and its arrays are collected in `tensors`."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.seen: dict[int, int] = {}  # estimators by identity: a fitted `probe` is also the `probe_` of its wrapper

    def value(self, value: Any, where: str) -> Any:
        if isinstance(value, np.generic):  # a number of numpy's has a width, which decides that of results
            return {"scalar": self.array(np.asarray(value), where)}
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"number": str(value)}
        if isinstance(value, list):
            return [self.value(each, f"{where}.{i}") for i, each in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": self.value(list(value), where)}
        if isinstance(value, dict):
            return {"dict": self.named(value, where)}
        if isinstance(value, np.ndarray):
            return self.array(value, where)
        if isinstance(value, Tensor):
            return {"tensor": self.stored(value.detach().cpu(), where)}
        if isinstance(value, Standardisation):
            return {"standardisation": self.named(vars(value), where)}
        if isinstance(value, Estimator):
            return self.estimator(value, where)
        kind = type(value)
        if _SCIKIT_LEARN.get(kind.__name__) == kind.__module__:
            return {"scikit-learn": kind.__name__, "state": self.named(value.__getstate__(), where)}
        raise TypeError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, which this file cannot hold without a pickle; it holds "
            "numbers, text, arrays, lists and estimators of probekit: replace it by one of these and fit again"
        )

    def named(self, values: Mapping[Any, Any], where: str) -> dict[str, Any]:
        strange = [key for key in values if not isinstance(key, str)]
        if strange:
            raise TypeError(
                f"{where} has the key {strange[0]!r}: only names (str) can be written; replace it and fit again"
            )
        return {key: self.value(each, f"{where}.{key}" if where else key) for key, each in values.items()}

    def array(self, array: np.ndarray, where: str) -> dict[str, Any]:
        if array.dtype.kind == "U":
            return {"text": array.tolist(), "dtype": array.dtype.str}
        if array.dtype.kind == "O":
            return {"objects": self.value(array.ravel().tolist(), where), "shape": list(array.shape)}
        try:
            if array.dtype.kind not in "biuf":
                raise TypeError
            return {"array": self.stored(torch.from_numpy(array.copy(order="K")), where)}
        except TypeError:
            raise TypeError(
                f"{where} is an array of dtype {array.dtype}, which this file cannot hold; make it numbers or text "
                "(labels: strings or whole numbers) and fit again"
            ) from None

    def stored(self, tensor: Tensor, where: str) -> dict[str, Any]:
        """A tensor under a name, with the order of its axes in memory: products may round by it."""
        order = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))
        while where in self.tensors:  # names with dots in them
            where += "'"
        self.tensors[where] = tensor.permute(order).clone(memory_format=torch.contiguous_format)
        return {"name": where} if order == sorted(order) else {"name": where, "order": order}

    def estimator(self, probe: Estimator, where: str) -> dict[str, Any]:
        if id(probe) in self.seen:
            return {"same": self.seen[id(probe)]}
        name = type(probe).__name__
        if name not in ESTIMATORS or type(probe) is not _own(name):
            raise TypeError(
                f"{where or 'this probe'} is a {type(probe).__module__}.{type(probe).__qualname__}, and only estimators of "
                f"probekit can be saved ({', '.join(ESTIMATORS)}): a class of your own keeps what its fit sets by itself"
            )
        parameters = probe.get_params()
        fitted = {key: value for key, value in vars(probe).items() if key not in parameters}
        document = {
            "estimator": name,
            "parameters": self.named(parameters, where),
            "fitted": self.named(fitted, where),
        }
        self.seen[id(probe)] = len(self.seen)
        return document


class _Reader:
    """The values of a `_Writer` back."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.seen: list[Estimator] = []

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.value(each) for each in node]
        if not isinstance(node, dict):
            return node
        match node:
            case {"number": str() as number}:
                return float(number)
            case {"scalar": array}:
                return self.value(array)[()]
            case {"tuple": values}:
                return tuple(self.value(values))
            case {"dict": values}:
                return self.named(values)
            case {"text": values, "dtype": str() as dtype}:
                return np.array(values, dtype=np.dtype(dtype))
            case {"objects": values, "shape": shape}:
                array = np.empty(len(values), dtype=object)
                array[:] = self.value(values)
                return array.reshape(shape)
            case {"array": place}:
                return self.stored(place).numpy()
            case {"tensor": place}:
                return self.stored(place)
            case {"standardisation": values}:
                return Standardisation(**self.named(values))
            case {"same": int() as number}:
                return self.seen[number]
            case {"estimator": name, "parameters": parameters, "fitted": fitted}:
                probe = _own(name)(**self.named(parameters))
                vars(probe).update(self.named(fitted))
                self.seen.append(probe)
                return probe
            case {"scikit-learn": name, "state": state} if name in _SCIKIT_LEARN:
                held = getattr(importlib.import_module(_SCIKIT_LEARN[name]), name)()
                held.__setstate__(self.named(state))  # scikit-learn's own way; it warns where its version is another
                return held
        raise ValueError(f"it has something unknown ({', '.join(map(str, node))}); a newer probekit may have saved it")

    def named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.value(each) for key, each in values.items()}

    def stored(self, place: Mapping[str, Any]) -> Tensor:
        tensor = self.tensors[place["name"]].clone()  # what was read lies in the file's memory map
        order = place.get("order", range(tensor.ndim))
        return tensor.permute([int(axis) for axis in np.argsort(order)])


def _own(name: object) -> type[Estimator]:
    """A class of the table."""
    if not isinstance(name, str) or name not in ESTIMATORS:
        raise ValueError(
            f"it names the class {name!r}, which is no estimator of probekit; there are {', '.join(ESTIMATORS)}"
        )
    found: type[Estimator] = getattr(importlib.import_module(f"probekit.probes.{ESTIMATORS[name]}"), name)
    return found
