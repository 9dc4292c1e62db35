"""What a capsule's author does once it runs: build its image, deposit it, and draw the contract up."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from contracts.answers import Answer
from contracts.capsule import Capsule
from contracts.errors import EscrowError
from contracts.pages import Line, Section
from escrow.runtime.capsulefolder import capsule_in
from parties import policy
from parties.capsules import draft as drafts
from parties.cli.desk import Desk, tell
from parties.cli.screen import page, table
from parties.sending import Content

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The capsule's directory.")]


def build(
    folder: Folder,
    base: Annotated[str, typer.Option(metavar="REF", help="The vetted base; that of its family if left out.")] = "",
) -> Answer:
    """Build the image that a capsule's environment asks for, on a vetted base, from the operator's packages.

    Nothing is pulled, and nothing of the author's is executed.
    Shows the image's digest, which a contract names, and where its packages differ from the author's lock.

    Example: party capsule build fraud-by-hour
    """
    from escrow.runtime.images import capsule as images  # noqa: PLC0415 - the engine's library is slow to import
    from escrow.runtime.images.engine import engine  # noqa: PLC0415

    capsule = capsule_in(folder)
    with closing(engine()) as client:
        built = images.build(client, capsule, base=base or None, tell=lambda step: tell(f"{step} …"))
    data = {
        "image": built.image,
        "tag": images.tag(capsule),
        "environment": capsule.environment,
        "size": built.size,
        "packages": len(built.packages),
        "differences": [{**asdict(each), "kind": each.kind} for each in built.differences],
    }
    return Answer(data, Group(*_built_page(folder, data)))


def _built_page(folder: Path, data: dict[str, Any]) -> Iterator[RenderableType]:
    image = (Line(data["image"], "image"), Line(data["tag"], "tag"), Line(f"{data['size'] / 1e6:.0f} MB", "size"))
    yield page([Section("", image)])
    if data["differences"]:
        rows = [(each["package"], each["author"], each["image"], each["kind"]) for each in data["differences"]]
        yield Text("\nNot as the author had it:")
        yield table(("package", "author", "image", ""), rows)
    else:
        yield Text("Every package is as the author had it.")
    yield page([Section("Next", (Line(f"party capsule run {folder}, then party capsule deposit {folder}"),))])


def deposit(ctx: typer.Context, folder: Folder) -> Answer:
    """Encrypt a capsule and deposit it; the key that opens it stays here until an approval seals it to one contract.

    What is deposited already is not deposited twice; a sending that was cut off goes on.

    Example: party capsule deposit fraud-by-hour
    """
    from parties.cli.sending import send  # noqa: PLC0415 - the client is slow to import

    desk: Desk = ctx.obj
    capsule = capsule_in(folder)
    with desk.client() as client:
        sent = send(client, _content(capsule))
    first = Section("", (Line(f"{sent.words()}  {sent.deposit.commitment}", "capsule"), Line(capsule.digest, "digest")))
    then = Section("Next", (Line(f"party capsule contract {folder} --owner NAME --image DIGEST --out FILE"),))
    return Answer({"digest": capsule.digest, "deposits": [sent.data()]}, page([first, then]))


def _content(capsule: Capsule) -> Content:
    return Content("capsule", lambda: BytesIO(capsule.packed()))


def contract(
    ctx: typer.Context,
    folder: Folder,
    *,
    owner: Annotated[
        list[str], typer.Option(metavar="NAME[=FILE]", help="Whose table it runs on. Repeatable, with FILE of /data.")
    ],
    image: Annotated[str, typer.Option(metavar="DIGEST", help="What `party capsule build` showed.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the contract goes; not replaced.")],
    title: Annotated[str, typer.Option(metavar="TEXT")] = drafts.TITLE,
    purpose: Annotated[str, typer.Option(metavar="TEXT", help="The only use allowed.")] = drafts.PURPOSE,
    sealing: Annotated[str, typer.Option(metavar="gvisor|container|none", help="The strongest, if left out.")] = "",
    error_place: Annotated[
        bool, typer.Option("--error-place", help="A failure tells the exception's class and the line of code.")
    ] = False,
    days: Annotated[int, typer.Option(metavar="DAYS", min=1, help="Until it expires.")] = 30,
) -> Answer:
    """Draw up the contract under which a deposited capsule runs on others' tables, to be read and edited.

    Each owner contributes the table it deposited last; you receive the outputs that escrow.yml declares.

    Example: party capsule contract fraud-by-hour --owner harbour --image sha256:… --out contract.yaml
    """
    from parties.cli.offered import drawn_up, offered, require_new  # noqa: PLC0415 - the client is slow to import
    from parties.sending import held  # noqa: PLC0415

    desk: Desk = ctx.obj
    require_new(out)
    capsule = capsule_in(folder)
    files = drafts.files_of(owner, capsule)
    with desk.client() as client:
        on_ledger = offered(desk, client)
        own = {each.commitment for each in on_ledger.get(client.name, ())}
        deposits = [each for each in held(client.folder, _content(capsule)) if each.commitment in own]
        if not deposits:
            raise EscrowError(
                "deposit-unknown",
                "This capsule, as it is now, was not deposited.",
                f"Deposit it first: party capsule deposit {folder}.",
            )
        made = drafts.capsule_draft(
            client.escrow.info(),
            client.escrow.directory(),
            on_ledger,
            me=client.name,
            capsule=capsule,
            commitment=deposits[-1].commitment,
            files=files,
            image=image,
            now=desk.now(),
            title=title,
            purpose=purpose,
            sealing=sealing or None,
            error_place=error_place,
            days=days,
            policy=policy.load(desk.home),
        )
    return drawn_up(made, out)
