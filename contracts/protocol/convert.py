"""Views as messages and back: the one place that knows both."""

from collections.abc import Iterable
from typing import Final, TypeVar

from pydantic import ValidationError

from contracts.api import CaseView, DepositView, EscrowView, Event, PartyView, Receipt
from contracts.canonical import parse
from contracts.contract import Contract, validated
from contracts.errors import CODES, EscrowError
from contracts.nodes import Begin, Failed, Here, Over, Piece, Said, Told
from contracts.protocol import escrow_pb2 as pb
from contracts.statements import EnrolmentRequest

Hashes = tuple[str, ...]
_Numbers = TypeVar("_Numbers", Here, Begin)
TEXT_AT_MOST: Final = 600  # characters, of which one takes up to 4 bytes
PROBLEM_BYTES: Final = 6 << 10  # HTTP/2 peers take 8 KiB of metadata


def to_info(view: EscrowView) -> pb.InfoResponse:
    """What every caller may know of the escrow."""
    return pb.InfoResponse(
        ledger=view.ledger,
        public_key=view.public_key,
        workers=view.workers,
        methods=view.methods,
        sealings=view.sealings,
    )


def from_info(message: pb.InfoResponse) -> EscrowView:
    """See `to_info`."""
    return EscrowView(
        ledger=message.ledger,
        public_key=message.public_key,
        workers=dict(message.workers),
        methods=tuple(message.methods),
        sealings=tuple(message.sealings),
    )


def to_party(view: PartyView) -> pb.Party:
    """An entry of the directory."""
    return pb.Party(request=view.request.payload(), revoked=view.revoked)


def from_party(message: pb.Party) -> PartyView:
    """See `to_party`."""
    return PartyView(request=EnrolmentRequest.model_validate(parse(message.request)), revoked=message.revoked)


def to_receipt(receipt: Receipt) -> pb.SubmitResponse:
    """Where a statement stands."""
    return pb.SubmitResponse(
        index=receipt.index,
        time=receipt.time,
        envelope=receipt.envelope,
        head=receipt.head,
        proof=to_hashes(receipt.proof),
    )


def from_receipt(message: pb.SubmitResponse) -> Receipt:
    """See `to_receipt`."""
    return Receipt(
        index=message.index,
        time=message.time,
        envelope=message.envelope,
        head=message.head,
        proof=from_hashes(message.proof),
    )


def to_deposit(view: DepositView) -> pb.StatedDeposit:
    """A deposit."""
    return pb.StatedDeposit(
        party=view.party,
        part=view.part,
        commitment=view.commitment,
        schema=view.data_schema,
        rows=view.rows,
        positives=view.positives,
        revoked=view.revoked,
        looks=view.looks,
        kept=view.kept,
    )


def from_deposit(message: pb.StatedDeposit) -> DepositView:
    """See `to_deposit`."""
    return DepositView(
        party=message.party,
        part=message.part,
        commitment=message.commitment,
        data_schema=message.schema if message.HasField("schema") else None,
        rows=message.rows if message.HasField("rows") else None,
        positives=message.positives if message.HasField("positives") else None,
        revoked=message.revoked,
        looks=message.looks,
        kept=message.kept,
    )


def to_case(view: CaseView) -> pb.Case:
    """A contract and where it stands."""
    return pb.Case(
        digest=view.digest,
        contract=view.contract.canonical(),
        proposer=view.proposer,
        state=view.state,
        reason=view.reason,
        turn=view.turn,
        run_recipient=view.run_recipient,
        approved=view.approved,
        run=view.run,
        stages=view.stages,
        verdict=view.verdict,
        package=view.package,
        place=view.place,
        fault=view.fault,
    )


def from_case(message: pb.Case) -> CaseView:
    """See `to_case`. The contract's digest is not believed here: who signs computes it again."""
    return CaseView(
        digest=message.digest,
        contract=_contract(message.contract),
        proposer=message.proposer,
        state=message.state,
        reason=message.reason,
        turn=tuple(message.turn),
        run_recipient=message.run_recipient if message.HasField("run_recipient") else None,
        approved=tuple(message.approved),
        run=message.run,
        stages=tuple(message.stages),
        verdict=message.verdict if message.HasField("verdict") else None,
        package=message.package if message.HasField("package") else None,
        place=message.place if message.HasField("place") else None,
        fault=message.fault if message.HasField("fault") else None,
    )


