"""Make and look at the images that sealed jobs run in."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console, Group

from contracts.answers import EPILOG, Answer, printable
from contracts.errors import EscrowError
from escrow.cli import application
from escrow.cli.home import facts, table

if TYPE_CHECKING:
    from docker import DockerClient

    from escrow.runtime.images.engine import ImageInfo
    from escrow.runtime.images.sbom import Component

app = application()

_BUILD_SECONDS: Final = 900  # how long the engine may be silent


class Family(StrEnum):
    """What an image is for."""

    PYTHON = "python"
    R = "r"


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Images that sealed jobs run in: bases, and the worker's image, which contracts pin by its digest.

    Example: escrow image build
    """


@app.command("base", epilog=EPILOG)
def base(family: Annotated[Family, typer.Option(help="The interpreter in it.")] = Family.PYTHON) -> Answer:
    """Make a base from Debian's packages, without any registry.

    It is tagged model-escrow/base:FAMILY. The worker's image and capsules start from it. Needs mmdebstrap.

    Example: escrow image base --family r
    """
    from escrow.runtime.images import bases, engine  # noqa: PLC0415 - help and wrong usage answer at once

    with closing(engine(seconds=_BUILD_SECONDS)) as client, _steps() as tell:
        image = bases.make_base(client, family.value, tell)
    return Answer(_described(image), facts([*_facts(image), ("next", "escrow image build")]))


@app.command("build", epilog=EPILOG)
def build(
    base: Annotated[
        str | None,
        typer.Option(
            metavar="REF",
            help="Image to start from, with Python and already here; otherwise the one of `escrow image base`,"
            " made if there is none.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="ESCROW_CACHE",
            help="Where wheels and bills of materials are kept; ~/.cache/model-escrow if not named.",
            show_default=False,
        ),
    ] = None,
    *,
    anew: Annotated[bool, typer.Option("--anew", help="Build from nothing even if nothing has changed.")] = False,
) -> Answer:
    """Make the worker's image: the code that is installed here and the packages it imports, in the same versions.

    It is tagged model-escrow/worker:latest. Made twice from the same inputs it has the same ID, which is what a
    contract pins.

    Example: escrow image build
    """
    from escrow.runtime.images import engine, worker  # noqa: PLC0415 - help and wrong usage answer at once

    place = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "model-escrow"
    with closing(engine(seconds=_BUILD_SECONDS)) as client, _steps() as tell:
        built = worker.make_worker(client, _base(client, base, tell), place, tell, anew=anew)
    data = {**_described(built.image), "made": built.made, "bill": str(built.bill)}
    rows = [*_facts(built.image), ("bill", built.bill), ("made", "now" if built.made else "before; nothing changed")]
    return Answer(data, facts(rows))


@app.command("capsule", epilog=EPILOG)
def capsule(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The capsule, as its author handed it over.")],
    base: Annotated[
        str | None,
        typer.Option(metavar="REF", help="Vetted base, or the worker's image; the base of its family if not named."),
    ] = None,
) -> Answer:
    """Rebuild a capsule's environment on a vetted base; the digest that this prints is what a contract names.

    The author's Dockerfile is read, not executed: packages come from this machine's own sources.
    What differs from the author's list is shown.

    Example: escrow image capsule study
    """
    from escrow.runtime.capsulefolder import capsule_in  # noqa: PLC0415 - help and wrong usage answer at once
    from escrow.runtime.images import capsule as capsules  # noqa: PLC0415
    from escrow.runtime.images import engine, find  # noqa: PLC0415

    found = capsule_in(directory)
    with closing(engine(seconds=_BUILD_SECONDS)) as client, _steps() as tell:
        made = capsules.build(client, found, base=base, tell=tell)
        image = find(client, made.image)
    rows = [(each.package, each.author or "-", each.image or "-", each.kind) for each in made.differences]
    differs = table(("package", "author", "image", "difference"), rows, "Every package is as the author had it.")
    data = {
        **_described(image),
        "capsule": found.digest,
        "environment": found.environment,
        "differences": [{**asdict(each), "kind": each.kind} for each in made.differences],
    }
    about = [("capsule", found.digest), ("environment", found.environment), *_facts(image)]
    return Answer(data, Group(facts(about), differs))


@app.command("show", epilog=EPILOG)
def show(
    reference: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="Tag or ID; the worker's image if not named.")
    ] = None,
) -> Answer:
    """Show an image: the digest that contracts pin, its code, its packages, and what the engine can run it with.

    Example: escrow image show
    """
    from escrow.runtime.images import engine, find, worker  # noqa: PLC0415 - help and wrong usage answer at once
    from escrow.runtime.images.engine import WORKER, bill, runtimes  # noqa: PLC0415

    with closing(engine()) as client:
        image = find(client, reference or WORKER)
        packages, able = bill(client, image), sorted(runtimes(client))
    current = None if image.code is None else image.code == worker.installed_code()
    data = {**_described(image), "current": current, "runtimes": able, "packages": [_package(p) for p in packages]}
    code = {None: "none of ours", True: "as installed here", False: "NOT as installed here: `escrow image build`"}
    rows = [
        *_facts(image),
        ("code", code[current]),
        ("engine", ", ".join(name for name in able if not name.startswith("io."))),
    ]
    listed = table(("PACKAGE", "VERSION", "FROM"), [(p.name, p.version, _FROM[p.kind]) for p in packages], "")
    return Answer(data, Group(facts(rows), "", listed))


_FROM: Final = {"deb": "Debian", "pypi": "wheel"}


def _base(client: "DockerClient", reference: str | None, tell: Callable[[str], None]) -> "ImageInfo":
    from escrow.runtime.images import bases, find  # noqa: PLC0415
    from escrow.runtime.images.engine import base_tag  # noqa: PLC0415

    try:
        return find(client, reference or base_tag("python"))
    except EscrowError as error:
        if reference or error.code != "image-missing":
            raise
        return bases.make_base(client, "python", tell)


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Tells people each step on stderr: in one line that changes, or in lines if nobody watches."""
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        yield lambda words: console.print(printable(words), soft_wrap=True)
        return
    with console.status("beginning") as status:
        yield lambda words: status.update(printable(words))


def _described(image: "ImageInfo") -> dict[str, Any]:
    return {
        "image": image.id,
        "tags": list(image.tags),
        "size": image.size,
        "created": image.created,
        "kind": image.kind,
        "family": image.family,
        "code": image.code,
    }


def _facts(image: "ImageInfo") -> list[tuple[str, object]]:
    return [
        ("image", image.id),
        ("tags", ", ".join(image.tags)),
        ("kind", f"{image.kind}, {image.family}" if image.kind else "not made here"),
        ("size", f"{image.size / 1e9:.2f} GB"),
        ("created", image.created),
    ]


def _package(component: "Component") -> dict[str, str]:
    return {"name": component.name, "version": component.version, "purl": component.purl, "sha256": component.sha256}
