"""What a reader of a simulated device's text is told: that it is a simulation, and what the device model estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vamc_py.artifact.programs import Programs
from vamc_py.runstream.program import Program
from vamc_py.runstream.timing import simulate
from vamc_py.target.vacc.device import STATEMENT, Device


@dataclass(frozen=True)
class Simulation:
    """Of the programs of an artifact; the times of a run say how long the simulation took, not a device."""

    programs: Programs

    @property
    def device(self) -> str:
        """The name of the device model."""
        return self.programs.device.name

    @property
    def dies(self) -> int:
        """How many work together."""
        return self.programs.ranks

    def notice(self) -> str:
        """One line: no device computes here."""
        return (
            f"[a simulation of {_dies(self.dies)} of the device model {self.device}; times are of this machine, "
            "not of a device]"
        )

    def estimate(self) -> str:
        """One line: tokens a second by the device model, of a full prefill and of decoding, which reads the whole
        context at every position."""
        device, prefill, decode = self.programs.device, self.programs.prefill, self.programs.decode
        tokens, context = prefill[0].tokens, prefill[0].context
        return (
            f"[estimate for {_dies(self.dies)} of {self.device}: prefill of {tokens} tokens "
            f"{_rate(prefill, device):.1f} tokens/s, decode with a context of {context} "
            f"{_rate(decode, device):.1f} tokens/s. {STATEMENT}]"
        )


def _rate(programs: Sequence[Program], device: Device) -> float:
    """Tokens a second."""
    return programs[0].tokens / simulate(programs, device).seconds


def _dies(count: int) -> str:
    return "1 die" if count == 1 else f"{count} dies"
