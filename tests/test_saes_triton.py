"""The Triton kernels against literal twins in float64: on a GPU, in Triton's interpreter, and through its compiler.

Whether Triton interprets is settled when it is first imported, so the interpreter gets a process of its own: there all tests of this file
run again, on the CPU. In this process the same tests want a GPU, and are skipped by name without one.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from saes.kernels import triton_products

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
GPU = torch.cuda.is_available() and not INTERPRETED
runs_kernels = pytest.mark.skipif(not (GPU or INTERPRETED), reason="needs a GPU; the interpreter runs it in a process of its own")
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")
# Rounding of float32 sums of some hundred terms of order 1.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@dataclass(frozen=True, eq=False)
class Case:
    values: Tensor
    latents: Tensor
    starts: Tensor
    rows: Tensor
    grad: Tensor

    def on(self, device: str) -> "Case":
        return Case(*(getattr(self, field.name).to(device) for field in fields(self)))


def random_case(batch: int, d: int, d_dict: int, *, seed: int = 0, kind: torch.dtype = torch.float32) -> Case:
    """Token 0 has no latents and token 1 has all; every other token has latent 0 and random others, in random order, none of them twice."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [1 + torch.randperm(d_dict - 1, generator=generator) for _ in range(batch)]
    counts = torch.randint(0, min(d_dict, 12), (batch,), generator=generator).tolist()
    lists = [torch.cat([torch.zeros(1, dtype=torch.long), latents[:count]]) for latents, count in zip(chosen, counts, strict=True)]
    lists[:2] = [torch.zeros(0, dtype=torch.long), torch.randperm(d_dict, generator=generator)][:batch]
    latents, sizes = torch.cat(lists), torch.tensor([0, *map(len, lists)])
    values, rows, grad = (torch.randn(*shape, generator=generator) for shape in ((len(latents),), (d_dict, d), (batch, d)))
    return Case(values, latents, sizes.cumsum(0), rows.to(kind), grad.to(kind))


def pairs(case: Case) -> list[tuple[int, int, int]]:
    """(pair, token, latent), one by one."""
    bounds = pairwise(case.starts.tolist())
    return [(p, b, int(case.latents[p])) for b, (first, last) in enumerate(bounds) for p in range(first, last)]


def literal_decode(case: Case) -> Tensor:
    """`y_b = sum_p values_p rows[latents_p]`."""
    out = torch.zeros(case.grad.shape, dtype=torch.float64)
    for p, b, i in pairs(case):
        out[b] += case.values[p].double() * case.rows[i].double()
    return out


def literal_weight_gradient(case: Case) -> Tensor:
    """`dW[i] = sum_p values_p grad_b`."""
    out = torch.zeros(case.rows.shape, dtype=torch.float64)
    for p, b, i in pairs(case):
        out[i] += case.values[p].double() * case.grad[b].double()
    return out


def literal_code_gradient(case: Case) -> Tensor:
    """`g_p = grad_b . rows[latents_p]`."""
    out = torch.zeros(len(case.values), dtype=torch.float64)
    for p, b, i in pairs(case):
        out[p] = (case.grad[b].double() * case.rows[i].double()).sum()
    return out


def decode(case: Case) -> Tensor:
    return triton_products.decode(case.values, case.latents, case.starts, case.rows)


def weight_gradient(case: Case) -> Tensor:
    return triton_products.weight_gradient(case.values, case.latents, case.starts, case.grad, len(case.rows))


def code_gradient(case: Case) -> Tensor:
    return triton_products.code_gradient(case.grad, case.latents, case.starts, case.rows)


PRODUCTS: dict[Callable[[Case], Tensor], Callable[[Case], Tensor]] = {
    decode: literal_decode,
    weight_gradient: literal_weight_gradient,
    code_gradient: literal_code_gradient,
}


def assert_equal_to_twins(case: Case) -> None:
    for fast, slow in PRODUCTS.items():
        found = fast(case.on(DEVICE))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.cpu().double(), slow(case), **CLOSE, msg=lambda text, name=fast.__name__: f"{name}: {text}")


