"""`tilus.matmul` of PyTorch tensors: right for any m, quick to call, fit for graphs."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import tilus
from tilus.kernels.activations import ACTIVATIONS
from tilus.kernels.problem import relative_error

K, N = 1024, 1792
ROWS = (1, 7, 16, 33, 128, 1000)
FORMATS = [
    ("uint4", 128, True), ("uint1", 128, True), ("int3", 32, False), ("int8", -1, False),
    ("float6_e3m2", -1, False), ("float8_e4m3", 64, False),
]  # fmt: skip
LIMIT = {"float16": 1e-3, "bfloat16": 3e-3}  # a result of the latter is rounded to 8 bits
CALLS, BATCHES = 200, 40
SECONDS_A_CALL = 10e-6


@cache
def weight(b_dtype: str, group_size: int, zeros: bool) -> tilus.QuantizedWeight:
    numbers = np.random.default_rng(0).standard_normal((K, N))
    return tilus.quantize(numbers, b_dtype, group_size, zeros)


def activations(m: int, of: str = "float16", seed: int = 0) -> Any:
    import torch

    made = torch.Generator("cuda").manual_seed(1000 * seed + m)
    wide = torch.randn(m, K, device="cuda", generator=made)
    return wide.to(getattr(torch, of))


def exact(a: Any, w: tilus.QuantizedWeight, there: tilus.DeviceWeight) -> np.ndarray:
    """The product in float64, with scales and zeros as they were placed."""
    scales, zeros = (
        None if t is None else t.double().cpu().numpy() for t in (there.scales, there.zeros)
    )
    numbers = replace(w, scales=scales, zeros=zeros).dequantize()
    product: np.ndarray = a.double().cpu().numpy() @ numbers.astype(np.float64)
    return product


def error_of(a: Any, w: tilus.QuantizedWeight, there: tilus.DeviceWeight, c: Any) -> float:
    return relative_error(c.double().cpu().numpy(), exact(a, w, there))


@pytest.mark.parametrize("of", ["float16", "bfloat16"])
@pytest.mark.parametrize("problem", FORMATS, ids=str)
def test_any_number_of_rows(problem: tuple[str, int, bool], of: str) -> None:
    """Twice each, since the counters must be left zero."""
    w = weight(*problem)
    there = w.to("cuda", of)
    for m in ROWS:
        a = activations(m, of)
        first = tilus.matmul(a, there)
        second = tilus.matmul(a, there)
        assert error_of(a, w, there, first) < LIMIT[of], m
        assert bool((first == second).all()), m


@pytest.mark.parametrize(("biased", "activation"), [
    (True, "none"), (True, "silu"), (False, "gelu"),
], ids=["bias", "bias and silu", "gelu"])  # fmt: skip
@pytest.mark.parametrize(("problem", "of"), [
    (FORMATS[0], "float16"), (FORMATS[3], "float16"), (FORMATS[0], "bfloat16"),
], ids=str)  # fmt: skip
def test_a_bias_and_an_activation_follow_the_product(
    problem: tuple[str, int, bool], biased: bool, activation: str, of: str
) -> None:
    """Twice each, with another bias the second time; results are as large as activations bend."""
    import torch

    w = weight(*problem)
    there = w.to("cuda", of)
    for m in (1, 16, 128):
        a = activations(m, of) / 16
        for seed in range(2):
            made = torch.Generator("cuda").manual_seed(seed)
            bias = torch.randn(N, device="cuda", generator=made).to(a.dtype) if biased else None
            c = tilus.matmul(a, there, bias, activation)
            sums = exact(a, w, there)
            if bias is not None:
                sums = sums + bias.double().cpu().numpy()
            want = ACTIVATIONS[activation].meaning(sums)
            assert relative_error(c.double().cpu().numpy(), want) < LIMIT[of], (m, seed)


def test_a_graph_adds_the_bias_that_is_there_when_it_runs() -> None:
    import torch

    w = weight(*FORMATS[0])
    there, a = w.to("cuda"), activations(16) / 16
    bias = torch.zeros(N, dtype=a.dtype, device="cuda")
    c = tilus.matmul(a, there, bias, "silu")
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        tilus.matmul(a, there, bias, "silu", out=c)
    bias.copy_(torch.linspace(-4, 4, N))
    graph.replay()
    torch.cuda.synchronize()
    sums = exact(a, w, there) + bias.double().cpu().numpy()
    want = ACTIVATIONS["silu"].meaning(sums)
    assert relative_error(c.double().cpu().numpy(), want) < LIMIT["float16"]


def test_the_work_is_given_to_the_current_stream() -> None:
    import torch

    w = weight(*FORMATS[0])
    there, a, late = w.to("cuda"), activations(16), activations(16, seed=1)
    stream = torch.cuda.Stream()
    for _ in range(2):  # so that nothing is left to be made, which waits
        tilus.matmul(a, there)
        with torch.cuda.stream(stream):
            tilus.matmul(a, there)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # cycles: work that does not wait sees the old numbers
        a.copy_(late)
        c = tilus.matmul(a, there)
    stream.synchronize()
    assert error_of(late, w, there, c) < LIMIT["float16"]


def test_another_thread_may_call_what_this_one_has_prepared() -> None:
    w = weight(*FORMATS[0])
    there, a = w.to("cuda"), activations(16)
    want = tilus.matmul(a, there)
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(tilus.matmul, a, there).result()
    assert bool((got == want).all())


@pytest.mark.parametrize("m", [1, 16, 33])
def test_a_graph_computes_what_a_call_does(m: int) -> None:
    """Captured on a stream on which nothing ran before; calls go on beside it in turn."""
    import torch

    w = weight(*FORMATS[0])
    there, a = w.to("cuda"), activations(m)
    inside = torch.empty(m, N, dtype=a.dtype, device="cuda")
    tilus.matmul(a, there, out=inside)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        tilus.matmul(a, there, out=inside)
        allocated = tilus.matmul(a, there)
    for seed in range(3):
        a.copy_(activations(m, seed=seed))
        eager = tilus.matmul(a, there)
        inside.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert bool((inside == eager).all()) and bool((allocated == eager).all())
        assert error_of(a, w, there, inside) < LIMIT["float16"]


def test_what_cannot_be_made_during_a_capture_is_refused() -> None:
    import torch

    there = weight("int5", 128, False).to("cuda")
    a = activations(5)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        a.add_(0)
        with pytest.raises(tilus.TilusError, match="call matmul once with as many rows before"):
            tilus.matmul(a, there)
    torch.cuda.synchronize()


def test_wrong_tensors_are_refused_in_words() -> None:
    import torch

    there, a = weight(*FORMATS[0]).to("cuda"), activations(16)
    for message, wrong in [
        ("a is on cpu", a.cpu()),
        ("a is torch.bfloat16 and the weight was placed for float16", a.bfloat16()),
        ("want whole rows", activations(K).t()[:16]),
        (r"want a \[M, 1024\]", a[:, :512].contiguous()),
        (r"a.reshape\(-1, 1024\)", a[None]),
        ("no multiple of 16 bytes", a.new_empty(16 * K + 1)[1:].view(16, K)),
        ("requires a gradient", a.clone().requires_grad_()),
    ]:
        with pytest.raises(tilus.TilusError, match=message):
            tilus.matmul(wrong, there)
    with pytest.raises(tilus.TilusError, match=r"bias is \(1, 1792\) .* want .* bias \[1792\]"):
        tilus.matmul(a, there, a.new_zeros(1, N))
    with pytest.raises(tilus.TilusError, match="no activation 'swish': there are none, relu"):
        tilus.matmul(a, there, activation="swish")
    with torch.no_grad():
        tilus.matmul(a.clone().requires_grad_(), there)


@pytest.mark.parametrize("given", [False, True], ids=["allocated", "out"])
@pytest.mark.parametrize("m", [1, 16])
def test_a_call_takes_less_than_ten_microseconds_of_the_processor(m: int, given: bool) -> None:
    """The quickest of some batches: in each the GPU, which is slower, falls behind, by fewer
    launches than the driver queues."""
    import torch

    there, a = weight(*FORMATS[0]).to("cuda"), activations(m)
    out = tilus.matmul(a, there) if given else None
    seconds = []
    gc.disable()
    try:
        for _ in range(BATCHES):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(CALLS):
                tilus.matmul(a, there, out=out)
            seconds.append((time.perf_counter() - start) / CALLS)
    finally:
        gc.enable()
    torch.cuda.synchronize()
    print(f"m = {m}, {'out' if given else 'allocated'}: {min(seconds) * 1e6:.2f} us a call, "
          f"median {sorted(seconds)[BATCHES // 2] * 1e6:.2f} us")  # fmt: skip
    assert min(seconds) < SECONDS_A_CALL
