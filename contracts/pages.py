"""A contract as people meet it at either side: read with every problem named, and laid out as a page of sections.

A page is plain text with the names of styles beside it, so each program prints it as its terminal can. Contracts come
from others: whatever of them is laid out is spelled out by `contracts.answers.printable` and holds no line break of
its own, so a contract cannot write a line that looks like one of the program's.
"""

from collections.abc import Iterable, Iterator, Mapping
from textwrap import wrap
from typing import Any, Final, Literal, NamedTuple

from pydantic import ValidationError

from contracts.answers import printable
from contracts.consequences import Explanation, ForParty, explain
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.terms import problems

Style = Literal["", "bold", "dim", "green", "yellow", "red"]

_OUTCOMES: Final[Mapping[str, Style]] = {"released": "green", "withheld": "yellow", "held": "yellow", "failed": "red"}


class Line(NamedTuple):
    """A sentence, and what stands before it: a bullet, a number or a name."""

    text: str
    mark: str = ""
    style: Style = ""
    text_style: Style = ""


class Section(NamedTuple):
    """Lines under a title; without one they stand for themselves."""

    title: str
    lines: tuple[Line, ...]


def laid_out(page: Iterable[Section], width: int) -> Iterator[tuple[str, Style]]:
    """The pieces of a page in their order, each with its style; a line break between lines, none at the end.

    Args:
        page: what to lay out.
        width: of the terminal, in characters; a longer word stands on a line of its own.
    """
    between = ""
    for title, lines in page:
        if title:
            yield f"{between}\n{printable(title)} ", "bold"
            yield "─" * (width - len(title) - 1), "dim"
            between = "\n"
        indent = max((len(line.mark) + 1 for line in lines if line.mark), default=0)
        for line in lines:
            text = wrap(one_line(line.text), max(width - indent, 20), break_on_hyphens=False, break_long_words=False)
            yield between + line.mark.ljust(indent), line.style
            yield ("\n" + " " * indent).join(text), line.text_style
            between = "\n"


def one_line(text: str) -> str:
    """Text of others on one line, without anything that moves a cursor."""
    return printable(" ".join(text.split()))


def contract_from(document: object, name: str) -> Contract:
    """The contract that a document holds; it may be a draft without keys.

    Args:
        document: plain values.
        name: what the document is called, usually a file's name.

    Raises:
        EscrowError: `document-invalid` with every problem that was found.
    """
    try:
        return Contract.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        found = problems(error)
        raise EscrowError(
            "document-invalid",
            f"{name} is not a valid contract: {counted(len(found), 'problem', 'problems')}.",
            "Correct what is named above and validate again.",
            found,
        ) from None


def signed_digest(contract: Contract) -> str | None:
    """The digest that parties sign; None for a draft whose keys are not all filled in."""
    return contract.digest() if all(party.key for party in contract.parties) else None


def validity(contract: Contract) -> dict[str, Any]:
    """What there is to say of a valid contract, for programs."""
    return {
        "valid": True,
        "title": contract.title,
        "digest": signed_digest(contract),
        "parties": len(contract.parties),
        "clauses": len(contract.release),
    }


def validity_page(contract: Contract, name: str) -> Section:
    """The same for people."""
    parties = counted(len(contract.parties), "party", "parties")
    clauses = counted(len(contract.release), "clause", "clauses")
    lines = (
        f"{name} is a valid contract: {contract.title}",
        f"{parties}, {clauses} that must hold",
        _digest_words(contract),
    )
    return Section("", tuple(map(Line, lines)))


def consequences(contract: Contract, party: str = "") -> dict[str, Any]:
    """What follows from a contract, for programs; `party` narrows it to what follows for one.

    Raises:
        EscrowError: `party-unknown`.
    """
    explanation = explain(contract)
    chosen = _chosen(explanation, contract, party)
    return explanation.model_dump(mode="json", by_alias=True) | {
        "digest": signed_digest(contract),
        "purpose": contract.purpose,
        "parties": [each.model_dump(mode="json", by_alias=True) for each in chosen],
    }


def consequences_page(contract: Contract, party: str = "", notes: Iterable[str] = ()) -> list[Section]:
    """The same for people; `notes` are warnings about what runs.

    Raises:
        EscrowError: `party-unknown`.
    """
    explanation = explain(contract)
    return [
        Section(
            "",
            (
                Line(contract.title, text_style="bold"),
                Line(f"Purpose: {contract.purpose}"),
                Line(_digest_words(contract), text_style="dim"),
            ),
        ),
        Section("What runs", (*_listed([explanation.computation]), *warned(notes))),
        Section(_conditions(contract), tuple(_numbered(explanation.conditions))),
        Section("Who learns what", tuple(_outcomes(explanation))),
        Section("The operator of the escrow", tuple(_listed(explanation.operator))),
        *(
            Section(f"For {each.party}", (*_listed(each.consequences), *warned(each.warnings)))
            for each in _chosen(explanation, contract, party)
        ),
    ]


def warned(sentences: Iterable[str]) -> Iterator[Line]:
    """Sentences to beware of."""
    return (Line(each, "!", "yellow", "yellow") for each in sentences)


def counted(number: int, one: str, several: str) -> str:
    """`1 party`, `2 parties`."""
    return f"{number} {one if number == 1 else several}"


def _chosen(explanation: Explanation, contract: Contract, party: str) -> list[ForParty]:
    found = [each for each in explanation.parties if not party or each.party == party]
    if not found:
        names = ", ".join(contract.names())
        raise EscrowError("party-unknown", f"{party} is not one of the parties.", f"Name one of them: {names}.")
    return found


def _digest_words(contract: Contract) -> str:
    none = "none yet, this is a draft: the keys of its parties are not filled in"
    return f"Digest: {signed_digest(contract) or none}"


def _listed(sentences: Iterable[str]) -> Iterator[Line]:
    return (Line(each, "•") for each in sentences)


def _conditions(contract: Contract) -> str:
    """What the conditions are called: clauses that must hold, or outputs and what becomes of each."""
    return "Released only if all of this holds" if contract.training else "What may leave"


def _numbered(sentences: Iterable[str]) -> Iterator[Line]:
    return (Line(each, f"{number}.") for number, each in enumerate(sentences, 1))


def _outcomes(explanation: Explanation) -> Iterator[Line]:
    return (Line(words, outcome, _OUTCOMES.get(outcome, "")) for outcome, words in explanation.outcomes.items())
