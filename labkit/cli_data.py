"""``labkit data``: make the simulated market, describe and clean it, find and fetch real data sets."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import polars as pl

app = typer.Typer(help="The simulated market and real data sets.", no_args_is_help=True)

Size = Annotated[str, typer.Option(help="Size of the simulated market: tiny, small, medium or full.")]
Seed = Annotated[int, typer.Option(help="Seed of the simulated market.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command()
def make(
    size: Size = "small",
    seed: Seed = 0,
    again: Annotated[bool, typer.Option("--again", help="Make it anew even if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make every table of the market and print the hashes of their contents: the same on every machine."""
    from labkit.shop import load, market

    if again:
        market.forget(size, seed)
    made = load(size, seed)
    hashes = made.fingerprints()
    whole = market.combined(hashes)
    if as_json:
        typer.echo(json.dumps({"size": size, "seed": seed, "hash": whole, "tables": hashes}))
        return
    for table, digest in hashes.items():
        typer.echo(f"{digest[:16]}  {table}")
    typer.echo(f"{whole[:16]}  the {size} market, seed {seed}")


@app.command()
def describe(
    size: Size = "small",
    seed: Seed = 0,
    figures: Annotated[Path, typer.Option(help="Folder for the figures.", file_okay=False)] = Path(
        "market-profile"
    ),
    as_json: AsJson = False,
) -> None:
    """Print the profile of the market and draw it: pictures, clicks, seasons, defects."""
    from labkit.profile import profile
    from labkit.profile_figures import draw_profile
    from labkit.shop import load

    market = load(size, seed)
    found = profile(market)
    drawn = draw_profile(market, found, figures)
    if as_json:
        typer.echo(json.dumps({**found.as_json(), "figures": [str(path) for path in drawn]}))
        return
    funnel = found.funnel
    typer.echo(f"The {size} market, seed {seed}: {market.products.height:,} products.")
    typer.echo("The year's log: " + ", ".join(f"{count:,} {what}" for what, count in funnel.items()) + ".")
    _table("Tables", found.tables)
    _table("Where products are shown", found.surfaces)
    clicks = found.positions.pivot("device", index="position", values="click_rate")
    _table("Click rate by position", clicks.sort("position"))
    _table("Discounts", found.prices)
    _table("Defects of the raw tables, by the planted truth", found.defects)
    for path in drawn:
        typer.echo(f"figure: {path}")


@app.command()
def clean(
    size: Size = "small",
    seed: Seed = 0,
    into: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the clean tables; they are thrown away when left out.", file_okay=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Clean the raw tables without the truth, then say against the truth how much was found."""
    from labkit.data.clean_shop import clean_shop
    from labkit.shop import load
    from labkit.shop.scoring import score

    market = load(size, seed)
    raw = {name: market.scan(f"raw_{name}") for name in ("products", "shoppers", "reviews", "events")}
    with tempfile.TemporaryDirectory(prefix="labkit-clean-") as scratch:
        cleaned = clean_shop(raw, into or Path(scratch))
        found = score(cleaned.findings, market.read("truth"))
        changes = cleaned.report()
    if as_json:
        typer.echo(json.dumps({"steps": changes.to_dicts(), "scores": found.to_dicts()}))
        return
    _table("What each step did", changes)
    _table("Against the planted truth", found)
    if into is not None:
        typer.echo(f"clean tables: {into}")


@app.command("list")
def list_sets(as_json: AsJson = False) -> None:
    """List the real data sets that labkit reads: which are here, and how to get the others."""
    from labkit.data import describe_sets

    sets = describe_sets()
    if as_json:
        typer.echo(json.dumps(sets))
        return
    for entry in sets:
        typer.echo(f"{entry['name']}: {entry['what']}")
        if entry["found"]:
            typer.echo(f"    here: {entry['where']}")
        else:
            typer.echo("    not here; " + str(entry["where"] if entry["how"] == "by hand" else entry["how"]))
        typer.echo(f"    licence: {entry['licence']}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Name of a data set; see `labkit data list`.")],
    into: Annotated[Path | None, typer.Option(help="Folder; below LABKIT_HOME when left out.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Download it anew even if it is there.")] = False,
) -> None:
    """Download a public data set: checked, and resumed where it was cut off."""
    from labkit.data import DATA_SETS, fetch

    if name not in DATA_SETS:
        raise typer.BadParameter(
            f"there is no data set {name!r}; `labkit data list` names them all.", param_hint="name"
        )
    typer.echo(f"{name} is in {fetch(DATA_SETS[name], into, again)}.")


@app.command()
def realism(
    size: Size = "medium",
    seed: Seed = 0,
    folder: Annotated[
        Path, typer.Option(help="Gets realism.md and images/realism_*.png.", file_okay=False)
    ] = Path("docs"),
    methods: Annotated[
        bool, typer.Option(help="Compare search methods too, which takes some ten minutes.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Compare the simulated market with the real sets that LABKIT_DATA names, and write a report."""
    from labkit.realism import report

    found = report(size, seed, folder, methods)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
        return
    for place in (found.path, *found.figures):
        typer.echo(str(place))
    if found.missing:
        typer.echo(f"not compared, for they are not here: {', '.join(found.missing)}")


def _table(title: str, frame: pl.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name, kind in frame.schema.items():
        table.add_column(name.replace("_", " "), justify="right" if kind.is_numeric() else "left")
    for row in frame.iter_rows():
        table.add_row(*(_cell(value) for value in row))
    Console().print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "")
