"""Contracts as the commands find and show them: by the beginning of a digest, or from a file."""

import re
from pathlib import Path
from typing import Any, Final

from contracts import pages
from contracts.api import CaseView, Escrow
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.lifecycle import State
from contracts.pages import Line, Section
from contracts.terms import Commitment
from parties.files import read_document

_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{8,64})")
_BEGIN: Final = "Begin with `contract: 1`, or let `party contract init` draw it up."


def is_digest(text: str) -> bool:
    """Whether this can only be a digest's beginning, and is no file that is there."""
    return _DIGEST.fullmatch(text) is not None and not Path(text).exists()


def read_contract(path: Path) -> Contract:
    """The contract in a file, which may be a draft.

    Raises:
        EscrowError: `file-unreadable`, or `document-invalid` with every problem.
    """
    return pages.contract_from(read_document(path, what="contract", begin=_BEGIN), path.name)


def found(escrow: Escrow, text: str) -> CaseView:
    """The contract whose digest begins so; the digest is computed again from what the escrow shows.

    Raises:
        EscrowError: `usage`, `contract-unknown` if none begins so, or several do, or `digest-mismatch`.
    """
    match = _DIGEST.fullmatch(text)
    if not match:
        raise EscrowError(
            "usage", f"{text!r} is no contract's digest.", "Give eight or more of its characters; see contract list."
        )
    digest = f"sha256:{match[1]}"
    if len(match[1]) == 64:
        view = escrow.view(digest)
    else:
        views = [each for each in escrow.contracts() if each.digest.startswith(digest)]
        if len(views) != 1:
            count = "Several contracts begin" if views else "No contract begins"
            raise EscrowError("contract-unknown", f"{count} with {match[1]}.", "See `party contract list`.")
        view = views[0]
    if view.contract.digest() != view.digest or not view.digest.startswith(digest):
        raise EscrowError("digest-mismatch", "The escrow shows another contract under this digest.")
    return view


def looks(escrow: Escrow) -> dict[Commitment, int]:
    """Runs started over each of the caller's deposits, as the escrow states them."""
    return {each.commitment: each.looks for each in escrow.deposits()}


def standing(view: CaseView) -> str:
    """Where a contract stands and whom it waits for, in words."""
    waits = f"; waits for {', '.join(view.turn)}" if view.turn else ""
    reason = f" ({view.reason})" if view.reason != view.state else ""
    return f"{view.state}{reason}{waits}"


def brief(view: CaseView) -> dict[str, Any]:
    """One contract in a list, for programs."""
    return {
        "digest": view.digest,
        "title": view.contract.title,
        "proposer": view.proposer,
        "state": view.state,
        "reason": view.reason,
        "turn": list(view.turn),
        "approved": list(view.approved),
        "run": view.run,
        "verdict": view.verdict,
        "place": view.place,
        "fault": view.fault,
    }


def case_page(view: CaseView) -> list[Section]:
    """One contract and how far it has come, for people."""
    contract = view.contract
    lines = [
        Line(view.digest, "digest"),
        Line(standing(view), "state"),
        Line(contract.purpose, "purpose"),
        Line(view.proposer, "proposed by"),
        Line(", ".join(contract.names()), "parties"),
        Line(", ".join(view.approved) or "nobody yet", "approved by"),
        Line(f"{view.run} of {contract.limits.runs}", "runs"),
        Line(f"{contract.limits.expires:%Y-%m-%d %H:%M} UTC", "expires"),
    ]
    if view.stages:
        lines.append(Line(", ".join(view.stages), "stages"))
    if view.verdict:
        lines.append(Line(view.verdict, "verdict"))
    if view.place:
        lines.append(Line(view.place, "failed at"))
    if view.fault:
        lines.append(Line(view.fault, "because of this party"))
    title = Section("", (Line(contract.title, text_style="bold"),))
    return [title, Section("", tuple(lines)), Section("Next", (Line(_next(view)),))]


def _next(view: CaseView) -> str:
    name = view.digest.rpartition(":")[2][:8]
    if view.state == State.RELEASED:
        return f"party release fetch {name}"
    if view.state == State.OPEN:
        return f"party contract explain {name}, then approve or reject {name}"
    if view.state in {State.PROPOSED, State.APPROVED, State.RUNNING, State.RELEASING}:
        return f"party contract watch {name} --until-ended"
    if view.state == State.HELD:
        return f"wait: its outputs are held until they can be vetted; party contract halt {name} destroys them"
    return "nothing: it has ended"
