"""The section ``frontend.quantize.accept``: how far a quantized model may be from the float one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vamc_py.config.section import Section, on


class Accept(Section):
    """The gate of a compile.

    It measures the perplexity of the artifact and of the float model. Past the limit the worst layers get a wider type,
    as `rules` would give it, until the limit holds; where no width helps, the compile is refused.
    """

    ppl_increase: Annotated[float, Field(ge=0, le=1000)] = Field(
        default=0.01,
        description="By how much the perplexity may exceed that of the float model: 0.01 is one percent.",
        json_schema_extra=on("llvm"),
    )
    text: str = Field(
        min_length=1,
        description="A UTF-8 text file; a relative path starts at the current directory. It has no default, and "
        "`dataset` is none: on the text that a model was calibrated with it looks better than it is.",
        json_schema_extra=on("llvm"),
    )
    chunks: Annotated[int, Field(ge=1)] = Field(
        default=40, description="Windows of the text that are scored.", json_schema_extra=on("llvm")
    )
    context: Annotated[int, Field(ge=4)] = Field(
        default=512,
        description="Tokens of a window, of which the second half is scored; at most the context length.",
        json_schema_extra=on("llvm"),
    )
