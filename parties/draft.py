"""Drawing a contract up: from the escrow's directory and the deposits on its ledger, so that nobody types a digest.

Rules:

1. What others have deposited is what stands on the ledger (`parties.offers`), never what the escrow says about it.
2. A contribution is a party's latest train and latest holdout deposit by one schema, and its latest incumbent model if
   it has one. Where there were several, the draft says which was taken; where one is missing, it says whose.
3. The schema itself is on no ledger, only its digest: the proposer brings the text, and every deposit must name it.
4. A draft is a valid contract but for the parties' keys, which `contracts.contract.drawn_up` fills in, and but for one
   thing that nobody else may add: that parties whose rows stay with them see every round. Where it is needed the draft
   says so and leaves it to the proposer.
5. A trimmed mean of few parties trims as much as it needs to leave somebody out, unless the proposer says how much.
6. Rows that stay with a party have placement party; training may then go on a few times after a bank's node was lost.
7. The proposer's own policy is asked; what it would veto comes back as warnings, for the draft is there to be edited.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml
from pydantic import ValidationError

from contracts.api import EscrowView, PartyView
from contracts.computation import TrimmedMean
from contracts.contract import Contract, validated
from contracts.errors import EscrowError
from contracts.proceedings import term_digest
from contracts.schema import Schema
from contracts.terms import Digest, Name, problems
from parties.files import read_document
from parties.offers import Offer
from parties.policy import Policy, Violation

STRONGEST_FIRST: Final = ("gvisor", "container", "none")
TITLE: Final = "Joint card-fraud model"
PURPOSE: Final = "Train and score card-fraud models. No other use."
MODEL: Final[Mapping[str, Any]] = MappingProxyType({"family": "mlp", "epochs": 32})
METHOD: Final[Mapping[str, Any]] = MappingProxyType({"name": "fedavg", "rounds": 32})
GAIN: Final[Mapping[str, Any]] = MappingProxyType(
    {"kind": "gain", "metric": "average-precision", "more-than": 0.0, "confidence": 0.95, "min-positives": 30}
)
"""What every contributor is promised unless the proposer says otherwise."""
RETRIES: Final = 3
"""How often one run goes on after a party was lost, where a party's rows are trained on at its own bank."""
EXPOSED: Final = "parties-see-rounds"


@dataclass(frozen=True)
class Draft:
    """A contract's document, ready to be read, edited and proposed.

    Attributes:
        document: plain values in the order in which people read them; the parties' keys are left to be filled in.
        chosen: a sentence for each choice among several deposits.
        warnings: what the proposer's own policy would veto.
        missing: a sentence for each thing without which the draft is no valid contract.
    """

    document: dict[str, Any]
    chosen: tuple[str, ...]
    warnings: tuple[Violation, ...]
    missing: tuple[str, ...] = ()


def read_schema(path: Path) -> Schema:
    """The schema in a file of the proposer's, YAML or JSON.

    Raises:
        EscrowError: `file-unreadable`, or `document-invalid` with every problem.
    """
    begin = "Begin with `columns:`; README.md shows the schema of a whole contract."
    document = read_document(path, what="schema", begin=begin)
    try:
        return Schema.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        found = problems(error)
        hint = "Correct what is named above and try again."
        raise EscrowError("document-invalid", f"{path.name} is not a valid schema.", hint, found) from None


