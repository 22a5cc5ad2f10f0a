"""A pass shown on the small module that it brings along."""

from __future__ import annotations

import tvm

import vamc_py.dialect  # noqa: F401  R.vamc in TVMScript
from vamc_py.errors import UserError
from vamc_py.inspect.script import small_script
from vamc_py.pipeline.base import Context, Pass
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import Program, layout
from vamc_py.target.description import OPTIONAL, REQUIRED, TargetDescription
from vamc_py.weights.plan import Cast, ParameterPlan, Recipe


def run_example(kind: type[Pass]) -> tuple[str, str]:
    """The example of a pass before and after it runs with its default options, as TVMScript for reading.

    UserError where it has none, or one that TVM cannot read or the pass cannot run on.
    """
    try:
        before = example_program(kind.example)
        after = kind().apply(before, example_context(kind))
    except Exception as error:  # the class may be anybody's
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
        raise UserError(f"the example of the pass {kind.name} does not run: {reason}") from error
    return _text(before), _text(after)


def _text(program: Program) -> str:
    lines = small_script(program).splitlines()
    return "\n".join(line for line in lines[1:] if not line.startswith("# Shortened")).strip() + "\n"


def example_program(text: str) -> Program:
    """The program of a module in TVMScript, bindings named and ordered as passes leave them.

    Each weight is the checkpoint's tensor of its name, as float32.
    """
    program = Program(tvm.script.from_source(text), ParameterPlan())
    weights = [weight.name for weight in layout(program.function)[2]]
    plan = ParameterPlan({name: Recipe((name,), (Cast("float32"),)) for name in weights})
    return program.with_function(Graph(program.function).rebuild(), plan=plan)


def example_context(kind: type[Pass]) -> Context:
    """A context for the pass's first target; a CPU that has everything, as nothing is compiled."""
    target = "llvm" if "llvm" in kind.targets else kind.targets[0]
    description = TargetDescription(target, "generic", 1, (*REQUIRED, *OPTIONAL), "fp32")
    return Context(description, prefill=64, context=128, formats=kind.example_formats)
