"""What a command costs on a device, alone on its die: the rules of the model, one function each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vamc_py.errors import UserError
from vamc_py.runstream.program import Access, Collective, Command, Gather, KernelRecord, Launch, Transfer, Work
from vamc_py.target.vacc.device import Device

_ITEM_BYTES = {"mma_f16": 2, "mma_i8": 1}


@dataclass(frozen=True)
class Cost:
    """Of one command: ``seconds``, and behind them ``ddr_bytes`` at its share of DDR, where it has any."""

    seconds: float
    """Alone: of a kernel all of it, of a transfer its latency (and within SSRAM its bytes)."""
    ddr_bytes: float = 0.0
    """Bytes that DDR moves, whole bursts."""
    ddr_bytes_s: float = 0.0
    """Most of them a second: as fast as the engine takes its own bytes."""
    useful_bytes: float = 0.0
    """Bytes of DDR that the command asked for."""
    together: bool = False
    """Whether all dies have to be there before it starts."""


def costs(commands: Sequence[Command], kernels: dict[str, KernelRecord], ranks: int, device: Device) -> list[Cost]:
    """The cost of each command of a program.

    UserError for a kernel that the program does not have, or that runs on more cores than the device has.
    """
    for name, record in kernels.items():
        if len(record.work) > device.cores:
            raise UserError(f"the kernel {name} runs on {len(record.work)} cores, and {device.name} has {device.cores}")
    kernel_cost = {name: Cost(kernel_seconds(record, device)) for name, record in kernels.items()}
    found: list[Cost] = []
    for number, command in enumerate(commands):
        if isinstance(command, Launch):
            if command.kernel not in kernel_cost:
                raise UserError(
                    f"command {number} ({command.label}) launches {command.kernel}, which is no kernel here"
                )
            found.append(kernel_cost[command.kernel])
        elif isinstance(command, Collective):
            found.append(Cost(collective_seconds(command, ranks, device), together=True))
        else:
            found.append(transfer_cost(command, device))
    return found


def kernel_seconds(record: KernelRecord, device: Device) -> float:
    """The launch, and then the slowest core: each runs its intrinsics one after the other."""
    cores = (sum(work.count * intrinsic_seconds(work, device) for work in core) for core in record.work)
    return device.launch_s + max(cores, default=0.0)


def intrinsic_seconds(work: Work, device: Device) -> float:
    """One use of an intrinsic on one core.

    A matrix product takes as long as its tiles at the core's rate, or as reading its operands, whichever is longer.
    """
    if work.intrinsic in _ITEM_BYTES:
        m, n, k = work.sizes
        tile = device.matrix_tile
        padded = -(-m // tile) * -(-n // tile) * -(-k // tile) * tile**3
        rate = (device.fp16_flops if work.intrinsic == "mma_f16" else device.int8_ops) / device.cores
        operands = (m + n) * k * _ITEM_BYTES[work.intrinsic]
        return max(2 * padded / rate, operands / (device.operand_bytes * device.clock_hz))
    if work.intrinsic == "drain":
        (elements,) = work.sizes
        return elements / (device.drain_elements * device.clock_hz)
    elements, instructions = work.sizes
    return elements * instructions / (device.vector_lanes * device.clock_hz)


def matrix_operations(record: KernelRecord) -> dict[str, int]:
    """Operations of a kernel on all cores by intrinsic (``mma_f16``, ``mma_i8``): 2 m n k, no padding to tiles."""
    found: dict[str, int] = {}
    for core in record.work:
        for work in core:
            if work.intrinsic in _ITEM_BYTES:
                m, n, k = work.sizes
                found[work.intrinsic] = found.get(work.intrinsic, 0) + 2 * m * n * k * work.count
    return found


def transfer_cost(command: Transfer | Gather, device: Device) -> Cost:
    """The latency, and the bytes in DDR with the engine's rate.

    A row moves whole bursts of DDR; rows without a gap count as one. A copy from DDR to DDR reads and writes there. For
    a gather every index counts as one that is found.
    """
    if isinstance(command, Transfer):
        sides = [(side, 1) for side in (command.source, command.target) if side.memory == "ddr"]
        payload = command.target.bytes
    else:
        entries = command.index.size // 4
        sides = [
            (command.table, entries),
            *((side, 1) for side in (command.index, command.target) if side.memory == "ddr"),
        ]
        payload = command.target.bytes
    rate = device.dma_bytes_s[command.engine]
    bursts = sum(times * burst_bytes(side, device) for side, times in sides)
    if not bursts:
        return Cost(device.dma_latency_s + payload / rate)
    useful = sum(times * side.bytes for side, times in sides)
    return Cost(device.dma_latency_s, float(bursts), rate * bursts / payload, float(useful))


def burst_bytes(access: Access, device: Device) -> int:
    """Bytes that DDR moves for an access: each row a multiple of a burst, as if it began at one."""
    whole = access.rows == 1 or access.stride == access.size
    rows, size = (1, access.bytes) if whole else (access.rows, access.size)
    return rows * -(-size // device.burst_bytes) * device.burst_bytes


def collective_seconds(command: Collective, ranks: int, device: Device) -> float:
    """A ring over all dies, as fast as its slowest link: one between cards, where the dies of one do not suffice.

    all_reduce sends each piece round twice, 2 (R - 1) / R of the bytes; all_gather once, (R - 1) / R of the target's.
    """
    if ranks == 1:
        return 0.0
    far = ranks > device.dies
    rate = device.far_link_bytes_s if far else device.link_bytes_s
    latency = device.far_link_latency_s if far else device.link_latency_s
    rounds, size = (2, command.source.bytes) if command.kind == "all_reduce" else (1, command.target.bytes)
    return rounds * ((ranks - 1) / ranks * size / rate + (ranks - 1) * latency)
