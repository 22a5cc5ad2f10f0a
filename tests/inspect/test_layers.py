"""Which layer a binding belongs to."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from vamc_py.inspect.dump import Dump
from vamc_py.inspect.layers import layer_of_bindings, member_names, named_layer


def function_after(dump: Dump, label: str) -> Any:
    return dump.program(dump.find(label)).function


def test_names_of_layers() -> None:
    names = ("model.layers.12.mlp.up_proj.weight", "past_k_3", "v_cache_0", "caches[5]", "h.7.w", "model.norm.weight")
    assert [named_layer(name) for name in names] == [12, 3, 0, 2, 7, None]


@pytest.mark.parametrize("label", ["import", "raise-attention", "flatten-batch", "fuse-residual", "lower-reference"])
def test_layers_have_the_same_bindings_at_every_stage(dump_with_kernels: Dump, label: str) -> None:
    layers = layer_of_bindings(function_after(dump_with_kernels, label))
    sizes = Counter(layer for layer in layers.values() if layer is not None)
    selected = 2 if label == "lower-reference" else 0  # the last layer takes the wanted rows of two values
    assert sizes == {0: sizes[0], 1: sizes[0] + selected}


def test_the_trace(dump_with_kernels: Dump) -> None:
    layers = layer_of_bindings(function_after(dump_with_kernels, "import"))
    # The embedding; the angles, which all layers read; the first binding of the norm before layer 0's attention.
    assert [layers[name] for name in ("lv2", "lv3", "lv8", "lv11")] == [None, None, None, 0]
    # The residual sum that ends layer 0, the square in the norm of layer 1, and the last norm.
    assert [layers[name] for name in ("lv88", "lv89", "lv166", "lv167")] == [0, 1, 1, None]


def test_tuples_of_parameters(dump_with_kernels: Dump) -> None:
    single, bundled = (function_after(dump_with_kernels, label) for label in ("lower-reference", "bundle-parameters"))
    members = member_names(single, bundled)
    assert members["caches"] == ["k_cache_0", "v_cache_0", "k_cache_1", "v_cache_1"]
    assert len(members["params"]) == len(bundled.params[-1].ty.fields)
    wanted = layer_of_bindings(single)
    with_names = layer_of_bindings(bundled, members)
    assert {name: with_names[name] for name in wanted if name.startswith(("attended", "merged", "lv8"))} == {
        name: wanted[name] for name in wanted if name.startswith(("attended", "merged", "lv8"))
    }
    # What is taken out of a tuple belongs where it is read; the embedding's table is read at both ends.
    by_weight = {
        members["params"][int(binding.value.index)]: with_names[binding.var.name]
        for binding in bundled.body.blocks[0].bindings
        if getattr(binding.value, "tuple_value", None) is not None and binding.value.tuple_value.name == "params"
    }
    assert {named_layer(name) == layer for name, layer in by_weight.items()} == {True}
    # Without names the caches tell all but what stands before the first layer and behind the last.
    without = layer_of_bindings(bundled)
    assert [without[name] for name in ("merged", "attended", "merged1", "merged2", "attended1", "merged3")] == [
        0, 0, 0, 1, 1, 1,
    ]  # fmt: skip
    assert member_names(bundled, single) == {}
