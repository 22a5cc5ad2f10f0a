"""quantize-kv-cache: caches that only attention reads become int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.relax_modules import Compiled, apply_passes, assert_rewrites, assert_unchanged, program_of, tensor
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.errors import UserError
from vamc_py.passes.quantize_kv_cache import QuantizeKvCache


@I.ir_module
class Before:
    @R.function
    def main(
        q: R.Tensor(("n", 4, 16), "float32"),
        k: R.Tensor(("n", 2, 16), "float32"),
        v: R.Tensor(("n", 2, 16), "float32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        k_cache_0: R.Tensor(("num_pages", 2, "blocks", 16, 16), "float16"),
        v_cache_0: R.Tensor(("num_pages", 2, "blocks", 16, 16), "float16"),
    ):
        R.func_attr({"vamc.inputs": 6, "vamc.caches": 2})
        with R.dataflow():
            out = R.vamc.cached_attention(
                q, k, v, positions, slots, pages, k_cache_0, v_cache_0, scale=0.25, products="float32"
            )
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        q: R.Tensor(("n", 4, 16), "float32"),
        k: R.Tensor(("n", 2, 16), "float32"),
        v: R.Tensor(("n", 2, 16), "float32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        k_cache_0: R.Tensor(("num_pages", 2, "blocks", 20, 16), "int8"),
        v_cache_0: R.Tensor(("num_pages", 2, "blocks", 20, 16), "int8"),
    ):
        R.func_attr({"vamc.inputs": 6, "vamc.caches": 2})
        with R.dataflow():
            out = R.vamc.cached_attention(
                q, k, v, positions, slots, pages, k_cache_0, v_cache_0, scale=0.25, products="float32"
            )
            R.output(out)
        return out


def test_both_caches_become_int8() -> None:
    assert_rewrites(QuantizeKvCache(), Before, Expected)


def test_int8_caches_stay() -> None:
    assert_unchanged(QuantizeKvCache(), Expected)


@I.ir_module
class ReadElsewhere:
    @R.function
    def main(k_cache_0: R.Tensor(("num_pages", 2, "blocks", 16, 16), "float16")):
        R.func_attr({"vamc.inputs": 0, "vamc.caches": 1})
        with R.dataflow():
            out = R.astype(k_cache_0, "float32")
            R.output(out)
        return out


def test_a_cache_that_something_else_reads_is_refused() -> None:
    with pytest.raises(UserError, match="k_cache_0 is read by another operator than attention"):
        apply_passes(program_of(ReadElsewhere), QuantizeKvCache())


def test_results_move_by_the_rounding_alone() -> None:
    random = np.random.default_rng(5)
    pages = np.array([[1], [0]], np.int32)
    results = []
    new: list[list[Any]] = []
    for n, first in ((5, 0), (1, 5)):
        x = [random.standard_normal((n, heads, 16)).astype(np.float32) for heads in (4, 2, 2)]
        new.append([*x, np.arange(first, first + n, dtype=np.int32), np.ones(n, np.int32), pages])
    for program in (program_of(Before), apply_passes(program_of(Before), QuantizeKvCache())):
        compiled = Compiled(program)
        kinds = [cache.ty for cache in program.function.params[6:]]
        caches = [tensor(np.zeros([2, 2, 1, int(k.shape[3]), int(k.shape[4])], str(k.dtype))) for k in kinds]
        results.append(np.concatenate([compiled(*step, *caches)[0] for step in new]))
    error = np.linalg.norm(results[1] - results[0]) / np.linalg.norm(results[0])
    assert 1e-4 < error < 0.01
