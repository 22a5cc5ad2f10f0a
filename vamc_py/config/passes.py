"""The section ``passes``: changes to the list of passes that a target runs."""

from __future__ import annotations

from pydantic import Field

from vamc_py.config.section import Section


class PassChange(Section):
    """One change: a pass gets options, goes, moves or is added. Every change sees what those above it made."""

    name: str | None = Field(
        default=None,
        min_length=1,
        description="A pass by name (`vamc-py passes` lists them). One that runs several times is `simplify#1`, "
        "`simplify#2`, …, counted in the target's list. One that does not run yet is added.",
    )
    file: str | None = Field(
        default=None,
        min_length=1,
        description="In place of `name`: a class of your own, `path.py:Class`. The file's code runs on your machine.",
        json_schema_extra={"form": "`path.py:Class`"},
    )
    clear: bool | None = Field(
        default=None,
        description="In place of `name`, as the first entry: start from an empty list. The entries below it are the "
        "whole list, in their order.",
        json_schema_extra={"form": "`true`"},
    )
    options: dict[str, object] | None = Field(
        default=None,
        description="The pass's options; those not named keep their value. `vamc-py passes NAME` explains them.",
        json_schema_extra={"form": "mapping"},
    )
    after: str | None = Field(
        default=None,
        min_length=1,
        description="Runs directly behind this one. An added pass without `after` and `before` runs at the end of its "
        "stage.",
    )
    before: str | None = Field(default=None, min_length=1, description="Runs directly before this one.")
    off: bool | None = Field(default=None, description="Does not run.")
    again: bool | None = Field(
        default=None, description="One more run of a pass that runs already, which is then named by the next number."
    )


PASSES_EXAMPLE = """\
passes:
  - name: quantize-int8              # runs already: its options are set
    options: {lm_head: false}
  - name: fuse-residual              # does not run
    off: true
  - name: fuse-swiglu                # runs later than it would
    after: fuse-attention
  - name: simplify                   # once more
    again: true
    after: merge-linear
  - file: my_pass.py:MyPass          # a pass of your own; one of an installed package is added by its name
    after: kv-cache-layout
"""
