"""The command line: reads arguments, calls what does the work, and turns failures into exit codes.

Each command imports its work when it runs, so that `check-config` and `version` are quick and need
neither the SDK nor the extras.
"""

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from brokerd.config.load import load
from brokerd.config.settings import DEFAULT_PATH
from brokerd.errors import BrokerdError, ConfigInvalid

if TYPE_CHECKING:
    from brokerd.ledger.restore import Restored
    from brokerd.store.manifest import Manifest

EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h; the unit does not restart after it."""

cli = typer.Typer(
    help="Keeps one healthy, proven MetaApi link per user.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and so secrets
)

_Config = Annotated[
    Path | None,
    typer.Option("--config", help=f"The configuration; {DEFAULT_PATH} if there is one."),
]


def main() -> None:
    """Run the command line."""
    cli()


@cli.command()
def run(config: _Config = None) -> None:
    """Run the daemon until SIGTERM."""
    with _failures_explained():
        settings = load(config, environ=os.environ)
        with _collector_resting():
            from brokerd.app.run import run as run_daemon  # noqa: PLC0415  # see the docstring

        raise typer.Exit(run_daemon(settings))


@cli.command()
def check_config(config: _Config = None) -> None:
    """Say whether the configuration can be used, or everything that is wrong with it."""
    with _failures_explained():
        load(config, environ=os.environ)
        typer.echo("ok")


@cli.command()
def check_metaapi(
    config: _Config = None,
    *,
    token: Annotated[
        str | None, typer.Option(help="The name of a token; the first if not given.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="A MetaApi account id; the first that is up if not given.")
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Synchronize the account's stream too.")
    ] = False,
) -> None:
    """Look at the real MetaApi, reading only; exits with 1 if it differs from docs/fidelity.md."""
    with _failures_explained():
        settings = load(config, environ=os.environ)
        with _collector_resting():
            from brokerd.app.check import CheckOptions, check_metaapi  # noqa: PLC0415  # as above

        options = CheckOptions(token=token, account_id=account, with_stream=stream)
        raise typer.Exit(check_metaapi(settings, options))


@cli.command()
def migrate(
    config: _Config = None,
    *,
    reader_role: Annotated[
        str | None,
        typer.Option(help="An existing role that may then read one user's ledger at a time."),
    ] = None,
) -> None:
    """Bring the database to the schema of this version."""
    with _failures_explained():
        settings = load(config, environ=os.environ)
        from brokerd.store.migrate import upgrade  # noqa: PLC0415  # see the module's docstring
        from brokerd.store.readers import allow_reader  # noqa: PLC0415  # as above

        asyncio.run(upgrade(settings.database.url))
        typer.echo("the database is up to date")
        if reader_role is not None:
            asyncio.run(allow_reader(settings.database.url, reader_role))
            typer.echo(f"{reader_role} reads what brokerd.user_id names")


@cli.command()
def backup(
    config: _Config = None,
    *,
    to: Annotated[Path, typer.Option(help="An existing folder.")],
    keep: Annotated[
        int | None, typer.Option(min=1, help="Keep so many; all of them if not given.")
    ] = None,
) -> None:
    """Write a backup of the ledger, whole or not at all; needs pg_dump on PATH."""
    with _failures_explained():
        settings = load(config, environ=os.environ)
        from brokerd.store.backup import back_up  # noqa: PLC0415  # see the module's docstring

        made = asyncio.run(back_up(settings.database.url, folder=to, keep=keep))
        for path in made.dropped:
            typer.echo(f"dropped {path}")
        typer.echo(f"{made.path}: {_size(made.manifest)}")


@cli.command()
def restore(
    config: _Config = None,
    *,
    dump: Annotated[Path, typer.Option("--from", help="The .dump file of a backup.")],
    replace: Annotated[bool, typer.Option("--replace", help="Over the ledger there is.")] = False,
) -> None:
    """Bring a backup back and recount it; exits with 1 if a receipt does not hold."""
    with _failures_explained():
        settings = load(config, environ=os.environ)
        from brokerd.ledger.restore import restore as bring_back  # noqa: PLC0415  # as above

        restored = asyncio.run(bring_back(settings, dump=dump, is_replacing=replace))
        _tell_restored(restored, done="restored; the feed goes on in a new generation")


@cli.command()
def verify_backup(
    config: _Config = None,
    *,
    dump: Annotated[
        Path, typer.Option("--from", help="A .dump file, or a folder: its newest one then.")
    ],
) -> None:
    """Restore a backup into a database of its own, recount it there, and drop that again."""
    with _failures_explained():
        settings = load(config, environ=os.environ)
        from brokerd.ledger.restore import verify_backup as verify  # noqa: PLC0415  # as above
        from brokerd.store.backup import newest  # noqa: PLC0415  # as above

        path = newest(dump) if dump.is_dir() else dump
        _tell_restored(asyncio.run(verify(settings, dump=path)), done=f"{path}: can be restored")


@cli.command()
def audit(
    config: _Config = None,
    *,
    link: Annotated[
        str | None, typer.Option(help="This link; every live link of the node if not given.")
    ] = None,
    wait_seconds: Annotated[
        float, typer.Option(min=0, help="How long to follow; the audits go on without us.")
    ] = 3_600.0,
) -> None:
    """Read history again and prove the balance; exits with 0 only if every ledger is proven."""
    with _failures_explained():
        settings = load(config, environ=os.environ)
        from brokerd.app.audit import audit as run_audit  # noqa: PLC0415  # see the docstring

        raise typer.Exit(run_audit(settings, link_id=link, wait_seconds=wait_seconds))


@cli.command()
def budgets(
    config: _Config = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As GET /v1/budgets.")] = False,
) -> None:
    """Show what MetaApi was paid, what it may be paid, and what hosting costs a day."""
    with _failures_explained():
        settings = load(config, environ=os.environ)
        from brokerd.app.spending import read_budgets, shown  # noqa: PLC0415  # as above

        body = asyncio.run(read_budgets(settings))
        typer.echo(msgspec.json.encode(body) if as_json else shown(body))


@cli.command()
def explain(
    link: Annotated[str, typer.Argument(help="The link's id.")], config: _Config = None
) -> None:
    """Tell a link's story: what is wanted, what is and why, what comes next, who must act."""
    with _failures_explained():
        settings = load(config, environ=os.environ)
        from brokerd.app.explain import explain as tell  # noqa: PLC0415  # see the docstring

        typer.echo(asyncio.run(tell(settings, link_id=link)))


