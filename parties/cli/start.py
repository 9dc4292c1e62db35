"""Take part in the training of every contract under which rows stay here, until it is stopped."""

import threading
from typing import Annotated

import typer

from contracts.answers import Answer, Telling
from contracts.api import CaseView
from contracts.errors import EscrowError
from parties.cli.cases import brief, standing
from parties.cli.desk import Desk
from parties.cli.relaying import Ended, MemoryOption, Relaying, SealingOption, relaying, told
from parties.cli.screen import short
from parties.conditions import MEMORY_MIB, News
from parties.nodes import Watchman


def command(
    ctx: typer.Context,
    *,
    at_once: Annotated[
        int, typer.Option("--at-once", metavar="N", min=1, help="Contracts that are served at once; others wait.")
    ] = 2,
    sealing: SealingOption = "",
    memory: MemoryOption = MEMORY_MIB,
) -> Telling:
    """Join every contract that this party approved and under which its training rows stay here: see `party join`.

    Runs until Ctrl-C, SIGTERM or SIGHUP, over restarts of the escrow and of itself: let a service manager keep it
    running.
    Contracts that come later are joined as soon as this party has approved them. One beyond `--at-once` waits for a
    place, and says so; until it has one the escrow does not begin its run. A contract that others keep waiting leaves
    its place to the next. What this party halts or revokes ends here within seconds, whatever the escrow does.

    Example: party start --at-once 2

    Example: party start --format jsonl
    """
    desk: Desk = ctx.obj
    joined = 0
    try:
        with relaying(desk, sealing, memory=memory, at_once=at_once, patience=None) as under_way:
            watchman = Watchman(under_way.nodes, under_way.conditions)
            thread = threading.Thread(target=_watch, args=(watchman, under_way), name="watchman")
            thread.start()
            try:
                yield Answer(
                    {"kind": "started"}, "Started: joins every contract that was approved here. Ctrl-C ends it."
                )
                while True:
                    match under_way.heard.get():
                        case News() as news:
                            yield told(news)
                        case Ended() as ended:
                            joined += 1
                            yield _ended(ended)
                        case BaseException() as error:
                            raise error
            finally:
                watchman.stop()
                thread.join()
    except KeyboardInterrupt:
        return Answer({"joined": joined}, "Stopped.")


def _watch(watchman: Watchman, under_way: Relaying) -> None:
    try:
        watchman.watch()
    except BaseException as error:  # noqa: BLE001 - the command ends with it
        under_way.heard.put(error)


def _ended(ended: Ended) -> Answer:
    match ended.how:
        case CaseView() as view:
            fault = f" Because of this party: {view.fault}" if view.fault else ""
            return Answer(
                {"kind": "ended", "contract": view.digest, **brief(view)},
                f"{short(view.digest)}  It has ended: {standing(view)}.{fault}",
            )
        case EscrowError() as error:
            return Answer(
                {"kind": "refused", "contract": ended.contract, "code": error.code, "message": error.message},
                f"{short(ended.contract)}  {error.message} [{error.code}] {error.hint}",
            )
