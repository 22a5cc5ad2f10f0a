"""What validates but does not compile yet, and combinations that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from vamc_py.activation import NO_BF16
from vamc_py.config.load import LoadedConfig
from vamc_py.config.quantize_rules import quantize_faults
from vamc_py.errors import ConfigError

COMPILED_TARGETS = ("llvm", "vacc")
VACC_TYPES = ("int8", "fp16")
COMPILED_FRONTENDS = ("huggingface", "gguf", "onnx")


def check_compilable(loaded: LoadedConfig) -> None:
    """Pass a configuration that this version compiles.

    :raises ConfigError: with every reason why it does not, each at its place and with what to change.
    """
    faults = [*_target(loaded), *_frontend(loaded), *quantize_faults(loaded)]
    if faults:
        raise ConfigError(faults)


def _target(loaded: LoadedConfig) -> Iterator[str]:
    if loaded.config.target not in COMPILED_TARGETS:
        yield loaded.fault(
            "backend.type",
            f"{loaded.config.backend.type} is not there yet; this version compiles for tvm_llvm and tvm_vacc "
            "(--set backend.type=tvm_llvm)",
        )
    if loaded.config.target == "vacc":
        yield from _vacc(loaded)


def _vacc(loaded: LoadedConfig) -> Iterator[str]:
    config = loaded.config
    if config.backend.dtype not in VACC_TYPES:
        yield loaded.fault(
            "backend.dtype",
            f"the vacc target has {' and '.join(VACC_TYPES)}, not {config.backend.dtype}; name one of them",
        )
    quantize = config.frontend.quantize
    if quantize is not None and quantize.activation == "bf16":
        yield loaded.fault(
            "frontend.quantize.activation",
            "the vacc target multiplies in float16 or, with int8_g32, int8_g64, int8_g128 or int8_token, in int8; "
            "name one of these, or leave it out for float16",
        )
    if quantize is not None and quantize.accept is not None:
        yield loaded.fault(
            "frontend.quantize.accept", "a simulation is too slow to measure perplexity; compile for tvm_llvm to do so"
        )


def _frontend(loaded: LoadedConfig) -> Iterator[str]:
    config = loaded.config
    if config.frontend.type not in COMPILED_FRONTENDS:
        yield loaded.fault(
            "frontend.type",
            f"{config.frontend.type} is not there yet; this version compiles language models of type "
            f"{', '.join(COMPILED_FRONTENDS)}",
        )
    elif config.frontend.type == "onnx" and not config.language_model:
        yield loaded.fault(
            "frontend.shape",
            "of ONNX graphs, this version compiles those of language models; for one, write input_ids: "
            "[[prefill lengths], [context lengths]], such as [[512], [2048]]",
        )
    elif config.frontend.type == "onnx" and config.frontend.adapters:
        yield loaded.fault("frontend.adapters", "an ONNX graph takes none; merge them before it is exported")
    elif config.frontend.model_kwargs.build_visual:
        yield loaded.fault("frontend.model_kwargs.build_visual", "vision towers are not there yet")
    elif config.prefill_only:
        yield loaded.fault(
            "frontend.shape.input_ids",
            "prefill only (an empty context list) is not there yet; name a context length, such as "
            f"[[{config.prefill_length}], [{2 * config.prefill_length}]]",
        )


def check_activation(loaded: LoadedConfig, *, bf16: bool) -> None:
    """Pass a configuration whose activation is one of the target's; ``bf16``: the target has AVX512-BF16.

    :raises ConfigError: for bf16 where it has not.
    """
    quantize = loaded.config.frontend.quantize
    if quantize is not None and quantize.activation == "bf16" and not bf16:
        raise ConfigError([loaded.fault("frontend.quantize.activation", NO_BF16)])
