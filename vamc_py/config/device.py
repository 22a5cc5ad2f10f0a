"""The section ``backend.device``: figures of the device model that a configuration changes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from vamc_py.config.section import Section
from vamc_py.target.vacc import device


def _figure(key: str) -> Any:
    return Field(default=None, gt=0, description=device.meaning(key))


class DeviceFigures(Section):
    """Figures of a die of vacc, SI units; what is left out is as the card's file says (`docs/vacc.md` lists them).

    The matrix tile is not among them: kernels and the layout of weights are written for 16.
    """

    dies: int | None = _figure("dies")
    cores: int | None = _figure("cores")
    clock_hz: float | None = _figure("clock_hz")
    int8_ops: float | None = _figure("int8_ops")
    fp16_flops: float | None = _figure("fp16_flops")
    operand_bytes: int | None = _figure("operand_bytes")
    drain_elements: int | None = _figure("drain_elements")
    vector_lanes: int | None = _figure("vector_lanes")
    launch_s: float | None = _figure("launch_s")
    ssram_bytes: int | None = _figure("ssram_bytes")
    ddr_bytes: int | None = _figure("ddr_bytes")
    ddr_bytes_s: float | None = _figure("ddr_bytes_s")
    burst_bytes: int | None = _figure("burst_bytes")
    idma_bytes_s: float | None = _figure("idma_bytes_s")
    odma_bytes_s: float | None = _figure("odma_bytes_s")
    wddma_bytes_s: float | None = _figure("wddma_bytes_s")
    cdma_bytes_s: float | None = _figure("cdma_bytes_s")
    dma_latency_s: float | None = _figure("dma_latency_s")
    link_bytes_s: float | None = _figure("link_bytes_s")
    link_latency_s: float | None = _figure("link_latency_s")
    far_link_bytes_s: float | None = _figure("far_link_bytes_s")
    far_link_latency_s: float | None = _figure("far_link_latency_s")

    def changes(self) -> dict[str, int | float]:
        """The figures that are written."""
        return self.model_dump(exclude_none=True)
