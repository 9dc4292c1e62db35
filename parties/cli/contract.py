"""Draw up, read, approve, stop and watch contracts.

What is said of a contract here, before anybody signs, is computed from its own text; what signs stands in
`parties.cli.acts`, what waits in `parties.cli.watch`.
"""

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from contracts import pages
from contracts.answers import Answer
from contracts.errors import EscrowError
from contracts.schema import Schema
from parties import draft as drafts
from parties import policy
from parties.cli import EPILOG, acts, application, watch
from parties.cli.cases import brief, case_page, found, is_digest, looks, read_contract, standing
from parties.cli.desk import Desk
from parties.cli.offered import drawn_up, offered, require_new
from parties.cli.screen import page, short, table
from parties.client import Client
from parties.draft import draft, read_schema
from parties.home import kept_schema

app = application()
app.command("propose", epilog=EPILOG)(acts.propose)
app.command("approve", epilog=EPILOG)(acts.approve)
app.command("reject", epilog=EPILOG)(acts.reject)
app.command("withdraw", epilog=EPILOG)(acts.withdraw)
app.command("halt", epilog=EPILOG)(acts.halt)
app.command("watch", epilog=EPILOG)(watch.watch)

Which = Annotated[str, typer.Argument(metavar="DIGEST", help="Its first eight characters will do.")]
_METHODS = ", ".join(get_args(policy.MethodName))
File = Annotated[Path, typer.Argument(metavar="FILE", help="YAML, or JSON if its name ends in .json.")]


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Draw up, read, approve, stop and watch contracts.

    Example: party contract init --partner harbour --out contract.yaml
    """


@app.command("init", epilog=EPILOG)
def init(
    ctx: typer.Context,
    *,
    partner: Annotated[list[str], typer.Option(metavar="NAME", help="Another party. Repeatable.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the contract goes; not replaced.")],
    schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The schema; that of this party's deposits if left out.")
    ] = None,
    title: Annotated[str, typer.Option(metavar="TEXT")] = drafts.TITLE,
    purpose: Annotated[str, typer.Option(metavar="TEXT", help="The only use allowed.")] = drafts.PURPOSE,
    family: Annotated[str, typer.Option(metavar="mlp|logistic|boosted", help="The joint model's family.")] = "mlp",
    method: Annotated[str, typer.Option(metavar="METHOD", help=f"How it is trained: {_METHODS}.")] = "fedavg",
    metric: Annotated[str, typer.Option(metavar="NAME", help="What each party must gain in.")] = "average-precision",
    min_gain: Annotated[float, typer.Option(metavar="GAIN", help="Each party must gain more than this.")] = 0.0,
    min_positives: Annotated[int, typer.Option(metavar="N", help="Frauds that a test needs at least.")] = 30,
    recipient: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who receives the model; all, if left out. Repeatable.")
    ] = None,
    sealing: Annotated[str, typer.Option(metavar="gvisor|container|none", help="The strongest, if left out.")] = "",
    exposure: Annotated[
        str, typer.Option(metavar=drafts.EXPOSED, help="Accept that rows kept at a bank bring it every round's model.")
    ] = "",
    days: Annotated[int, typer.Option(metavar="DAYS", min=1, help="Until it expires.")] = 30,
) -> Answer:
    """Draw a contract up from the escrow's directory and everyone's deposits, to be read and edited.

    Every party contributes its latest deposits by the schema, receives the model, and must gain.

    Example: party contract init --partner harbour --partner valley --min-gain 0.01 --out contract.yaml
    """
    desk: Desk = ctx.obj
    require_new(out)
    if exposure not in {"", drafts.EXPOSED}:
        raise EscrowError("usage", f"--exposure is {drafts.EXPOSED}, or left out.")
    with desk.client() as client:
        made = draft(
            client.escrow.info(),
            client.escrow.directory(),
            offered(desk, client),
            me=client.name,
            now=desk.now(),
            policy=policy.load(desk.home),
            partners=partner,
            schema=_schema(desk, client, schema),
            title=title,
            purpose=purpose,
            model=_spec(drafts.MODEL, "family", family),
            method=_spec(drafts.METHOD, "name", method),
            condition={**drafts.GAIN, "metric": metric, "more-than": min_gain, "min-positives": min_positives},
            recipients=recipient or None,
            sealing=sealing or None,
            terms={"exposure": exposure} if exposure else {},
            days=days,
        )
    return drawn_up(made, out)


def _spec(default: Any, key: str, value: str) -> dict[str, Any]:
    """The default's further terms belong to its own family or method only."""
    return dict(default) if default[key] == value else {key: value}


