"""Take part in one contract's training with rows that stay here."""

from typing import Annotated, Final

import typer

from contracts.answers import Answer, Telling
from contracts.api import CaseView
from contracts.errors import EscrowError, Exit
from contracts.lifecycle import State
from parties.cli.cases import brief, found, standing
from parties.cli.desk import Desk
from parties.cli.relaying import Ended, MemoryOption, SealingOption, relaying, told
from parties.cli.screen import short
from parties.conditions import MEMORY_MIB, News

PATIENCE: Final = 3600.0


def command(
    ctx: typer.Context,
    which: Annotated[str, typer.Argument(metavar="CONTRACT", help="Its digest; the first eight characters will do.")],
    *,
    sealing: SealingOption = "",
    memory: MemoryOption = MEMORY_MIB,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long to try again after a lost connection.")
    ] = PATIENCE,
) -> Telling:
    """Train under a contract with rows that stay here, until the contract ends; exit code 0 if it was released.

    Starts the worker that the contract names, sealed as the contract says, beside the rows that were kept with
    `party dataset add --keep-training`, and carries its messages to the escrow and back. Only what this party has
    approved is run, and only that worker.

    It may be started before the others have approved, and again after it was stopped. A lost connection is made anew.

    Example: party join 4f1d09aa

    Example: party join 4f1d09aa --format jsonl
    """
    desk: Desk = ctx.obj
    with desk.client() as client:
        contract = found(client.escrow, which).digest
    with relaying(desk, sealing, memory=memory, at_once=1, patience=patience) as under_way:
        under_way.nodes.add(contract)
        while True:
            match under_way.heard.get():
                case News() as news:
                    yield told(news)
                case Ended(how=EscrowError() as error):
                    raise error
                case Ended(how=CaseView() as view):
                    return _ending(view)
                case BaseException() as error:
                    raise error


def _ending(view: CaseView) -> Answer:
    released = view.state == State.RELEASED
    lines = [f"{short(view.digest)}  It has ended: {standing(view)}"]
    if view.fault:
        lines.append(f"Because of this party: {view.fault}")
    if released:
        lines.append(f"Next: party release fetch {short(view.digest)}")
    return Answer(brief(view), "\n".join(lines), Exit.OK if released else Exit.REFUSED)
