"""What a compile is going to need, said before it starts, and refused where the machine has not that much."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from vamc_py.checkpoint import Checkpoint
from vamc_py.config import Config, LoadedConfig
from vamc_py.config.frontend import Quantize
from vamc_py.config.patterns import EMBEDDING, LM_HEAD, rule_of
from vamc_py.errors import ConfigError, UserError
from vamc_py.frontend.model_config import ModelConfig, expected_matrices, expected_tensors
from vamc_py.progress import say
from vamc_py.weights.calibration_plan import calibration_method, calibration_plan
from vamc_py.weights.formats import WeightFormat

# Of a compile without weights: torch, TVM and LLVM; it was 428 MB with 8 layers of Qwen3-0.6B's shape, 448 with 84.
_BASE = 430 << 20
_LAYER = 300 << 10
_MODULE = 30 << 20  # of disk: mod.so, the IR of all passes, the tokenizer
_SECONDS = 15  # trace, passes and build on two cores
_WEIGHTS_A_SECOND = 60e6  # read, quantized and written on one core
_PANEL = 64  # rows that are packed together, the last ones filled up
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Needs:
    """``memory``: the most at a time, anonymous and shared; ``disk``: in workspace.path; ``cache``: where calibrations
    are kept, all in bytes. ``seconds``: roughly, without a calibration."""

    memory: int
    disk: int
    cache: int
    seconds: float

    def __str__(self) -> str:
        disk = f"{_size(self.disk)} of disk"
        if self.cache:
            disk += f", {_size(self.cache)} where calibrations are kept"
        time = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        rest = ", beside the calibration, whose time its first layer tells" if self.cache else ""
        return f"needs about {_size(self.memory)} of memory and {disk}; about {time}{rest}"


def compile_needs(config: Config, checkpoint: Checkpoint, model: ModelConfig) -> Needs:
    """An upper estimate, from shapes and the configuration alone."""
    tensors = expected_tensors(model)
    weights = sum(math.prod(shape) for shape in tensors.values())
    parameters = sum(_bytes(name, shape, config, checkpoint) for name, shape in tensors.items())
    memory, cache = _BASE + _LAYER * model.layers, 0
    if (method := calibration_method(config)) is not None:
        from vamc_py.quant.dataset import wanted_samples
        from vamc_py.quant.needs import calibration_needs
        from vamc_py.quant.options import Options

        plan = calibration_plan(config, expected_matrices(model))
        arguments = config.frontend.quantize.calib_args if config.frontend.quantize else None
        samples = wanted_samples(config.dataset)
        calibration = calibration_needs(model, *samples, plan, method, Options.of(arguments, plan))
        # The program and the module are still there.
        memory, cache = memory + calibration.memory, calibration.disk
    return Needs(memory, parameters + _MODULE, cache, _SECONDS + weights / _WEIGHTS_A_SECOND)


def check_room(loaded: LoadedConfig, checkpoint: Checkpoint, model: ModelConfig) -> None:
    """Says what the compile needs.

    UserError where there is less memory, ConfigError where there is less disk than that.
    """
    needs = compile_needs(loaded.config, checkpoint, model)
    say(str(needs))
    memory = available_memory()
    if needs.memory > memory:
        raise UserError(
            f"the compile {needs}, and {_size(memory)} of memory are free: end other programs, or use a larger machine"
        )
    folder = Path(loaded.config.workspace.path).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if needs.disk > (free := shutil.disk_usage(existing).free):
        raise ConfigError(
            [
                loaded.fault(
                    "workspace.path", f"the compile {needs}, and {_size(free)} of disk are free there; make room"
                )
            ]
        )


def available_memory() -> int:
    """Bytes that this process may still take: what the machine has free, within the limit of its control group."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        # Pages of files are given back when they are wanted.
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no control groups, or "max": no limit
        return free
    return min(free, limit - used + int(stat.get("file", 0)) - int(stat.get("shmem", 0)))


def _bytes(name: str, shape: tuple[int, ...], config: Config, checkpoint: Checkpoint) -> int:
    """Bytes of a tensor of the model in the artifact."""
    form = checkpoint.quantized.get(name) or configured_format(name, config) if len(shape) == 2 else None
    if len(shape) != 2:
        return 4 * math.prod(shape)
    rows, columns = -(-shape[0] // _PANEL) * _PANEL, shape[1]
    if form is None:
        return rows * columns * (4 if config.backend.dtype == "fp32" else 2)
    scales = math.prod(form.scale_shape(rows, columns))
    return rows * columns * form.bits // 8 + scales * ((4 if form.scale == "float32" else 2) + form.zeros)


def configured_format(name: str, config: Config) -> WeightFormat | None:
    """What the configuration makes of a float weight; None for floats."""
    outer = name in (LM_HEAD, EMBEDDING)
    kind = rule_of(config.weight_rules, [name]) or "w8a16"
    if config.backend.dtype != "int8" or kind == "fp16" or (outer and not config.quantize_lm_head):
        return None
    quantize = config.frontend.quantize or Quantize()
    if kind.startswith("w4") and not outer:
        return WeightFormat("int4", quantize.group or 128, quantize.zeros, "float16")
    return WeightFormat("int8")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