@cli.command()
def sandbox(
    *,
    accounts: Annotated[int, typer.Option(min=0, help="Regular accounts to open.")] = 1,
    deals_per_minute: Annotated[float, typer.Option(min=0, help="Of each account.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same broker.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free port.")] = 0,
) -> None:
    """Serve a MetaApi on loopback; its first line of output says where, as JSON."""
    with _failures_explained():
        with _collector_resting():
            from brokerd.sandbox.server import SandboxSettings, serve  # noqa: PLC0415  # as above

        settings = SandboxSettings(
            accounts=accounts, deals_per_account_minute=deals_per_minute, seed=seed, port=port
        )
        asyncio.run(serve(settings))


@cli.command()
def demo(  # noqa: PLR0913  # a command has as many options as it needs
    *,
    accounts: Annotated[int, typer.Option(min=1, max=2_000, help="Accounts to open.")] = 25,
    max_links: Annotated[
        int | None, typer.Option(min=1, help="Links at once; as many as accounts if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of broker and chaos.")] = 1,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="How long; until Ctrl-C if not given.")
    ] = None,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="With every kind of fault; PostgreSQL goes too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Run everything from nothing, trade, and prove the ledger; exits with 0 if it is proven."""
    with _failures_explained():
        with _collector_resting():
            from brokerd.demo.options import DemoOptions  # noqa: PLC0415  # as above
            from brokerd.demo.run import run_demo  # noqa: PLC0415  # as above

        options = DemoOptions(
            accounts=accounts,
            max_links=max_links,
            seed=seed,
            seconds=seconds,
            is_chaos=chaos,
            is_json=as_json,
        )
        raise typer.Exit(run_demo(options))


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(installed_version("brokerd"))


def _size(manifest: "Manifest") -> str:
    counted = manifest.counts
    return (
        f"{counted.accounts} accounts, {counted.deals} deals, {counted.windows} receipts and"
        f" {counted.events} events of {manifest.taken_at.isoformat(timespec='seconds')}"
    )


def _tell_restored(restored: "Restored", *, done: str) -> None:
    """Say what came back; receipts that do not hold end the command with 1."""
    typer.echo(f"{done}: {_size(restored.manifest)}")
    for receipt in restored.false_receipts:
        typer.echo(str(receipt), err=True)
    if restored.false_receipts:
        raise typer.Exit(1)
    typer.echo("every receipt equals a recount")


@contextmanager
def _collector_resting() -> Iterator[None]:
    """Collect no garbage while modules are imported, and leave them out of all later collections.

    There is none in them, and looking for it is a fifth of the daemon's start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _failures_explained() -> Iterator[None]:
    """Turn what was raised on purpose into words and an exit code; a bug keeps its traceback."""
    try:
        yield
    except ConfigInvalid as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    except BrokerdError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(1) from error
