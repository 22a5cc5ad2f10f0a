"""Each kernel of a step against the machine's limits: the least time its work can take, and the time it took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from vamc_py.inspect.calls import Call
from vamc_py.inspect.costs import StepSize, arithmetic, cost
from vamc_py.inspect.measure import KernelTimes
from vamc_py.inspect.report_model import MachineLimits, Roofline, RooflinePoint

_LONGEST_PAST = 1024  # positions in the cache before the decode step that is shown


def decode_size(context: int) -> StepSize:
    """The decode step that is shown: one token after min(1024, half of the context) others."""
    return StepSize(tokens=1, rows=1, start=min(_LONGEST_PAST, context // 2), context=context)


def prefill_size(prefill: int, context: int) -> StepSize:
    """The prefill step that is shown: the longest one, at the beginning of a sequence, with the last token's logits."""
    return StepSize(tokens=min(prefill, context), rows=1, start=0, context=context)


def roofline(calls: Sequence[Call], size: StepSize, limits: MachineLimits, times: KernelTimes) -> Roofline:
    """The calls of one step summed by kernel, in the order in which the kernels first run.

    The peak is that of the numbers in which a call multiplies at this size (``costs.arithmetic``). ``times`` are
    seconds by kernel of one such step; for a kernel that is not among them ``measured_seconds`` is None. A kernel whose
    arguments lie in the processor's caches, as activations often do, can be faster than the memory's bandwidth has it.
    """
    by_kernel: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_kernel[call.symbol].append(call)
    points = (_point(same, size, limits, times.get(symbol)) for symbol, same in by_kernel.items())
    return Roofline(title=_title(size), points=tuple(points))


def _title(size: StepSize) -> str:
    tokens = f"{size.tokens} token{'s' if size.tokens != 1 else ''}"
    return f"decode: {tokens} after {size.start}" if size.start else f"prefill: {tokens}"


def _point(calls: Sequence[Call], size: StepSize, limits: MachineLimits, seconds: float | None) -> RooflinePoint:
    costs = [cost(call, size) for call in calls]
    moved, operations = sum(one.bytes for one in costs), sum(one.operations for one in costs)
    reading = moved / limits.bandwidth
    computing = sum(one.operations / _peak(call, size, limits) for one, call in zip(costs, calls, strict=True))
    return RooflinePoint(
        kernel=calls[0].symbol,
        kind=calls[0].operator,
        calls=len(calls),
        bytes=moved,
        operations=operations,
        least_seconds=max(reading, computing),
        bound="memory" if reading >= computing else "arithmetic",
        measured_seconds=seconds,
    )


def _peak(call: Call, size: StepSize, limits: MachineLimits) -> float:
    peaks = {"int8": limits.int8_peak, "bf16": limits.bf16_peak, "fp32": limits.float_peak}
    return peaks[arithmetic(call, size)] or limits.float_peak  # a machine without bfloat16 multiplies its floats
