"""What this party states about a contract: propose, approve, reject, withdraw, halt.

Each shows what it is about, and signs only after a person typed the beginning of the contract's digest, or a script
gave the whole of it. An approval, and a proposal, must be within the bank's own policy; no flag overrides it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts import pages
from contracts.answers import Answer
from contracts.api import CaseView, Receipt
from contracts.contract import Contract, drawn_up
from contracts.errors import EscrowError
from contracts.pages import Line, Section
from contracts.terms import Commitment, Name
from parties import policy
from parties.cli.cases import brief, found, looks, read_contract, standing
from parties.cli.desk import Desk, confirm, tell
from parties.cli.screen import short, tell_page
from parties.client import Client, directory_keys

Which = Annotated[str, typer.Argument(metavar="[DIGEST]", help="Its first eight characters will do.")]
Whole = Annotated[str, typer.Option("--digest", metavar="DIGEST", help="The whole of it confirms, for scripts.")]


def propose(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE", help="The contract, or a draft of it.")]
) -> Answer:
    """Fill in everyone's keys, check the contract and this party's own policy, and put it before its parties.

    Proposing approves nothing: the proposer approves like everyone else.

    Example: party contract propose contract.yaml
    """
    desk: Desk = ctx.obj
    written = read_contract(file)
    with desk.client() as client:
        contract = drawn_up(written, directory_keys(client.escrow))
        own = policy.load(desk.home)
        own.require(contract, party=client.name, looks=looks(client.escrow), now=desk.now())
        digest = client.propose(contract)
        view = client.view(digest)
    lines = [
        f"Proposed: {pages.one_line(contract.title)}",
        f"Digest: {digest}",
        f"Now {standing(view)}.",
        "",
        f"Next, each party: party contract approve {short(digest)}",
    ]
    return Answer(brief(view), "\n".join(lines))


def approve(ctx: typer.Context, which: Which = "", whole: Whole = "") -> Answer:
    """Read what follows, check this party's policy, and sign the contract's digest; seals the keys of its deposits.

    Refused against the policy, with every violation. To approve nevertheless, edit policy.yml first.

    Example: party contract approve 4f1d09aa
    """
    desk: Desk = ctx.obj
    with desk.client() as client:
        view = _about(client, which, whole)
        if client.name in view.approved:
            return Answer({**brief(view), "entry": None}, f"{client.name} has approved it before.\n{standing(view)}")
        counted = looks(client.escrow)
        tell_page([*pages.consequences_page(view.contract, client.name), _own(desk, client, view, counted)])
        policy.load(desk.home).require(view.contract, party=client.name, looks=counted, now=desk.now())
        tell("")
        confirm(view.digest, whole, option="--digest", to="approve")
        return _answer(client, client.approve(view.digest), view.digest, "Approved")


def reject(ctx: typer.Context, which: Which = "", whole: Whole = "") -> Answer:
    """Say no, for good: the contract ends for everybody.

    Example: party contract reject 4f1d09aa
    """
    return _ended(
        ctx.obj, which, whole, verb="reject", done="Rejected", sign=lambda client, digest: client.reject(digest)
    )


def withdraw(ctx: typer.Context, which: Which = "", whole: Whole = "") -> Answer:
    """Take back a proposal of this party's own, before everyone approved it.

    Example: party contract withdraw 4f1d09aa
    """
    return _ended(
        ctx.obj, which, whole, verb="withdraw", done="Withdrawn", sign=lambda client, digest: client.withdraw(digest)
    )


def halt(ctx: typer.Context, which: Which = "", whole: Whole = "") -> Answer:
    """Stop a contract for good, at any time before its release, also while it runs.

    Example: party contract halt 4f1d09aa
    """
    return _ended(ctx.obj, which, whole, verb="halt", done="Halted", sign=lambda client, digest: client.halt(digest))


def verdict(desk: Desk, party: Name, contract: Contract, counted: Mapping[Commitment, int]) -> dict[str, Any]:
    """What this party's policy says of a contract."""
    found = policy.load(desk.home).check(contract, party=party, looks=counted, now=desk.now())
    return {"allowed": not found, "violations": [{"term": each.term, "sentence": each.sentence} for each in found]}


def _ended(
    desk: Desk, which: str, whole: str, *, verb: str, done: str, sign: Callable[[Client, str], Receipt]
) -> Answer:
    """A statement that ends a contract."""
    with desk.client() as client:
        view = _about(client, which, whole)
        tell(f"{pages.one_line(view.contract.title)}\nNow {standing(view)}. To {verb} it is final.")
        confirm(view.digest, whole, option="--digest", to=f"{verb} it")
        return _answer(client, sign(client, view.digest), view.digest, done)


def _about(client: Client, which: str, whole: str) -> CaseView:
    if not which and not whole:
        raise EscrowError("usage", "Nothing says which contract is meant.", "See `party contract list`.")
    return found(client.escrow, which or whole)


def _answer(client: Client, receipt: Receipt, digest: str, done: str) -> Answer:
    view = client.view(digest)
    words = f"{done}, ledger entry {receipt.index}: {digest}\nNow {standing(view)}."
    return Answer({**brief(view), "entry": receipt.index}, words)


def _own(desk: Desk, client: Client, view: CaseView, counted: Mapping[Commitment, int]) -> Section:
    """What this bank should know besides: its looks, its policy, and where the contract stands."""
    said = verdict(desk, client.name, view.contract, counted)
    lines = [
        Line("allows it", "policy", "green")
        if said["allowed"]
        else Line("does not allow it: " + "; ".join(each["sentence"] for each in said["violations"]), "policy", "red"),
        Line(standing(view), "state"),
    ]
    if part := view.contract.contribution(client.name):
        so_far = counted.get(part.holdout.commitment, "an unknown number")
        more = view.contract.limits.runs
        lines.insert(0, Line(f"{so_far} so far at this holdout, {more} more at most by this contract", "looks"))
    return Section(f"This bank, {client.name}", tuple(lines))
