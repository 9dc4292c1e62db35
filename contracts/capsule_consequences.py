"""What follows from a capsule contract, in sentences: what runs, what leaves, and what each party gives and learns."""

from collections.abc import Iterator

from contracts.computation import CapsuleRun
from contracts.contract import Contract
from contracts.contributions import TableContribution
from contracts.facts import Facts, agreed, count, listed

_SEALED = {
    "container": "sealed in a container without network",
    "gvisor": "sealed in a container without network, under gVisor",
}


def computation(capsule: CapsuleRun) -> str:
    """What runs, and on what."""
    return (
        f"The capsule {capsule.capsule} runs {_SEALED[capsule.sealing]}, in mode {capsule.mode}: first on its own "
        "synthetic rows, then, if that was green, the same code on the contributed tables, with CONFIDENTIAL=yes. "
        f"Image: {capsule.image}. It has {capsule.limits.seconds} seconds and {capsule.limits.memory_mib} MiB."
    )


def conditions(capsule: CapsuleRun) -> tuple[str, ...]:
    """What may leave, and what must be so first: one sentence for each declared output."""
    alone = "leaves as the capsule wrote it: no machine looks at it."
    together = "is held with the others; no machine looks at it."
    return tuple(
        f"{output.path} ({output.kind}, at most {output.size_kib} KiB) "
        + (
            f"is held until it has been vetted by {output.vetting}."
            if output.vetting != "none"
            else (together if capsule.unvetted() else alone)
        )
        for output in capsule.outputs
    )


def outcomes(facts: Facts, capsule: CapsuleRun) -> dict[str, str]:
    """What is learned in each outcome."""
    place = (
        " Every reader of the ledger also learns an exception's class, a file and a line of the capsule's code, which "
        "the code can choose by what it reads: some 30 bits."
        if "error-place" in facts.contract.disclosure.failed
        else ""
    )
    receive = agreed(len(facts.recipients), "receives", "receive")
    found = {
        "released": f"{listed(facts.recipients)} {receive} the declared outputs; every party learns that they were "
        "released."
    }
    if capsule.unvetted():
        found = {
            "held": "Nothing leaves: all outputs are held, encrypted to the run key, until the contract expires or is "
            "halted. This escrow cannot vet outputs yet."
        }
    code = "Every party learns a catalogued error code: that the capsule failed, or which limit ended it."
    whose = " If that is because of one party's deposit, that party and the operator are told so, and nobody else."
    return found | {"failed": f"{code}{place}{whose}"}


def for_party(facts: Facts, name: str) -> Iterator[str]:
    """What follows for one party."""
    contribution, others = facts.contributed.get(name), count(facts.recipients, but=name)
    if isinstance(contribution, TableContribution):
        table = contribution.table
        yield (
            f"{name}'s table {table.file}, {table.rows} rows as {name} states, lies encrypted at the escrow; approving "
            "seals its key to this contract's run key. Every reader of the ledger learns that count."
        )
        if others:
            receive, who = agreed(others, "receives", "receive"), listed(facts.recipients, but=name)
            yield f"If released, {who} {receive} what the capsule computed from {name}'s rows, as declared above."
    elif contribution is not None:
        yield f"{name}'s capsule lies encrypted at the escrow; the contract names its digest, and nothing else can run."
    else:
        yield f"{name} contributes nothing."
    if name in facts.recipients:
        yield f"If released, {name} receives the declared outputs, encrypted to its key."
    else:
        yield f"{name} receives no outputs in any outcome."
    yield f"Until the release {name} can halt the contract at any time; one rejection by anyone ends it."


def warnings(facts: Facts, capsule: CapsuleRun, name: str) -> Iterator[str]:
    """What a party should think about before it signs."""
    if isinstance(facts.contributed.get(name), TableContribution):
        yield (
            "The capsule's author can put any row into an output: read its code, whose digest "
            "`party capsule digest` computes, before you approve."
        )
        if plain := [output.path for output in capsule.outputs if output.vetting == "none"]:
            yield f"Nothing checks what {', '.join(plain)} give away about single rows of {name}."
    if (runs := facts.contract.limits.runs) > 1:
        yield f"Up to {runs} runs over the same rows, each of which can end in another way."


def card(contract: Contract) -> list[str]:
    """What the card of released outputs says."""
    tables = ", ".join(f"{c.table.file} of {c.party} ({c.table.rows} rows as stated)" for c in contract.tables)
    declared = contract.computation.outputs if isinstance(contract.computation, CapsuleRun) else ()
    return [
        f"Computed from: {tables}.",
        "Released after the same capsule was green on its synthetic rows:",
        "",
        *(f"- {output.path} ({output.kind})" for output in declared),
        "",
        "Limits: nothing but the capsule's own code says what the figures mean; no machine has checked what they give",
        "away about single rows.",
    ]