def _contract(data: bytes) -> Contract:
    contract = validated(parse(data))
    if contract.canonical() != data:
        raise EscrowError("not-canonical", "The escrow sent a contract in another form than the one that is signed.")
    return contract


def to_event(event: Event) -> pb.WatchResponse:
    """Something that happened."""
    return pb.WatchResponse(index=event.index, time=event.time, kind=event.kind, contract=event.contract)


def from_event(message: pb.WatchResponse) -> Event:
    """See `to_event`."""
    return Event(index=message.index, time=message.time, kind=message.kind, contract=message.contract)


def to_hashes(hashes: Hashes) -> list[bytes]:
    """Hashes in hex as bytes."""
    return [bytes.fromhex(each) for each in hashes]


def from_hashes(hashes: Iterable[bytes]) -> Hashes:
    """Hashes as bytes in hex."""
    return tuple(each.hex() for each in hashes)


def to_problem(error: EscrowError) -> bytes:
    """A refusal as it travels: code, sentence, hint, and never a trace; cut to what fits into metadata."""
    problem = pb.Problem(code=error.code, message=_cut(error.message), hint=_cut(error.hint))
    for each in map(_cut, error.details):
        problem.details.append(each)
        if problem.ByteSize() > PROBLEM_BYTES:
            problem.details[-1] = "and more"
            break
    return problem.SerializeToString()


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_AT_MOST else f"{text[:TEXT_AT_MOST]} …"


def from_problem(data: bytes) -> EscrowError:
    """See `to_problem`. A code that this side does not know is kept in the sentence."""
    problem = pb.Problem.FromString(data)
    if problem.code in CODES:
        return EscrowError(problem.code, problem.message, problem.hint, problem.details)
    sentence = f"{problem.message.rstrip('.')} ({problem.code})."
    return EscrowError("statement-refused", sentence, problem.hint, problem.details)


def to_said(said: Said, contract: str) -> pb.JoinRequest:
    """What a node says; the contract stands in `here`."""
    match said:
        case Here(run=run, attempt=attempt, questions=questions):
            return pb.JoinRequest(here=pb.JoinHere(contract=contract, run=run, attempt=attempt, questions=questions))
        case Failed(code=code):
            return pb.JoinRequest(failed=code)
        case Piece(data=data, last=last):
            return pb.JoinRequest(piece=pb.Piece(data=data, last=last))


def from_said(message: pb.JoinRequest) -> Said:
    """See `to_said`.

    Raises:
        EscrowError: `message-refused` if it says nothing, or numbers beyond all bounds.
    """
    match message.WhichOneof("said"):
        case "here":
            here = message.here
            return _numbers(Here, run=here.run, attempt=here.attempt, questions=here.questions)
        case "failed":
            return Failed(code=message.failed)
        case "piece":
            return Piece(message.piece.data, message.piece.last)
    raise EscrowError("message-refused", "A node said nothing.")


def to_told(told: Told) -> pb.JoinResponse:
    """What the escrow tells a node."""
    match told:
        case Begin(run=run, attempt=attempt, answers=answers):
            return pb.JoinResponse(begin=pb.JoinBegin(run=run, attempt=attempt, answers=answers))
        case Over():
            return pb.JoinResponse(over=pb.JoinOver())
        case Piece(data=data, last=last):
            return pb.JoinResponse(piece=pb.Piece(data=data, last=last))


def from_told(message: pb.JoinResponse) -> Told:
    """See `to_told`."""
    match message.WhichOneof("told"):
        case "begin":
            begin = message.begin
            return _numbers(Begin, run=begin.run, attempt=begin.attempt, answers=begin.answers)
        case "over":
            return Over()
        case "piece":
            return Piece(message.piece.data, message.piece.last)
    raise EscrowError("message-refused", "The escrow told a node nothing.")


def _numbers(kind: type[_Numbers], **given: int) -> _Numbers:
    try:
        return kind(**given)
    except ValidationError:
        raise EscrowError("message-refused", f"{kind.__name__} holds numbers beyond all bounds.") from None
