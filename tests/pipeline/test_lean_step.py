"""What is left between two kernels: the same results by fewer instructions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from vamc_py.pipeline.build import lowering
from vamc_py.pipeline.graph import bindings
from vamc_py.pipeline.lean_step import drop_checks, share_tensors

TARGET = tvm.target.Target({"kind": "llvm"})
LAYERS = 5


def chain() -> tvm.IRModule:
    """``main(x f32[n, 8], (w0 f32[8, 8], …)) -> f32[n, 8]``: products one behind the other, through two storages."""
    builder = relax.BlockBuilder()
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType([n, 8], "float32"))
    weights = relax.Var("weights", relax.TupleType([relax.TensorType([8, 8], "float32")] * LAYERS))
    with builder.function("main", [x, weights], attrs={"tir_var_upper_bound": {"n": 16}}):
        with builder.dataflow():
            value = x
            for layer in range(LAYERS):
                value = builder.emit(relax.op.matmul(value, relax.TupleGetItem(weights, layer)))
            result = builder.emit_output(value)
        builder.emit_func_output(result)
    return builder.get()


def instructions(module: tvm.IRModule) -> Counter[str]:
    """How often ``main`` calls what."""
    found: Counter[str] = Counter()
    for _, value in bindings(module["main"]):
        if isinstance(value, relax.Call):
            name = getattr(value.op, "name", None) or getattr(value.op, "global_symbol", None) or value.op.name_hint
            found[str(name)] += 1
    return found


def run(module: tvm.IRModule, x: Any, weights: list[Any], passes: tvm.transform.Pass) -> Any:
    with TARGET:
        lowered = passes(module)
    machine = relax.VirtualMachine(tvm.compile(lowered, target=TARGET, relax_pipeline=None), tvm.cpu())
    tensors = tuple(tvm.runtime.tensor(weight) for weight in weights)
    return machine["main"](tvm.runtime.tensor(x), tensors).numpy()


def planned(module: tvm.IRModule) -> tvm.IRModule:
    passes = relax.transform
    steps = [passes.LegalizeOps(), passes.ToNonDataflow(), passes.RemovePurityChecking(), passes.CallTIRRewrite()]
    with TARGET:
        return tvm.transform.Sequential([*steps, passes.StaticPlanBlockMemory(), passes.LowerAllocTensor()])(module)


def test_tensors_at_one_place_become_one() -> None:
    before = planned(chain())
    after = share_tensors(before)
    count = "relax.memory.alloc_tensor"
    assert instructions(before)[count] == LAYERS
    assert instructions(after)[count] == 3  # two places in turn, and the result's
    assert instructions(before) - instructions(after) == Counter({count: LAYERS - 3})
    assert instructions(planned(chain())) == instructions(before)  # what was given is as it was


def test_tensors_of_other_shapes_stay_apart() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([4, 8], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            value = builder.emit(relax.op.exp(x))
            value = builder.emit(relax.op.reshape(relax.op.exp(value), [8, 4]))
            result = builder.emit_output(relax.op.sum(relax.op.exp(value), axis=1))
        builder.emit_func_output(result)
    before = planned(builder.get())
    shapes = {str(value.args[2]) for _, value in bindings(before["main"]) if len(getattr(value, "args", ())) == 5}
    shared = share_tensors(before)
    left = {str(value.args[2]) for _, value in bindings(shared["main"]) if len(getattr(value, "args", ())) == 5}
    assert left == shapes


def test_checks_of_plain_arguments_stay_and_those_of_tuples_go() -> None:
    with TARGET:
        lowered = relax.transform.VMShapeLower()(relax.transform.LowerRuntimeBuiltin()(planned(chain())))
    before, after = instructions(lowered), instructions(drop_checks(lowered))
    assert before["vm.builtin.check_tensor_info"] == 1 + LAYERS  # the argument, and the tuple's fields
    assert after["vm.builtin.check_tensor_info"] == 1
    assert after["vm.builtin.match_shape"] == 1  # it gives n its value
    kernels = {name: count for name, count in before.items() if name.startswith("matmul")}
    assert kernels.items() <= after.items()


def test_a_dimension_that_only_a_field_of_a_tuple_has_is_still_read() -> None:
    builder = relax.BlockBuilder()
    m = tvm.tirx.Var("m", "int64")
    pair = relax.Var("pair", relax.TupleType([relax.TensorType([m, 4], "float32")] * 2))
    with builder.function("main", [pair]):
        with builder.dataflow():
            both = relax.op.add(relax.TupleGetItem(pair, 0), relax.TupleGetItem(pair, 1))
            result = builder.emit_output(builder.emit(both))
        builder.emit_func_output(result)
    with TARGET:
        machine = relax.VirtualMachine(
            tvm.compile(lowering()(builder.get()), target=TARGET, relax_pipeline=None), tvm.cpu()
        )
    for rows in (1, 6):
        part = np.full((rows, 4), 1.5, np.float32)
        tensors = (tvm.runtime.tensor(part), tvm.runtime.tensor(part))
        np.testing.assert_array_equal(machine["main"](tensors).numpy(), 2 * part)


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_results_are_the_same(rows: int) -> None:
    random = np.random.default_rng(rows)
    x = random.normal(size=(rows, 8)).astype(np.float32)
    weights = [random.normal(size=(8, 8)).astype(np.float32) for _ in range(LAYERS)]
    plain = relax.get_default_pipeline(TARGET)
    np.testing.assert_array_equal(run(chain(), x, weights, lowering()), run(chain(), x, weights, plain))


def test_an_argument_of_another_type_is_still_refused() -> None:
    with TARGET:
        machine = relax.VirtualMachine(tvm.compile(lowering()(chain()), target=TARGET, relax_pipeline=None), tvm.cpu())
    tensors = tuple(tvm.runtime.tensor(np.zeros((8, 8), np.float32)) for _ in range(LAYERS))
    with pytest.raises(Exception, match="float32"):
        machine["main"](tvm.runtime.tensor(np.zeros((2, 8), np.float64)), tensors)
