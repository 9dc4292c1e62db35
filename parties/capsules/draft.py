"""Drawing up the contract under which a capsule runs on somebody's table, so that nobody types a digest.

Rules:

1. Code, environment and declared outputs are those of the capsule in its author's directory, which must be deposited.
2. Each owner contributes its latest table; where there were several, the draft says which was taken.
3. The author receives the outputs, nobody else does; who else should is added by hand.
4. It is a valid contract but for the parties' keys, and the author's own policy is asked, as in `parties.draft`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from contracts.api import EscrowView, PartyView
from contracts.capsule import Capsule
from contracts.contract import validated
from contracts.errors import EscrowError
from contracts.terms import Commitment, Digest, Name
from parties.draft import Draft, expiry, require_admitted, sealing_for
from parties.offers import Offer
from parties.policy import Policy

TITLE: Final = "A capsule on confidential rows"
PURPOSE: Final = "Run the capsule and release its declared outputs. No other use."


def files_of(owners: Sequence[str], capsule: Capsule) -> dict[Name, str]:
    """Owner → the file that its table becomes, from `NAME` where the capsule reads one file, else from `NAME=FILE`.

    Raises:
        EscrowError: `tables-differ` unless every declared file has an owner of its own.
    """
    declared = capsule.declaration.data
    pairs = [owner.partition("=")[::2] for owner in owners]
    found = {name: file or (declared[0] if len(declared) == 1 else "") for name, file in pairs}
    if len(found) != len(owners) or sorted(found.values()) != sorted(declared):
        raise EscrowError(
            "tables-differ",
            f"The capsule reads {', '.join(declared)}; each of them needs one owner.",
            "Name them as --owner NAME=FILE, once for each.",
        )
    return found


def capsule_draft(
    info: EscrowView,
    directory: Iterable[PartyView],
    offered: Mapping[Name, Sequence[Offer]],
    *,
    me: Name,
    capsule: Capsule,
    commitment: Commitment,
    files: Mapping[Name, str],
    image: Digest,
    now: int,
    title: str = TITLE,
    purpose: str = PURPOSE,
    sealing: str | None = None,
    error_place: bool = False,
    days: int = 30,
    policy: Policy | None = None,
) -> Draft:
    """A contract in which `me` runs a capsule on tables of others.

    Args:
        info: what the escrow can run.
        directory: everyone who was admitted.
        offered: what stands on the ledger, from `parties.offers.offers`.
        me: the proposer, whose capsule it is.
        capsule: what runs.
        commitment: that it was deposited under.
        files: owner → file of `/data` that its table becomes, from `files_of`.
        image: what its environment was built as.
        now: whole seconds since 1970.
        title: of the contract.
        purpose: what the tables may be used for, and nothing else.
        sealing: how the run is sealed; None for the strongest the escrow offers.
        error_place: whether a failure tells the exception's class and the line of the capsule's code.
        days: until the contract expires.
        policy: the proposer's own, if it is to be asked.

    Raises:
        EscrowError: `party-unknown` or `party-revoked`; `not-supported` if the escrow cannot run it; `deposit-unknown`
            with every owner that has no table; `document-invalid` if the terms make no valid contract.
    """
    parties = [me, *files]
    require_admitted(directory, parties)
    tables = {owner: [each for each in offered.get(owner, ()) if each.part == "table"] for owner in files}
    if missing := [owner for owner, found in tables.items() if not found]:
        raise EscrowError(
            "deposit-unknown",
            f"No table for capsules was deposited by: {', '.join(missing)}.",
            "Ask them for `party dataset add FILE --as table`.",
        )
    declared = capsule.declaration.model_dump(mode="json", by_alias=True)
    document: dict[str, Any] = {
        "contract": 1,
        "title": title,
        "purpose": purpose,
        "parties": parties,
        "contributions": [
            {"party": me, "capsule": {"commitment": commitment}},
            *({"party": owner, "table": _table(found[-1], files[owner])} for owner, found in tables.items()),
        ],
        "computation": {
            "kind": "capsule",
            "capsule": capsule.digest,
            "image": image,
            "mode": "validate",
            "outputs": declared["outputs"],
            "limits": declared["limits"],
            "sealing": _sealed(sealing_for(info, sealing)),
        },
        "recipients": [{"party": me, "receives": "outputs"}],
        "release": [],
        "disclosure": {
            "released": ["verdict"],
            "withheld": ["verdict"],
            "failed": ["error-code", "error-place"] if error_place else ["error-code"],
        },
        "limits": {"expires": expiry(now, days)},
    }
    contract = validated(document)
    vetoes = policy.check(contract, party=me, looks={}, now=now) if policy else ()
    chosen = tuple(
        f"{owner} has {len(found)} tables; the latest is taken: {found[-1].commitment} "
        f"(ledger entry {found[-1].entry}, {found[-1].rows} rows)."
        for owner, found in tables.items()
        if len(found) > 1
    )
    return Draft(document, chosen, vetoes)


def _table(offer: Offer, file: str) -> dict[str, Any]:
    return {"commitment": offer.commitment, "rows": offer.rows, "file": file}


def _sealed(sealing: str) -> str:
    """Refuse a draft that could never be proposed: nobody runs strangers' code unsealed."""
    if sealing == "none":
        raise EscrowError("not-supported", "The escrow seals nothing, and a capsule runs sealed or not at all.")
    return sealing
