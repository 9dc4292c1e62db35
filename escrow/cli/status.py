"""Show an escrow at a glance: where it serves, who waits, what runs."""

from rich.console import RenderableType

from contracts.answers import Answer
from escrow.cli.home import Home, ask, facts, short


def status(home: Home) -> Answer:
    """Show an escrow at a glance: where it serves, who waits, what runs.

    Example: escrow status --home /var/lib/escrow
    """
    data = ask(home, "status")
    return Answer(data, _page(data))


def _page(data: dict[str, object]) -> RenderableType:
    contracts, running = data["contracts"], data["running"]
    states = ", ".join(f"{count} {state}" for state, count in contracts.items()) if isinstance(contracts, dict) else ""
    runs = ", ".join(map(short, running)) if isinstance(running, list) else ""
    missing = data["nodes-missing"]
    nodes = [("nodes", f"not connected: {', '.join(missing)}")] if isinstance(missing, list) and missing else []
    rows = [
        ("ledger", f"{data['ledger']}, {data['entries']} entries"),
        ("fingerprint", data["fingerprint"]),
        ("serves", f"parties at {data['address']}, enrolment at {data['enrolment']}" if data["serving"] else "no"),
        ("parties", f"{data['admitted']} admitted, {data['waiting']} waiting"),
        ("contracts", states or "none open"),
        *nodes,
        ("running", runs or "nothing"),
    ]
    sealing = (("worker", data["worker"]), ("sealing", data["sealing"]), ("beware", data["warning"]))
    return facts([*rows, *(row for row in sealing if row[1])])