def draft(
    info: EscrowView,
    directory: Iterable[PartyView],
    offered: Mapping[Name, Sequence[Offer]],
    *,
    me: Name,
    partners: Sequence[Name],
    schema: Schema,
    now: int,
    title: str = TITLE,
    purpose: str = PURPOSE,
    model: Mapping[str, Any] = MODEL,
    method: Mapping[str, Any] = METHOD,
    sealing: str | None = None,
    contributors: Sequence[Name] | None = None,
    recipients: Sequence[Name] | None = None,
    condition: Mapping[str, Any] = GAIN,
    release: Sequence[Mapping[str, Any]] = (),
    days: int = 30,
    limits: Mapping[str, Any] = MappingProxyType({}),
    terms: Mapping[str, Any] = MappingProxyType({}),
    policy: Policy | None = None,
) -> Draft:
    """A contract between `me` and `partners`, about what they have deposited by `schema`.

    Args:
        info: what the escrow can run.
        directory: everyone who was admitted.
        offered: what stands on the ledger, from `parties.offers.offers`.
        me: the proposer, the first party of the contract.
        partners: the other parties.
        schema: what all deposits must have been made by.
        now: whole seconds since 1970.
        title: of the contract.
        purpose: what the data and the model may be used for, and nothing else.
        model: `computation.model` as in a contract.
        method: `computation.method` as in a contract.
        sealing: how the run is sealed; None for the strongest the escrow offers.
        contributors: who contributes; None for all parties.
        recipients: who receives the model; None for all contributors.
        condition: a clause without its party, put for each contributor.
        release: further clauses, as in a contract.
        days: until the contract expires.
        limits: further limits, as in a contract (`runs`, `looks`, `not-before`).
        terms: whole terms of a contract that replace or complete the others (`disclosure`, `exposure`).
        policy: the proposer's own, if it is to be asked.

    Raises:
        EscrowError: `party-unknown` or `party-revoked`; `not-supported` if the escrow cannot run it; `deposit-unknown`
            with every party and part that is missing; `document-invalid` if the terms make no valid contract.
    """
    parties = [me, *partners]
    require_admitted(directory, parties)
    _require_method(info, str(method.get("name")))
    sealing = sealing_for(info, sealing)
    contributing = parties if contributors is None else list(contributors)
    digest = term_digest(schema)
    candidates = {party: _by_part(offered.get(party, ()), digest) for party in contributing}
    _require_deposits(candidates, digest)
    document: dict[str, Any] = {
        "contract": 1,
        "title": title,
        "purpose": purpose,
        "parties": parties,
        "contributions": [_contribution(party, found) for party, found in candidates.items()],
        "schema": schema.model_dump(mode="json", by_alias=True),
        "computation": {
            "kind": "joint-training",
            "worker": info.workers[sealing],
            "model": dict(model),
            "method": trimming(method, len(contributing)),
            "sealing": sealing,
        },
        "recipients": [{"party": party} for party in (contributing if recipients is None else recipients)],
        "release": [*(_for(party, condition) for party in contributing), *map(dict, release)],
        "limits": {"expires": expiry(now, days), **_retries(candidates), **limits},
        **terms,
    }
    contract, missing = _but_for_exposure(document)
    looks = {offer.commitment: offer.looks for offer in offered.get(me, ())}
    vetoes = policy.check(contract, party=me, looks=looks, now=now) if policy else ()
    return Draft(document, tuple(_choices(candidates)), vetoes, missing)


def _but_for_exposure(document: Mapping[str, Any]) -> tuple[Contract, tuple[str, ...]]:
    """The contract as it would be if all accepted what it exposes, and what to say where nobody has said so yet."""
    contract = validated({**document, "exposure": EXPOSED})
    if not (seers := contract.see_rounds()) or document.get("exposure") == EXPOSED:
        return validated(document), ()
    sentence = (
        f"The training rows of {', '.join(seers)} stay there, so every round sends the joint model there: it can be "
        f"kept whatever the verdict. The contract is valid only with `exposure: {EXPOSED}`, which all must accept; add "
        f"it with --exposure {EXPOSED}, or choose --method ensemble, with which nothing is sent there."
    )
    return contract, (sentence,)


def trimming(method: Mapping[str, Any], contributors: int) -> dict[str, Any]:
    """A method term; a trimmed mean with a `trim` by which somebody of so many is left out, unless it has one."""
    chosen = dict(method)
    if chosen.get("name") == "trimmed-mean" and "trim" not in chosen and contributors > 2:
        chosen["trim"] = TrimmedMean.trim_for(contributors)
    return chosen


def _retries(candidates: Mapping[Name, "Candidates"]) -> dict[str, int]:
    return {"retries": RETRIES} if any(found["train"][-1].kept for found in candidates.values()) else {}