@runs_kernels
@settings(deadline=None, max_examples=20)
@given(
    batch=st.integers(1, 20), d=st.sampled_from([1, 3, 16, 33, 48]), d_dict=st.integers(2, 14),
    kind=st.sampled_from([torch.float32, torch.bfloat16]), chunk=st.sampled_from([2, 4, 8]), seed=st.integers(0, 9),
)  # fmt: skip
def test_products_equal_their_literal_twins(batch: int, d: int, d_dict: int, kind: torch.dtype, chunk: int, seed: int):
    """Small tiles, so that small cases have several: chunks of a long segment, tiles of a row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_products, "CHUNK", chunk)
        patch.setattr(triton_products, "COLUMNS", 16)
        assert_equal_to_twins(random_case(batch, d, d_dict, seed=seed, kind=kind))


@runs_kernels
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_products_with_tiles_in_their_real_size_equal_their_literal_twins(kind: torch.dtype):
    """Latent 0 fires on 149 tokens, so it has a whole chunk; token 1 has more pairs than its programs read at once."""
    assert_equal_to_twins(random_case(150, 257, 40, kind=kind))


@runs_kernels
def test_segments_that_end_at_before_and_after_the_end_of_a_chunk_sum_what_they_hold():
    c = triton_products.CHUNK
    sizes = [0, c, c, 1, c - 1, 2 * c, c - 1, c + 1, 0, 0, c + 1, 3 * c - 2, 2 * c - 1, 1, 5, 0]
    bounds = torch.tensor([0, *sizes]).cumsum(0)
    generator = torch.Generator().manual_seed(0)
    weights, rows = torch.randn(sum(sizes), generator=generator), torch.randn(9, 20, generator=generator)
    index = torch.randint(0, 9, (sum(sizes),), generator=generator)
    found = triton_products.segment_sums(*(tensor.to(DEVICE) for tensor in (weights, index, bounds, rows)))
    terms = weights.double()[:, None] * rows.double()[index]
    expected = torch.stack([terms[a:b].sum(0) for a, b in pairwise(bounds.tolist())])
    torch.testing.assert_close(found.cpu().double(), expected, **CLOSE)


@runs_kernels
@pytest.mark.parametrize("product", PRODUCTS)
def test_the_same_input_gives_the_same_bits(product: Callable[[Case], Tensor]):
    case = random_case(150, 48, 30).on(DEVICE)
    assert torch.equal(product(case), product(case))


@runs_kernels
@pytest.mark.parametrize("batch", [0, 5])
def test_without_pairs_sums_are_zero_and_there_are_no_dot_products(batch: int):
    empty = torch.zeros(0)
    case = Case(empty, empty.long(), torch.zeros(batch + 1, dtype=torch.long), torch.randn(4, 6), torch.randn(batch, 6)).on(DEVICE)
    assert torch.equal(decode(case).cpu(), torch.zeros(batch, 6))
    assert torch.equal(weight_gradient(case).cpu(), torch.zeros(4, 6))
    assert code_gradient(case).shape == (0,)


@runs_kernels
def test_a_row_that_no_pair_names_is_not_read():
    """Places beyond the last pair stand at row 0 and must add nothing of it, not even 0 times NaN."""
    case = random_case(20, 24, 12)
    case.latents.clamp_(min=1)
    case.rows[0], case.grad[0] = torch.nan, torch.nan
    for fast in PRODUCTS:
        assert fast(case.on(DEVICE)).isfinite().all()


@runs_kernels
def test_other_types_and_layouts_are_refused_in_a_sentence():
    case = random_case(3, 8, 8).on(DEVICE)
    with pytest.raises(ValueError, match=r"float32 or bfloat16, not torch\.float64"):
        triton_products.decode(case.values, case.latents, case.starts, case.rows.double())
    with pytest.raises(ValueError, match=r"call \.contiguous\(\)"):
        triton_products.decode(case.values, case.latents, case.starts, case.rows.t())


@needs_gpu
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_never_waits_for_the_device_nor_gathers_a_row_for_each_pair(product: Callable[[Case], Tensor]):
    batch, k, d, d_dict = 4096, 32, 768, 8192
    generator = torch.Generator("cuda").manual_seed(0)
    latents = torch.rand(batch, d_dict, device="cuda", generator=generator).topk(k).indices.flatten()
    values, rows, grad = (torch.randn(*s, device="cuda", generator=generator) for s in ((batch * k,), (d_dict, d), (batch, d)))
    case = Case(values, latents, torch.arange(batch + 1, device="cuda") * k, rows, grad)
    # The first call compiles and loads the kernels, which may wait.
    product(case)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_sync_debug_mode("error")
    try:
        product(case)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.max_memory_allocated() - before < batch * k * d * 4 / 4


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kernel", ["_sum_chunks", "_sum_segments", "_dot_pairs"])
def test_kernels_compile_for_a_gpu_that_is_not_here_and_hold_no_atomics(
    kernel: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The interpreter takes Python that the compiler refuses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(triton_products, kernel)
    integers = {name: "*i64" for name in ("index", "latents", "bounds", "starts", "ends")}
    for rows in ("*fp32", "*bf16"):
        kinds = {**integers, "rows": rows, "d": "i32"}
        constants = {name: getattr(triton_products, name) for name in function.arg_names if name.isupper()}
        signature = {name: "constexpr" if name in constants else kinds.get(name, "*fp32") for name in function.arg_names}
        source = ASTSource(function, signature, constexprs=constants)
        assembly = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm
        assert assembly["cubin"]
        assert not any(word in assembly["ptx"] for word in ("atom.", "red.global", "tf32"))


@pytest.mark.skipif(INTERPRETED, reason="runs in the interpreter now")
@pytest.mark.slow
def test_everything_holds_in_the_interpreter():
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, cwd=root, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
