"""The whole YAML as one model, and the answers that the compiler takes from it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vamc_py.config.backend import Backend
from vamc_py.config.cpus import NATIVE
from vamc_py.config.dataset import Dataset, Graph
from vamc_py.config.frontend import Frontend, QuantizeType, nesting
from vamc_py.config.passes import PassChange
from vamc_py.config.section import Section, on
from vamc_py.target.vacc import device


class Workspace(Section):
    """Where the artifact goes and how vamc's own tool runs."""

    path: str = Field(
        default="./vacc_deploy",
        min_length=1,
        description="The artifact is written to `<workspace.path>/<name>/`. Relative to the current directory.",
    )
    workers: int = Field(
        default=1, ge=1, le=4096, description="Parallel processes of vamc's compiler.", json_schema_extra=on()
    )
    pyenv: dict[str, str] | None = Field(
        default=None,
        description="Package versions for vamc's frontend. vamc-py runs in the environment it is installed in.",
        json_schema_extra=on(),
    )
    env_recheck: bool | None = Field(
        default=None, description="Whether vamc checks `pyenv` again.", json_schema_extra=on()
    )
    enable_ir: bool | None = Field(
        default=None,
        description="Keep the IR of every pass in the artifact's folder `ir/`, for `vamc-py ir` and `vamc-py report`. "
        "Left out: kept.",
        json_schema_extra=on("vacc", "llvm"),
    )
    save_log: bool | None = Field(
        default=None,
        description="Write `<workspace.path>/<name>.log`, as `-v` does.",
        json_schema_extra=on("vacc", "llvm"),
    )


class Config(Section):
    """A vamc configuration.

    Made by ``load_config``, which also checks the rules between keys (``rules.py``).
    """

    name: str = Field(
        min_length=1,
        max_length=200,
        pattern=r"^[^/\\\x00-\x1f\x7f]+$",
        description="Name of the artifact's folder. vamc's habit: `<model>-<fp16|int8>-tp<N>-<prefill>-<context>`.",
    )
    frontend: Frontend = Field(description="The checkpoint and what is traced from it.")
    backend: Backend = Field(description="What is compiled for.")
    passes: tuple[PassChange, ...] = Field(
        default=(),
        description="Changes to the passes that the target runs, applied in order: options, other passes, another "
        "order. Left out: the target's own list (`vamc-py passes --pipeline CONFIG` prints what runs).",
    )
    graph: Graph | None = Field(default=None, description="Changes to other networks' graphs.", json_schema_extra=on())
    dataset: Dataset | None = Field(default=None, description="Calibration data.")
    workspace: Workspace = Field(default_factory=Workspace, description="Where the artifact goes.")

    @property
    def target(self) -> str:
        """``vacc``, ``llvm`` or ``cuda``."""
        return self.backend.type.removeprefix("tvm_")

    @property
    def language_model(self) -> bool:
        """Whether this is a language model, whose ``input_ids`` are ``[[prefill lengths], [context lengths]]``."""
        if self.frontend.type == "onnx":  # graphs of other networks have flat shapes
            return nesting(self.frontend.shape.input_ids) == "<nested>"
        return self.frontend.type in ("huggingface", "gguf") and not self.frontend.model_kwargs.build_visual

    @property
    def prefill_length(self) -> int:
        """Most tokens of one step. ValueError for a network that is not a language model."""
        return max(self._lengths[0])

    @property
    def context_length(self) -> int:
        """Most positions of one sequence; the prefill length where the file asks for prefill only."""
        prefill, context = self._lengths
        return max(context or prefill)

    @property
    def prefill_only(self) -> bool:
        """Whether the context list is empty, as embedding models have it."""
        return not self._lengths[1]

    @property
    def quantize_type(self) -> QuantizeType | None:
        """What ``frontend.quantize.type`` comes to: ``w8a16`` for int8 when the file says nothing, and where
        ``rounds_without_data``.

        None for floats, and for networks that are not language models (``backend.quantize`` is theirs).
        """
        quantize = self.frontend.quantize
        if quantize is not None and quantize.type is not None:
            return "w8a16" if self.rounds_without_data else quantize.type
        return "w8a16" if self.backend.dtype == "int8" and self.language_model else None

    @property
    def rounds_without_data(self) -> bool:
        """Whether GPTQ is asked for and there are no data for it, on vacc: vamc's public int8 files are so."""
        quantize = self.frontend.quantize
        asked = quantize is not None and quantize.type == "w8a16_gptq"
        return asked and self.target == "vacc" and self.dataset is None

    @property
    def kv8(self) -> bool:
        """Whether the KV cache is int8."""
        quantize = self.frontend.quantize
        return quantize is not None and (quantize.kv8 or quantize.type == "w16kv8")

    @property
    def weight_rules(self) -> tuple[str, ...]:
        """``PATTERN=TYPE`` of ``frontend.quantize.rules``, then ``*=`` the type; empty where that would say nothing."""
        quantize = self.frontend.quantize
        rules = () if quantize is None else tuple(f"{rule.match}={rule.type}" for rule in quantize.rules)
        kind = self.quantize_type
        return (*rules, f"*={kind}") if rules or kind not in (None, "w8a16", "w16kv8") else ()

    @property
    def quantize_lm_head(self) -> bool:
        """Whether lm_head and the embedding are int8 too: as the file says, else the target's default."""
        if self.backend.dtype != "int8":
            return False
        quantize = self.frontend.quantize
        if quantize is not None and quantize.lm_head is not None:
            return quantize.lm_head
        return self.target == "llvm"

    @property
    def card(self) -> str:
        """The card of vacc that ``backend.target`` names. UserError where it names none."""
        name = self.backend.target
        return device.DEFAULT if name == NATIVE else device.canonical(name)

    @property
    def device(self) -> device.Device:
        """The device of vacc: that card with the figures of ``backend.device``."""
        return device.Device.named(self.card, self.backend.device.changes())

    @property
    def artifact_dir(self) -> Path:
        """``<workspace.path>/<name>``."""
        return Path(self.workspace.path) / self.name

    @property
    def _lengths(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        shape = self.frontend.shape.input_ids
        if shape is None or not self.language_model:
            raise ValueError(f"{self.name} is not a language model: it has no prefill and context lengths")
        prefill, context = shape
        if isinstance(prefill, int) or isinstance(context, int):
            raise ValueError(f"{self.name}: input_ids is the shape of a graph's input, not lengths")
        return prefill, context