def _schema(desk: Desk, client: Client, file: Path | None) -> Schema:
    """The schema of this party's latest deposit, unless a file is named."""
    if file is not None:
        return read_schema(file)
    own = [each for each in client.escrow.deposits() if not each.revoked]
    kept = [schema for each in own if each.data_schema and (schema := kept_schema(desk.home, each.data_schema))]
    if not kept:
        raise EscrowError(
            "deposit-unknown",
            "This home knows the schema of none of this party's deposits.",
            "Deposit a table first with `party dataset add`, or name the schema with --schema.",
        )
    if any(each != kept[0] for each in kept):
        raise EscrowError("usage", "This party deposited by several schemas.", "Name one of them with --schema.")
    return kept[0]


@app.command("validate", epilog=EPILOG)
def validate(file: File) -> Answer:
    """Check that a contract's text is valid, and show its digest if every party's key is filled in.

    A draft without keys will do. Every problem is named with its place. Needs no escrow.

    Example: party contract validate contract.yaml
    """
    contract = read_contract(file)
    return Answer(pages.validity(contract), page([pages.validity_page(contract, file.name)]))


@app.command("explain", epilog=EPILOG)
def explain(
    ctx: typer.Context,
    which: Annotated[str, typer.Argument(metavar="FILE|DIGEST", help="A digest's first eight characters will do.")],
    party: Annotated[str, typer.Option(metavar="NAME", help="Only what follows for this party.")] = "",
) -> Answer:
    """Say in sentences what a contract means: what runs, who learns what in each outcome, and what to beware of.

    A file needs no escrow, and may be a draft.

    Example: party contract explain contract.yaml --party north
    """
    desk: Desk = ctx.obj
    if is_digest(which):
        with desk.client() as client:
            contract = found(client.escrow, which).contract
    else:
        contract = read_contract(Path(which))
    return Answer(pages.consequences(contract, party), page(pages.consequences_page(contract, party)))


@app.command("list", epilog=EPILOG)
def list_(
    ctx: typer.Context,
    state: Annotated[str, typer.Option(metavar="STATE", help="Only those in this state, as in open or released.")] = "",
) -> Answer:
    """List this party's contracts, where each stands and whom it waits for.

    Example: party contract list --state open
    """
    desk: Desk = ctx.obj
    with desk.client() as client:
        views = [each for each in client.escrow.contracts() if not state or each.state == state]
    rows = ((short(each.digest), standing(each), each.contract.title) for each in views)
    nothing = "No contract is in this state." if state else "No contract names this party yet."
    shown = table(("contract", "state", "title"), rows) if views else nothing
    return Answer({"contracts": [brief(each) for each in views]}, shown)


@app.command("show", epilog=EPILOG)
def show(ctx: typer.Context, which: Which) -> Answer:
    """Show one contract and how far it has come; with `--format json` its whole text too.

    Example: party contract show 4f1d09aa
    """
    desk: Desk = ctx.obj
    with desk.client() as client:
        view = found(client.escrow, which)
        verdict = acts.verdict(desk, client.name, view.contract, looks(client.escrow))
    document = view.contract.model_dump(mode="json", by_alias=True, exclude_none=True)
    data = {**brief(view), "stages": list(view.stages), "policy": verdict, "contract": document}
    return Answer(data, page(case_page(view)))
