"""The ``labkit`` command: the learner's and the practitioner's way in."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit import cli_data, cli_train

if TYPE_CHECKING:
    from labkit.checkup import Check
    from labkit.compare import Comparison

# Nothing heavy is imported up here: `labkit --help` must answer at once.

app = typer.Typer(
    name="labkit",
    help="Search and recommendation with large models: the course's laboratory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(cli_data.app, name="data")
app.command()(cli_train.train)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


class Source(StrEnum):
    shop = "shop"
    chorus = "chorus"


class Language(StrEnum):
    en = "en"
    zh = "zh"


Lang = Annotated[Language | None, typer.Option(help="Language; the one used last when left out.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context, lang: Lang = None) -> None:
    """Open JupyterLab on the first lesson; further options go to JupyterLab (such as --no-browser)."""
    from labkit.learn.lab import open_lab

    raise typer.Exit(open_lab(context.args, _code(lang)))


@app.command()
def progress(lang: Lang = None) -> None:
    """Show what you have solved so far."""
    from labkit.learn.progress import show_progress

    raise typer.Exit(show_progress(_code(lang)))


@app.command()
def search(
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare BM25, zero-shot, fine-tuned and hybrid search.")
    ] = False,
    data: Annotated[
        Source, typer.Option(help="The simulated shop, or the real set Chorus Electronics.")
    ] = Source.shop,
    size: Annotated[
        str | None, typer.Option(help="Size of the simulated shop: tiny or small; small when left out.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the simulated shop; 0 when left out.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; the fastest one when left out.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Where to save a figure (png, svg or pdf); none when left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare ways to search on queries that none of them has seen, with intervals and tests."""
    if not compare:
        raise typer.BadParameter("say what to do with the search: add --compare.", param_hint="search")
    if data is Source.chorus and (size, seed) != (None, None):
        raise typer.BadParameter(
            "--size and --seed belong to the simulated shop; leave them out.", param_hint="--data chorus"
        )
    if figure is not None and figure.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"{figure} must end in .png, .svg or .pdf.", param_hint="--figure")
    from labkit.compare import compare_chorus, compare_shop, save_figure

    if data is Source.chorus:
        comparison = compare_chorus(device=device)
    else:
        comparison = compare_shop(size or "small", seed or 0, device)
    saved = None if figure is None else save_figure(comparison, figure)
    if as_json:
        typer.echo(json.dumps({**comparison.as_json(), "figure": None if saved is None else str(saved)}))
    else:
        _show(comparison, saved)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check that this machine has what the course needs, and say what to do where it does not."""
    from labkit.checkup import examine

    checks = examine()
    if as_json:
        typer.echo(json.dumps([vars(check) for check in checks]))
    else:
        for check in checks:
            typer.echo(f"{_mark(check)} {check.name}: {check.found}")
    if any(check.needed and not check.ok for check in checks):
        raise typer.Exit(1)


def _chance(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def _code(lang: Language | None) -> str | None:
    return None if lang is None else lang.value


def _mark(check: Check) -> str:
    if check.ok:
        return "ok     "
    return "MISSING" if check.needed else "without"


def _show(comparison: Comparison, figure: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=comparison.title)
    table.add_column("system")
    for measure in comparison.measures:
        table.add_column(measure, justify="right")
        table.add_column("95 % interval", justify="center")
    for row in zip(*comparison.measures.values(), strict=True):
        cells = [cell for s in row for cell in (f"{s.mean:.3f}", f"{s.low:.3f} to {s.high:.3f}")]
        table.add_row(row[0].name, *cells)
    console.print(table)
    for measure in comparison.measures:
        tests = Table(title=f"Paired permutation tests on {measure}")
        for name in ("comparison", "difference", "p", "p (Holm)"):
            tests.add_column(name, justify="left" if name == "comparison" else "right")
        for test in (test for test in comparison.tests if test.measure == measure):
            numbers = (f"{test.difference:+.3f}", _chance(test.p), _chance(test.p_holm))
            tests.add_row(f"{test.better} over {test.than}", *numbers)
        console.print(tests)
    for name, value in comparison.settings.items():
        console.print(f"{name}: {value}", highlight=False)
    spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in comparison.seconds.items())
    console.print(f"time: {sum(comparison.seconds.values()):.0f} s ({spent})", highlight=False)
    if figure is not None:
        console.print(f"figure: {figure}", highlight=False)


def main() -> None:
    """Run the command; errors a user can mend come out as one sentence."""
    # Read when torch is loaded: idle threads sleep instead of spinning. On a machine that does something else
    # as well, spinning made training and encoding three to six times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        typer.echo(f"labkit: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
