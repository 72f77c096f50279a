"""``course``: the author's command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from autograder.format import FormatError, course_root
from course.build import Built, build_module, module_names, stale_files, write_files
from course.source import Problem, SourceError, stamp_translations

app = typer.Typer(
    name="course",
    help="Build the course's notebooks from their sources, in both languages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, highlight=False, soft_wrap=True)
Root = Annotated[
    Path | None,
    typer.Option("--root", help="The course's folder, when it is not here or above.", show_default=False),
]


@app.callback()
def _course() -> None:
    """Keeps the subcommands' names even if only one is left."""


@app.command()
def build(
    modules: Annotated[
        list[str] | None,
        typer.Argument(help="Modules, such as 05_search; all that exist when none is named."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say whether sources and built files agree.")
    ] = False,
    root: Root = None,
) -> None:
    """Build lessons, assignments and solutions, or check that they are built."""
    folder = _root(root)
    problems: list[Problem] = []
    try:
        names = _chosen(folder, modules)
    except SourceError as error:
        _fail(error.problems)
    for name in track(names, description="Building", console=console, transient=True):
        built = build_module(folder, name)
        problems += built.problems
        if built.problems:
            continue
        if check:
            stale = stale_files(folder, built.files)
            problems += stale
            if not stale:
                typer.echo(f"{name}: {len(built.files)} built files are up to date")
        else:
            _write(folder, built)
    if problems:
        _fail(problems)


def _write(folder: Path, built: Built) -> None:
    changed = write_files(folder, built.files)
    for path in changed:
        typer.echo(f"wrote {path}")
    typer.echo(f"{built.module}: {len(changed)} of {len(built.files)} files changed")


@app.command()
def translated(
    module: Annotated[str, typer.Argument(help="The module whose Chinese text you have brought up to date.")],
    root: Root = None,
) -> None:
    """Declare that each Chinese cell translates the English above it, as it reads now.

    Run it after you have revised the translation: it stores the hash of the English in the Chinese cell,
    which silences the stale-translation error. It prints every cell that it stamps, to be read once more.
    """
    folder = _root(root)
    try:
        for name in _chosen(folder, [module]):
            for kind in ("lesson", "homework"):
                path = folder / "modules" / name / f"{kind}.py"
                if path.is_file():
                    for cell in stamp_translations(path, folder):
                        typer.echo(f"{path.relative_to(folder)}:{cell.line}: {cell.words}")
    except SourceError as error:
        _fail(error.problems)


def _root(root: Path | None) -> Path:
    try:
        return course_root(root)
    except FormatError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(2) from None


def _chosen(folder: Path, modules: list[str] | None) -> list[str]:
    present = module_names(folder)
    for name in modules or []:
        if name not in present:
            known = ", ".join(present) or "none yet"
            console.print(f"There is no module {name!r}; the modules are: {known}.", markup=False)
            raise typer.Exit(2)
    return [name for name in present if not modules or name in modules]


def _fail(problems: list[Problem]) -> None:
    for problem in problems:
        console.print(str(problem), markup=False)
    console.print(f"{len(problems)} problem{'s' * (len(problems) != 1)} found; nothing more was written.")
    raise typer.Exit(1)


def main() -> None:
    """Entry point of the ``course`` command."""
    app()


if __name__ == "__main__":
    main()
