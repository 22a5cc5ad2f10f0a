"""fuse-attention: split, head norms and rotation of one projection go into R.vamc.qkv_attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.relax_modules import Compiled, apply_passes, assert_rewrites, assert_unchanged, program_of, tensor
from tvm.script import from_source

import vamc_py.dialect  # noqa: F401
from vamc_py.passes.fuse_attention import FuseAttention
from vamc_py.pipeline.program import Program

# 4 heads of q on 2 of k and v, 8 wide; caches float16. The braces are where the cases differ.
MODULE = """
@I.ir_module
class Module:
    @R.function
    def main(
        qkv: R.Tensor(("n", 64), "float32"),
        positions: R.Tensor(("n",), "int32"), slots: R.Tensor(("n",), "int32"), pages: R.Tensor(("s", "p"), "int32"),
        cos: R.Tensor(("n", 8), "float32"), sin: R.Tensor(("n", 8), "float32"),
        k_cache: R.Tensor(("num_pages", 2, "blocks", 8, 16), "float16"),
        v_cache: R.Tensor(("num_pages", 2, "blocks", 16, 8), "float16"),
        q_norm: R.Tensor((8,), "float32"), k_norm: R.Tensor((8,), "float32"),
    ):
        n = T.int64()
        R.func_attr({{"vamc.inputs": 6, "vamc.caches": 2}})
        with R.dataflow():
            {body}
            R.output(out)
        return out
"""

SEPARATE = """
            parts = R.split(qkv, {sections}, axis=1)
            q_rows = parts[{q_part}]
            k_rows = parts[{k_part}]
            v_rows = parts[2]
            q_heads = R.reshape(q_rows, R.shape([n, {heads}, 8]))
            k_heads = R.reshape(k_rows, R.shape([n, 2, 8]))
            v = R.reshape(v_rows, R.shape([n, 2, 8]))
            {q_normalized}
            {k_normalized}
            q = R.vamc.rotary({q_from}, cos, sin)
            k = R.vamc.rotary({k_from}, {k_angles})
            out = R.vamc.cached_attention(q, k, v, positions, slots, pages, k_cache, v_cache, scale=0.25)
"""
FUSED = """
            flat = R.vamc.qkv_attention(
                qkv, {norms} cos, sin, positions, slots, pages, k_cache, v_cache,
                heads=4, kv_heads=2, head_dim=8, scale=0.25, epsilon={epsilon},
            )
            out = R.reshape(flat, R.shape([n, 4, 8]))
"""


def parse(body: str) -> Any:
    lines = (line.strip() for line in body.strip().splitlines())
    return from_source(MODULE.format(body="\n            ".join(line for line in lines if line)))


def separate(
    *,
    norms: str = "qk",
    k_epsilon: float = 1e-6,
    sections: str = "[32, 48]",
    q_part: int = 0,
    k_part: int = 1,
    heads: int = 4,
    k_angles: str = "cos, sin",
) -> Any:
    """The attention as merge-linear leaves it; ``norms`` names the heads that are normalized."""
    q, k = "q" in norms, "k" in norms
    return parse(
        SEPARATE.format(
            q_normalized="q_scaled = R.vamc.rms_norm(q_heads, q_norm, epsilon=1e-6)" if q else "",
            k_normalized=f"k_scaled = R.vamc.rms_norm(k_heads, k_norm, epsilon={k_epsilon})" if k else "",
            q_from="q_scaled" if q else "q_heads",
            k_from="k_scaled" if k else "k_heads",
            **{"sections": sections, "q_part": q_part, "k_part": k_part, "heads": heads, "k_angles": k_angles},
        )
    )


@pytest.mark.parametrize(
    ("norms", "fused_norms", "epsilon"), [("qk", "q_norm, k_norm,", "1e-6"), ("", "", "0.0")], ids=["qwen3", "qwen2"]
)
def test_the_attention_takes_what_comes_before_it(norms: str, fused_norms: str, epsilon: str) -> None:
    expected = parse(FUSED.format(norms=fused_norms, epsilon=epsilon))
    assert_rewrites(FuseAttention(), separate(norms=norms), expected)


def run(program: Program) -> list[Any]:
    """The output and both caches for two slots, one of them with a past that is in the cache already."""
    rng = np.random.default_rng(5)
    n, angles = 5, rng.uniform(0, 6, (5, 8)).astype(np.float32)
    caches = [tensor(rng.standard_normal(shape).astype(np.float16)) for shape in ((3, 2, 1, 8, 16), (3, 2, 1, 16, 8))]
    inputs = [
        rng.standard_normal((n, 64)).astype(np.float32),
        np.array([17, 18, 0, 1, 2], np.int32),
        np.array([1, 1, 0, 0, 0], np.int32),
        np.array([[2, 0], [0, 1]], np.int32),
        np.cos(angles),
        np.sin(angles),
    ]
    norms = [rng.standard_normal(8).astype(np.float32) for _ in range(2)]
    [out] = Compiled(program)(*inputs, *caches, *norms)
    return [out, *(cache.numpy() for cache in caches)]


@pytest.mark.parametrize("norms", ["qk", ""])
def test_output_and_caches_stay_the_same(norms: str) -> None:
    before = program_of(separate(norms=norms))
    after = apply_passes(before, FuseAttention())
    for left, right in zip(run(before), run(after), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


UNFIT = {
    "only q has a norm": separate(norms="q"),
    "only k has a norm": separate(norms="k"),
    "norms with different epsilons": separate(k_epsilon=1e-5),
    "q and k turned by different angles": separate(k_angles="sin, cos"),
    "the parts in another order": separate(norms="", sections="[16, 48]", q_part=1, k_part=0),
    "one part for two": separate(norms="", sections="[16, 32, 48]", q_part=0, k_part=1, heads=2),
}


@pytest.mark.parametrize("module", UNFIT.values(), ids=UNFIT.keys())
def test_what_must_stay_and_is_noted(module: Any) -> None:
    assert_unchanged(FuseAttention(), module)
    [note] = apply_passes(program_of(module), FuseAttention()).notes
    assert "fuse-attention did not fire on 1 attention" in note


def test_a_fused_attention_is_not_noted() -> None:
    assert apply_passes(program_of(separate()), FuseAttention()).notes == ()
