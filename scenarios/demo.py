"""`escrow demo`: four banks from keys to a verified release, then a contract that must be withheld.

Without `--data` the banks' tables come from this project's own generator; with it, a user's own table is split over
simulated banks by card. Everything else is the product: the same escrow, the same clients, the same workers.
"""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from contracts.answers import Answer
from contracts.errors import EscrowError
from escrow.cli.serving import Image, SealingName
from escrow.sealing import IMAGE, Seal

PlacementName = Literal["escrow", "party"]


def demo(
    *,
    world: Annotated[
        str, typer.Option(help="World of the first contract; `escrow demo --world list` lists them.")
    ] = "fraud-type-skew",
    model: Annotated[str | None, typer.Option(help="logistic, mlp or boosted. Default: mlp.")] = None,
    method: Annotated[
        str | None, typer.Option(help="pooled, fedavg, fedprox, fedadam, median, trimmed-mean or ensemble.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed makes other customers, keys aside.")] = 1,
    network: Annotated[
        bool, typer.Option("--network", help="The escrow and every bank as processes of their own, over TLS.")
    ] = False,
    placement: Annotated[
        PlacementName, typer.Option(help="Where training rows are: deposited at the escrow, or kept by each party.")
    ] = "escrow",
    sealing: Annotated[SealingName, typer.Option(help="What jobs run in: container or gvisor seal them.")] = "none",
    image: Image = IMAGE,
    keep: Annotated[
        Path | None, typer.Option(help="New directory for everything the demo makes. Default: a temporary one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Your own table, .parquet or .csv, instead of a world.")] = None,
    time: Annotated[str | None, typer.Option(help="With --data: the column of the time.")] = None,
    label: Annotated[str | None, typer.Option(help="With --data: the column that is 1 for fraud.")] = None,
    group: Annotated[str | None, typer.Option(help="With --data: the column of the card or customer.")] = None,
    amount: Annotated[str | None, typer.Option(help="With --data: the column of the amount.")] = None,
    terminal: Annotated[str | None, typer.Option(help="With --data: the column of the terminal.")] = None,
    train_from: Annotated[str | None, typer.Option(help="With --data: first day of training, YYYY-MM-DD.")] = None,
    train_days: Annotated[int, typer.Option(help="With --data: days of training.")] = 28,
    delay_days: Annotated[int, typer.Option(help="With --data: days until a label is known.")] = 7,
    test_days: Annotated[int, typer.Option(help="With --data: days of the test.")] = 28,
    shares: Annotated[str, typer.Option(help="With --data: percent of the cards for each bank.")] = "50,30,15,5",
    never: Annotated[str, typer.Option(help="With --data: columns that may never be a feature.")] = "",
    feature: Annotated[str, typer.Option(help="With --data: further numeric columns to use as features.")] = "",
) -> Answer:
    """Play the whole main job on this machine: four banks, one contract, released or withheld.

    Four simulated banks make their keys, deposit their encrypted tables and approve one contract. The escrow trains,
    measures each bank's gain on its own holdout, and releases the model only if every bank gains; then every bank
    fetches and verifies it. A second contract follows that must be withheld.

    With --network all of it happens by the commands `escrow` and `party`, over gRPC and TLS on loopback.
    With --sealing container every job runs in a container without network; `escrow image build` makes its image.
    With --placement party the training rows stay with the banks, whose own nodes train on them.

    Examples:
    escrow demo

    escrow demo --network

    escrow demo --sealing container

    escrow demo --placement party

    escrow demo --world quantity-skew --model boosted --keep ./demo

    escrow demo --data tx.parquet --time TX_DATETIME --label TX_FRAUD --group CUSTOMER_ID --amount TX_AMOUNT
    --terminal TERMINAL_ID --train-from 2018-07-04 --train-days 28 --delay-days 7 --test-days 28 --shares 50,30,15,5
    """
    from scenarios import mainjob, screen  # noqa: PLC0415 - training, tables and pictures are slow to import
    from scenarios.watching import cleared  # noqa: PLC0415

    if world == "list":
        return screen.worlds()
    choice = mainjob.chosen(model, method, seed, Seal(sealing, image), placement)
    columns = {"time": time, "label": label, "group": group, "amount": amount, "terminal": terminal}
    if data is None and (any(columns.values()) or train_from):
        raise EscrowError("usage", "The options for columns and dates need --data FILE.")
    own = None
    if data is not None:
        own = mainjob.own_table(
            data,
            columns,
            train_from,
            train_days=train_days,
            delay_days=delay_days,
            test_days=test_days,
            shares=shares,
            never=_listed(never),
            features=_listed(feature),
            seed=seed,
        )
    mainjob.known_world(world)
    wire: mainjob.Reach = "network" if network else "process"
    with mainjob.new_directory(keep) as directory:
        logging.getLogger("escrow").setLevel(logging.ERROR)  # the runtime's warning stands in the demo's own words
        cleared(choice.seal, directory / "escrow")  # an engine that is missing is told before anything is made
        made = [own] if own else mainjob.story(world, seed)
        return screen.answer(screen.watched(lambda tell: mainjob.run(choice, directory, made, tell=tell, wire=wire)))


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
