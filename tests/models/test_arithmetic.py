"""Half precision where a processor has no instructions for it."""

from __future__ import annotations

import time
import warnings

import pytest
import torch

from probekit.models.arithmetic import computes_in, warn_if_imitated

CPU = torch.device("cpu")


def test_what_the_processor_says_agrees_with_the_clock():
    left, right = torch.randn(512, 512), torch.randn(512, 512)

    def seconds(dtype: torch.dtype) -> float:
        a, b = left.to(dtype), right.to(dtype)
        a @ b
        best = []
        for _ in range(5):
            start = time.perf_counter()
            a @ b
            best.append(time.perf_counter() - start)
        return min(best)

    assert computes_in(torch.bfloat16, CPU) == (seconds(torch.bfloat16) < 6 * seconds(torch.float32))


def test_float32_and_other_devices_are_never_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_imitated(None, CPU, instead="")
        warn_if_imitated(torch.float32, CPU, instead="")
        warn_if_imitated(torch.bfloat16, torch.device("cuda"), instead="")


def test_an_imitated_dtype_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr("probekit.models.arithmetic.computes_in", lambda dtype, device: False)
    with pytest.warns(
        UserWarning, match=r"no instructions for bfloat16: .* slower than float32's; leave compute_dtype out"
    ):
        warn_if_imitated(torch.bfloat16, CPU, instead="leave compute_dtype out")
