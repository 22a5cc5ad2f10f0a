"""What validates but does not compile yet, and combinations that contradict each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vamc_py.activation import NO_BF16
from vamc_py.config.load import LoadedConfig
from vamc_py.config.patterns import LM_HEAD, matches, without_match
from vamc_py.errors import ConfigError

COMPILED_TARGETS = ("llvm",)
COMPILED_FRONTENDS = ("huggingface", "gguf", "onnx")
COMPILED_QUANTIZATIONS = ("w8a16",)
EMBEDDING = "model.embed_tokens.weight"


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
            f"{', '.join(COMPILED_FRONTENDS)}",
        )
    elif config.frontend.type == "onnx" and not config.language_model:
        yield loaded.fault(
            "frontend.shape",
            "of ONNX graphs, this version compiles those of language models; for one, write input_ids: "
            "[[prefill lengths], [context lengths]], such as [[512], [2048]]",
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
        quantize = config.frontend.quantize
        written = [key for key in ("type", "lm_head", "activation", "wide") if getattr(quantize, key)]
        if written:
            yield loaded.fault(
                f"frontend.quantize.{written[0]}",
                f"contradicts backend.dtype {dtype}, which keeps floating-point weights; --set backend.dtype=int8, or "
                "--set frontend.quantize=null",
            )
    elif config.frontend.quantize and config.frontend.quantize.wide and config.frontend.quantize.activation == "int16":
        yield loaded.fault(
            "frontend.quantize.wide",
            "says nothing beside activation int16, which keeps 16 bits for all weights; remove it, or choose another "
            "activation",
        )


def check_activation(loaded: LoadedConfig, *, bf16: bool) -> None:
    """Pass a configuration whose activation is one of the target's; ``bf16``: the target has AVX512-BF16.

    :raises ConfigError: for bf16 where it has not.
    """
    quantize = loaded.config.frontend.quantize
    if quantize is not None and quantize.activation == "bf16" and not bf16:
        raise ConfigError([loaded.fault("frontend.quantize.activation", NO_BF16)])


def check_wide(loaded: LoadedConfig, matrices: Iterable[str], *, tied: bool) -> None:
    """Pass a configuration whose ``frontend.quantize.wide`` names weights of the model.

    :param matrices: names of the model's tensors of two dimensions in the checkpoint.
    :param tied: the output projection has the weight of the embedding; it goes by the name of lm_head, too.
    :raises ConfigError: for each pattern that fits none of the int8 weights of linear layers.
    """
    quantize = loaded.config.frontend.quantize
    outer = {LM_HEAD: loaded.config.quantize_lm_head, EMBEDDING: loaded.config.quantize_lm_head and tied}
    names = [name for name in dict.fromkeys((*matrices, LM_HEAD)) if outer.get(name, True)]
    wrong = [
        loaded.fault(f"frontend.quantize.wide[{index}]", without_match(pattern, names))
        for index, pattern in enumerate((quantize.wide if quantize else None) or ())
        if not any(matches(pattern, name) for name in names)
    ]
    if wrong:
        raise ConfigError(wrong)