def expiry(now: int, days: int) -> str:
    """The time, as a contract writes it, so many days after `now`, in whole seconds since 1970."""
    return (datetime.fromtimestamp(now, UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


Candidates = Mapping[str, Sequence[Offer]]
"""A party's deposits by one schema, by part, oldest first."""


def require_admitted(directory: Iterable[PartyView], parties: Collection[Name]) -> None:
    """Refuse names that no party has, or whose admission was revoked: `party-unknown`, `party-revoked`."""
    known = {view.request.name: view for view in directory}
    unknown = [name for name in parties if name not in known or known[name].request.role != "party"]
    if unknown:
        raise EscrowError("party-unknown", f"Not admitted as a party: {', '.join(unknown)}.")
    if revoked := [name for name in parties if known[name].revoked]:
        raise EscrowError("party-revoked", f"The admission was revoked of: {', '.join(revoked)}.")


def _require_method(info: EscrowView, method: str) -> None:
    if method not in info.methods:
        able = ", ".join(info.methods)
        raise EscrowError("not-supported", f"The escrow has no method {method}; it has {able}.", "Choose one it has.")


def sealing_for(info: EscrowView, sealing: str | None) -> str:
    """The sealing to ask for: the strongest that the escrow offers if None; `not-supported` if it has it not."""
    chosen = sealing or next((each for each in STRONGEST_FIRST if each in info.workers), "none")
    if chosen not in info.workers:
        able = ", ".join(info.workers) or "nothing at all"
        raise EscrowError(
            "not-supported", f"The escrow cannot seal by {chosen}; it offers {able}.", "Choose one it has."
        )
    return chosen


def _by_part(offered: Sequence[Offer], schema: Digest) -> Candidates:
    found: defaultdict[str, list[Offer]] = defaultdict(list)
    for offer in offered:
        if offer.schema == schema:
            found[offer.part].append(offer)
    return found


def _require_deposits(candidates: Mapping[Name, Candidates], schema: Digest) -> None:
    missing = [
        f"{party} ({part})" for party, found in candidates.items() for part in ("train", "holdout") if part not in found
    ]
    if missing:
        raise EscrowError(
            "deposit-unknown",
            f"No deposit by this schema, {schema}, of: {', '.join(missing)}.",
            "Ask them to deposit by this schema, or draw the contract up with the schema they deposited by.",
        )


def _contribution(party: Name, found: Candidates) -> dict[str, Any]:
    train, holdout = found["train"][-1], found["holdout"][-1]
    contribution: dict[str, Any] = {
        "party": party,
        **({"placement": "party"} if train.kept else {}),
        "train": {"commitment": train.commitment, "rows": train.rows},
        "holdout": {"commitment": holdout.commitment, "rows": holdout.rows, "positives": holdout.positives},
    }
    if "incumbent" in found:
        contribution["incumbent"] = {"commitment": found["incumbent"][-1].commitment}
    return contribution


def _for(party: Name, condition: Mapping[str, Any]) -> dict[str, Any]:
    kind, rest = condition.get("kind"), {key: value for key, value in condition.items() if key != "kind"}
    return {"kind": kind, "party": party, **rest}


def _choices(candidates: Mapping[Name, Candidates]) -> Iterator[str]:
    for party, found in candidates.items():
        for part, several in found.items():
            if len(several) > 1:
                last = several[-1]
                counts = "" if last.rows is None else f", {last.rows} rows"
                yield (
                    f"{party} has {len(several)} deposits for {part} by this schema; the latest is taken: "
                    f"{last.commitment} (ledger entry {last.entry}{counts})."
                )


# The draft as text


TEXT: Final = "tag:yaml.org,2002:str"


class _Dumper(yaml.SafeDumper):
    """YAML as README.md writes it: what holds only scalars on one line, lists indented, no aliases."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - a contract's reader refuses them
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - theirs
        super().increase_indent(flow, indentless=False)

    def represent_mapping(self, *args: Any, **kwargs: Any) -> yaml.MappingNode:
        node = super().represent_mapping(*args, **kwargs)
        node.flow_style = all(isinstance(value, yaml.ScalarNode) for _, value in node.value)
        return node

    def represent_sequence(self, *args: Any, **kwargs: Any) -> yaml.SequenceNode:
        node = super().represent_sequence(*args, **kwargs)
        node.flow_style = all(isinstance(value, yaml.ScalarNode) for value in node.value)
        return node

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Quoted where YAML would misread it, and where a colon only looks as if it would."""
        taken = self.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        quoted = taken != TEXT or ":" in text or not text.isprintable()
        return self.represent_scalar(TEXT, text, style='"' if quoted else None)


_Dumper.add_representer(str, _Dumper.represent_text)


def to_yaml(document: Mapping[str, Any]) -> str:
    """A contract's document as text to read and edit; `contracts.document.read_mapping` gives the same values back."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=160)
