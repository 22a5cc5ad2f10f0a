"""The figures of simulated stages as plain data, with what they assume."""

from __future__ import annotations

from typing import Any, Literal

from vamc_py.runstream.timing import Timeline
from vamc_py.runstream.usage import MatrixUsage, Usage, usage
from vamc_py.target.vacc.device import STATEMENT, Device

MOST_WAITS = 8
"""Of an engine."""
ASSUMPTIONS = (
    "One sequence. Every step of a stage takes the same time, as its program is static: prefill has all of its tokens, "
    "decode reads and scores every position of the context.",
    "The host's part is not counted: choosing the next token, handing it over, starting the program.",
    "Engines work in parallel; transfers in flight share DDR evenly; SSRAM is never short of bandwidth beside the "
    "matrix units' operands; nothing is lost to refresh, conflicts of banks or other users.",
    "A gather counts every index as found on its die.",
)


def summary(timelines: list[Timeline]) -> dict[str, Any]:
    """Of the stages of one artifact: ``statement``, ``assumptions``, the ``device`` with its figures' statuses, and for
    each stage its seconds, ``tokens_per_s`` and the usage of its dies, JSON all of it."""
    device = timelines[0].device
    return {
        "statement": STATEMENT,
        "assumptions": list(ASSUMPTIONS),
        "device": device_summary(device),
        "stages": {timeline.programs[0].stage: stage_summary(timeline) for timeline in timelines},
    }


def device_summary(device: Device) -> dict[str, Any]:
    """The name and the figures of a device."""
    return {"name": device.name, "figures": {fact.key: fact._asdict() for fact in device.facts()}}


def stage_summary(timeline: Timeline) -> dict[str, Any]:
    """Of one stage; dies whose programs cost the same are one entry of ``dies``."""
    program = timeline.programs[0]
    groups: dict[int, list[int]] = {}
    for rank, die in enumerate(timeline.dies):
        groups.setdefault(id(die), []).append(rank)
    return {
        "tokens": program.tokens,
        "context": program.context,
        "ranks": program.ranks,
        "commands": [len(one.commands) for one in timeline.programs],
        "memory": {
            "ssram": _planned(timeline, "ssram_bytes"),
            "ddr": _planned(timeline, "ddr_bytes"),
        },
        "seconds": timeline.seconds,
        "tokens_per_s": program.tokens / timeline.seconds if timeline.seconds else None,
        "dies": [{"ranks": ranks, **_die(usage(timeline, ranks[0]))} for ranks in groups.values()],
    }


def _planned(timeline: Timeline, memory: Literal["ssram_bytes", "ddr_bytes"]) -> dict[str, float]:
    """How far the plans of the dies' memories reach, the most of all dies."""
    size = max(getattr(program, memory) for program in timeline.programs)
    return {"bytes": size, "share": size / getattr(timeline.device, memory)}


def _die(found: Usage) -> dict[str, Any]:
    return {
        "engines": {
            name: {"commands": one.commands, "busy_s": one.busy_s, "share": one.share, "idle_s": one.idle_s}
            for name, one in found.engines.items()
        },
        "ddr": {"bytes": found.ddr_bytes, "burst_bytes": found.ddr_burst_bytes, "share_of_peak": found.ddr_share},
        "matrix": {**_matrix(found.matrix), "share_of_peak_over_stage": found.matrix_share},
        "linear": _matrix(found.linear),
        "communication": {"share": found.communication_share, "exposed_share": found.exposed_share},
        "waits": {
            name: [vars(wait) for wait in found.waits if wait.engine == name][:MOST_WAITS] for name in found.engines
        },
    }


def _matrix(found: MatrixUsage) -> dict[str, Any]:
    return {
        "operations": found.operations,
        "active_s": found.active_s,
        "stalled_s": found.stalled_s,
        "share_of_peak": found.share,
        "share_of_peak_while_active": found.share_active,
    }
