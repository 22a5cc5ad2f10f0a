"""What validates but does not compile yet, and combinations that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from vamc_py.config.load import LoadedConfig
from vamc_py.errors import ConfigError

COMPILED_TARGETS = ("llvm",)
COMPILED_FRONTENDS = ("huggingface", "gguf")
COMPILED_QUANTIZATIONS = ("w8a16",)


def check_compilable(loaded: LoadedConfig) -> None:
    """Pass a configuration that this version compiles.

    :raises ConfigError: with every reason why it does not, each at its place and with what to change.
    """
    faults = [*_target(loaded), *_frontend(loaded), *_quantize(loaded)]
    if faults:
        raise ConfigError(faults)


def _target(loaded: LoadedConfig) -> Iterator[str]:
    if loaded.config.target not in COMPILED_TARGETS:
        yield loaded.fault(
            "backend.type",
            f"{loaded.config.backend.type} is not there yet; this version compiles for tvm_llvm "
            "(--set backend.type=tvm_llvm)",
        )


def _frontend(loaded: LoadedConfig) -> Iterator[str]:
    config = loaded.config
    if config.frontend.type not in COMPILED_FRONTENDS:
        yield loaded.fault(
            "frontend.type",
            f"{config.frontend.type} is not there yet; this version compiles language models of type "
            f"{' and '.join(COMPILED_FRONTENDS)}",
        )
    elif config.frontend.model_kwargs.build_visual:
        yield loaded.fault("frontend.model_kwargs.build_visual", "vision towers are not there yet")
    elif config.prefill_only:
        yield loaded.fault(
            "frontend.shape.input_ids",
            "prefill only (an empty context list) is not there yet; name a context length, such as "
            f"[[{config.prefill_length}], [{2 * config.prefill_length}]]",
        )


def _quantize(loaded: LoadedConfig) -> Iterator[str]:
    config = loaded.config
    kind, dtype = config.quantize_type, config.backend.dtype
    if kind is not None and kind not in COMPILED_QUANTIZATIONS:
        yield loaded.fault(
            "frontend.quantize.type",
            f"{kind} is not there yet; int8 weights rounded to nearest are: --set frontend.quantize.type=w8a16",
        )
    elif dtype != "int8" and config.frontend.quantize is not None:
        written = "type" if kind else "lm_head" if config.frontend.quantize.lm_head else None
        if written:
            yield loaded.fault(
                f"frontend.quantize.{written}",
                f"contradicts backend.dtype {dtype}, which keeps floating-point weights; --set backend.dtype=int8, or "
                "--set frontend.quantize=null",
            )
