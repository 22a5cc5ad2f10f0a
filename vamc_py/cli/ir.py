"""``vamc-py ir``: the programs between the import and the build; shown, compared, and passes tried on them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vamc_py.inspect.dump import Dump
    from vamc_py.inspect.report_model import FunctionChange

_COLOURS = {"- ": "red", "+ ": "green", "@@": "cyan"}


class Form(StrEnum):
    """What a kernel is shown as."""

    tir = "tir"
    llvm = "llvm"
    asm = "asm"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    ir = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Look into the folder that `compile --dump-ir` wrote, or into an artifact.",
    )
    ir.command("show")(show)
    ir.command("diff")(diff)
    ir.command("kernel")(kernel)
    ir.command("apply")(apply)
    ir.command("build")(build)
    app.add_typer(ir, name="ir")


def show(
    dump: Annotated[str, typer.Argument(metavar="DUMP", help="Folder of a dump, or an artifact.")],
    stage: Annotated[str | None, typer.Argument(metavar="STAGE", help="Index, label, or last.")] = None,
    function: Annotated[str | None, typer.Option(metavar="NAME", help="This function only: main, step.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print TVM's exact JSON of the module.")] = False,
) -> None:
    """List the stages of a compile, or show the program after one of them.

    Example: vamc-py ir show dump merge-linear --function step
    """
    from vamc_py.errors import UserError
    from vamc_py.inspect.dump import open_dump

    opened = open_dump(Path(dump))
    if stage is None:
        if function is not None or as_json:
            raise UserError("name a stage to show; `vamc-py ir show DUMP` lists them")
        _print(_stage_lines(opened))
        return
    program = opened.program(opened.find(stage))
    if as_json:
        import tvm

        if function is not None:
            raise UserError("--json gives the whole module; leave out --function")
        _print([str(tvm.ir.save_json(program.module))])
        return
    from vamc_py.inspect.script import small_script

    names = [str(gv.name_hint) for gv in program.module.get_global_vars()]
    if function is not None and function not in names:
        raise UserError(f"there is no function {function} after {stage}; there are {', '.join(sorted(names))}")
    _print(small_script(program, function).splitlines())


def diff(
    first: Annotated[str, typer.Argument(metavar="PATH[:STAGE]", help="A stage of a dump; without STAGE its last.")],
    second: Annotated[str | None, typer.Argument(metavar="[PATH[:STAGE]]", help="The stage to compare with.")] = None,
) -> None:
    """Show what the pass of a stage changed, or the difference of two stages, by binding.

    Variables that only have another name are no difference; what all layers have in common is shown once. The two
    stages may be of two dumps.

    Example: vamc-py ir diff dump:raise-rms-norm
    """
    from vamc_py.inspect.stages import changes_between, changes_of_stage, open_stage

    stage = open_stage(first)
    _print_changes(changes_of_stage(stage) if second is None else changes_between(stage, open_stage(second)))


def kernel(
    path: Annotated[str, typer.Argument(metavar="PATH[:STAGE]", help="A stage of a dump; without STAGE its last.")],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The kernel; without it all are listed.")] = None,
    form: Annotated[Form, typer.Option("--as", help="The source, or what it is compiled to.")] = Form.tir,
) -> None:
    """Show a kernel as TIR, LLVM IR or assembly, or list the kernels.

    Example: vamc-py ir kernel dump rms_norm_1024 --as asm
    """
    from vamc_py.errors import UserError
    from vamc_py.inspect.kernel_diff import kernel_summary
    from vamc_py.inspect.kernel_source import kernel_names, kernel_source
    from vamc_py.inspect.stages import open_stage

    stage = open_stage(path)
    module = stage.program.module
    if not kernel_names(module) and stage.dump.context().target.kind == "vacc":
        raise UserError(
            f"{stage.dump.folder}: no kernels here: those of vacc are chosen behind the passes; `vamc-py runstream "
            "show ARTIFACT` names them"
        )
    if name is None:
        _print([kernel_summary(one, module[one]).removeprefix("kernel ") for one in kernel_names(module)])
    else:
        _print(kernel_source(module, name, form.value, stage.dump.context().target).splitlines())


def apply(
    path: Annotated[str, typer.Argument(metavar="PATH[:STAGE]", help="A stage of a dump; without STAGE its last.")],
    name: Annotated[str, typer.Argument(metavar="PASS", help="Name of a pass, or file.py:Class.")],
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the pass, read as YAML; may be given again."),
    ] = None,
) -> None:
    """Run one pass on the program after a stage and show what it changes. Nothing is written.

    Example: vamc-py ir apply dump:merge-linear my_pass.py:MyPass --option limit=3
    """
    from vamc_py.inspect.stages import changes_of_pass, open_stage

    changes, notes = changes_of_pass(open_stage(path), name, _parsed(options or ()))
    _print_changes(changes)
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def build(
    path: Annotated[str, typer.Argument(metavar="PATH[:STAGE]", help="A stage of a dump; without STAGE its last.")],
) -> None:
    """Build the module after a stage in memory, as compile does; operators without a kernel run by their reference.

    Nothing is written: this is for a fault of the build, which it shows without the checkpoint.

    Example: vamc-py ir build dump:fuse-attention
    """
    from vamc_py.inspect.stages import build_stage, open_stage
    from vamc_py.progress import stage

    opened = open_stage(path)
    with stage("build"):
        build_stage(opened)


def _parsed(options: Iterable[str]) -> dict[str, object]:
    """The options by name. UserError for what is no KEY=VALUE."""
    import yaml

    from vamc_py.errors import UserError

    parsed: dict[str, object] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UserError(f"--option {option}: must be KEY=VALUE")
        try:
            parsed[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--option {option}: the value is no YAML; quote it") from None
    return parsed


def _stage_lines(dump: Dump) -> Iterable[str]:
    """The stages as a table: what each is called, how long it took, how many calls it left, what it does."""
    stages = dump.index.stages
    width = max((len(stage.label) for stage in stages), default=0)
    yield f"{'':>3}  {'stage':<{width}}  {'ms':>7}  {'calls':>5}  what it does"
    for stage in stages:
        seconds = dump.times.get(stage.label)
        time = "" if seconds is None else f"{seconds * 1000:.1f}"
        did = stage.summary if stage.changed or stage.index == 0 else f"(changed nothing) {stage.summary}"
        calls = sum(stage.operators.values())
        yield f"{stage.index:>3}  {stage.label:<{width}}  {time:>7}  {calls:>5}  {did}".rstrip()


def _print_changes(changes: Iterable[FunctionChange]) -> None:
    from vamc_py.inspect.diff import render

    _print(list(render(changes)) or ["no difference"])


def _print(lines: Iterable[str]) -> None:
    """Prints the lines; on a terminal those of a difference in colours."""
    if not sys.stdout.isatty():
        for line in lines:
            print(line)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(Text(line, style=_COLOURS.get(line[:2], "")))
