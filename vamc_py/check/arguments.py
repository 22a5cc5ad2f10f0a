"""The arguments of ``main`` and ``step`` for the steps of a scenario, and the logits in their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax

from vamc_py.check.scenario import SLOTS, Call, Row, Scenario, rows_of
from vamc_py.check.torch_reference import causal_mask
from vamc_py.check.values import Array, Result, Value
from vamc_py.dialect.attention import CACHE_BLOCK
from vamc_py.pipeline.program import MAIN, MASK_ATTRIBUTE, Program
from vamc_py.weights.plan import numpy_dtype


class Arguments:
    """The state of one run over a scenario: the past of each sequence, or the caches.

    ``members`` are the names of what tuples hold: {"caches": [...], "params": [...]}; ``weights`` the values by name.
    """

    def __init__(
        self, program: Program, scenario: Scenario, weights: Mapping[str, Value], members: Mapping[str, list[str]]
    ) -> None:
        self.program = program
        self._scenario = scenario
        self._weights = weights
        self._members = members
        self._past: dict[int, list[Value]] = {}  # main: by sequence
        self._caches: dict[str, Value] = {}
        self._pages = _pages(scenario)

    def of(self, call: Call) -> list[Result]:
        """One for each parameter of the function. The caches are the same for all steps, to be changed in place."""
        inputs = self._main_inputs(call) if self.program.name == MAIN else self._step_inputs(call)
        return [self._argument(parameter, inputs) for parameter in self.program.function.params]

    def is_cache(self, value: Value) -> bool:
        """Whether the value is a cache, which changes while the function runs."""
        return any(value is cache for cache in self._caches.values())

    def logits(self, call: Call, result: Result) -> dict[Row, Array]:
        """The rows of logits in what the function returned; of ``main`` the grown past is kept for the next step."""
        first = result[0] if isinstance(result, tuple) else result
        assert isinstance(first, Value)
        rows = first.array.reshape(-1, first.shape[-1])
        if self.program.name == MAIN:
            assert isinstance(result, tuple)
            self._past[call[0].sequence] = [value for value in result[1:] if isinstance(value, Value)]
        wanted = list(rows_of(call))[-len(rows) :]  # after strided-slice main gives the last token's alone
        return dict(zip(wanted, rows, strict=True))

    def _argument(self, parameter: Any, inputs: Mapping[str, Array]) -> Result:
        name, kind = str(parameter.name), parameter.ty
        if isinstance(kind, relax.TupleType):
            names = self._members[name]
            return tuple(
                self._weights[one] if name == "params" else self._cache(one, field)
                for one, field in zip(names, kind.fields, strict=True)
            )
        if name in inputs:
            return Value(np.asarray(inputs[name]).astype(numpy_dtype(str(kind.dtype))))
        return self._weights[name] if name in self._weights else self._cache(name, kind)

    def _main_inputs(self, call: Call) -> dict[str, Any]:
        (run,) = call
        tokens = self._scenario.sequences[run.sequence]
        ones = str(self.program.function.attrs[MASK_ATTRIBUTE]) == "ones"
        mask = causal_mask(len(run.positions), run.first, "ones" if ones else "additive")
        inputs = {
            "input_ids": tokens[None, run.first : run.stop],
            "attention_mask": mask.numpy(),
            "position_ids": np.arange(run.first, run.stop)[None],
        }
        past = self._past.get(run.sequence)
        kept = [p for p in self.program.function.params if str(p.name).startswith("past_")]
        for index, parameter in enumerate(kept):
            one, heads, _, dim = parameter.ty.shape
            empty = np.zeros((int(one), int(heads), 0, int(dim)), np.float32)
            inputs[str(parameter.name)] = empty if past is None else past[index].array
        return inputs

    def _step_inputs(self, call: Call) -> dict[str, Any]:
        runs = [(run, self._scenario.sequences[run.sequence]) for run in call]
        tokens = np.concatenate([sequence[run.first : run.stop] for run, sequence in runs])
        return {
            "tokens": tokens,
            "positions": np.concatenate([np.array(run.positions) for run in call]),
            "slots": np.concatenate([np.full(len(run.positions), SLOTS[run.sequence]) for run in call]),
            "rows": np.arange(len(tokens)),
            "pages": self._pages,
        }

    def _cache(self, name: str, kind: Any) -> Value:
        if name not in self._caches:
            sizes = {"num_pages": int(self._pages.max()) + 1, "blocks": 1}
            shape = [sizes[str(d)] if str(d) in sizes else int(d) for d in kind.shape]
            # What was never written must not be read; were it zero, that would not show.
            garbage = np.random.default_rng(len(self._caches)).standard_normal(shape) * 5
            self._caches[name] = Value(garbage.astype(numpy_dtype(str(kind.dtype))))
        return self._caches[name]


def _pages(scenario: Scenario) -> Array:
    """i32 [slots, pages of a slot], pages of one block, in no order, with one that belongs to nobody."""
    longest = max(len(sequence) for sequence in scenario.sequences)
    count = -(-longest // CACHE_BLOCK)
    order = np.arange(count * len(SLOTS), 0, -1)  # page 0 is nobody's
    return order.reshape(count, len(SLOTS)).T.astype(np.int32)
