from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Problem(_message.Message):
    __slots__ = ("code", "message", "hint", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    hint: str
    details: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ..., details: _Optional[_Iterable[str]] = ...) -> None: ...

class GetCardRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCardResponse(_message.Message):
    __slots__ = ("card",)
    CARD_FIELD_NUMBER: _ClassVar[int]
    card: bytes
    def __init__(self, card: _Optional[bytes] = ...) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("request", "certificate")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    certificate: bytes
    def __init__(self, request: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class EnrolResponse(_message.Message):
    __slots__ = ("admitted", "certificate")
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    admitted: bool
    certificate: bytes
    def __init__(self, admitted: _Optional[bool] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("ledger", "public_key", "workers", "methods", "sealings")
    class WorkersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    SEALINGS_FIELD_NUMBER: _ClassVar[int]
    ledger: str
    public_key: str
    workers: _containers.ScalarMap[str, str]
    methods: _containers.RepeatedScalarFieldContainer[str]
    sealings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ledger: _Optional[str] = ..., public_key: _Optional[str] = ..., workers: _Optional[_Mapping[str, str]] = ..., methods: _Optional[_Iterable[str]] = ..., sealings: _Optional[_Iterable[str]] = ...) -> None: ...

class DirectoryRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DirectoryResponse(_message.Message):
    __slots__ = ("parties",)
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    parties: _containers.RepeatedCompositeFieldContainer[Party]
    def __init__(self, parties: _Optional[_Iterable[_Union[Party, _Mapping]]] = ...) -> None: ...

class Party(_message.Message):
    __slots__ = ("request", "revoked")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    revoked: bool
    def __init__(self, request: _Optional[bytes] = ..., revoked: _Optional[bool] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("envelope",)
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    def __init__(self, envelope: _Optional[bytes] = ...) -> None: ...

class SubmitResponse(_message.Message):
    __slots__ = ("index", "time", "envelope", "head", "proof")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    index: int
    time: int
    envelope: str
    head: str
    proof: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, index: _Optional[int] = ..., time: _Optional[int] = ..., envelope: _Optional[str] = ..., head: _Optional[str] = ..., proof: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ReceivedRequest(_message.Message):
    __slots__ = ("upload",)
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    upload: str
    def __init__(self, upload: _Optional[str] = ...) -> None: ...

class ReceivedResponse(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class DepositRequest(_message.Message):
    __slots__ = ("begin", "data", "end")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    begin: DepositBegin
    data: bytes
    end: DepositEnd
    def __init__(self, begin: _Optional[_Union[DepositBegin, _Mapping]] = ..., data: _Optional[bytes] = ..., end: _Optional[_Union[DepositEnd, _Mapping]] = ...) -> None: ...

class DepositBegin(_message.Message):
    __slots__ = ("upload", "offset")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    upload: str
    offset: int
    def __init__(self, upload: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class DepositEnd(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class DepositResponse(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class DepositsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DepositsResponse(_message.Message):
    __slots__ = ("deposits",)
    DEPOSITS_FIELD_NUMBER: _ClassVar[int]
    deposits: _containers.RepeatedCompositeFieldContainer[StatedDeposit]
    def __init__(self, deposits: _Optional[_Iterable[_Union[StatedDeposit, _Mapping]]] = ...) -> None: ...

class StatedDeposit(_message.Message):
    __slots__ = ("party", "part", "commitment", "schema", "rows", "positives", "revoked", "looks", "kept")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    POSITIVES_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    LOOKS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    party: str
    part: str
    commitment: str
    schema: str
    rows: int
    positives: int
    revoked: bool
    looks: int
    kept: bool
    def __init__(self, party: _Optional[str] = ..., part: _Optional[str] = ..., commitment: _Optional[str] = ..., schema: _Optional[str] = ..., rows: _Optional[int] = ..., positives: _Optional[int] = ..., revoked: _Optional[bool] = ..., looks: _Optional[int] = ..., kept: _Optional[bool] = ...) -> None: ...

class ViewRequest(_message.Message):
    __slots__ = ("contract",)
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    contract: str
    def __init__(self, contract: _Optional[str] = ...) -> None: ...

class ViewResponse(_message.Message):
    __slots__ = ("case",)
    CASE_FIELD_NUMBER: _ClassVar[int]
    case: Case
    def __init__(self, case: _Optional[_Union[Case, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("case",)
    CASE_FIELD_NUMBER: _ClassVar[int]
    case: Case
    def __init__(self, case: _Optional[_Union[Case, _Mapping]] = ...) -> None: ...

class Case(_message.Message):
    __slots__ = ("digest", "contract", "proposer", "state", "reason", "turn", "run_recipient", "approved", "run", "stages", "verdict", "package", "place", "fault")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    PROPOSER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    RUN_RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    digest: str
    contract: bytes
    proposer: str
    state: str
    reason: str
    turn: _containers.RepeatedScalarFieldContainer[str]
    run_recipient: str
    approved: _containers.RepeatedScalarFieldContainer[str]
    run: int
    stages: _containers.RepeatedScalarFieldContainer[str]
    verdict: str
    package: str
    place: str
    fault: str
    def __init__(self, digest: _Optional[str] = ..., contract: _Optional[bytes] = ..., proposer: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., turn: _Optional[_Iterable[str]] = ..., run_recipient: _Optional[str] = ..., approved: _Optional[_Iterable[str]] = ..., run: _Optional[int] = ..., stages: _Optional[_Iterable[str]] = ..., verdict: _Optional[str] = ..., package: _Optional[str] = ..., place: _Optional[str] = ..., fault: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("since",)
    SINCE_FIELD_NUMBER: _ClassVar[int]
    since: int
    def __init__(self, since: _Optional[int] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("index", "time", "kind", "contract")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    index: int
    time: int
    kind: str
    contract: str
    def __init__(self, index: _Optional[int] = ..., time: _Optional[int] = ..., kind: _Optional[str] = ..., contract: _Optional[str] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("contract", "offset")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    contract: str
    offset: int
    def __init__(self, contract: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class CollectResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("here", "piece", "failed")
    HERE_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    here: JoinHere
    piece: Piece
    failed: str
    def __init__(self, here: _Optional[_Union[JoinHere, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., failed: _Optional[str] = ...) -> None: ...

class JoinHere(_message.Message):
    __slots__ = ("contract", "run", "attempt", "questions")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    contract: str
    run: int
    attempt: int
    questions: int
    def __init__(self, contract: _Optional[str] = ..., run: _Optional[int] = ..., attempt: _Optional[int] = ..., questions: _Optional[int] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("begin", "piece", "over")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    begin: JoinBegin
    piece: Piece
    over: JoinOver
    def __init__(self, begin: _Optional[_Union[JoinBegin, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., over: _Optional[_Union[JoinOver, _Mapping]] = ...) -> None: ...

class JoinBegin(_message.Message):
    __slots__ = ("run", "attempt", "answers")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    run: int
    attempt: int
    answers: int
    def __init__(self, run: _Optional[int] = ..., attempt: _Optional[int] = ..., answers: _Optional[int] = ...) -> None: ...

class JoinOver(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Piece(_message.Message):
    __slots__ = ("data", "last")
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    last: bool
    def __init__(self, data: _Optional[bytes] = ..., last: _Optional[bool] = ...) -> None: ...

class HeadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeadResponse(_message.Message):
    __slots__ = ("note",)
    NOTE_FIELD_NUMBER: _ClassVar[int]
    note: str
    def __init__(self, note: _Optional[str] = ...) -> None: ...

class EntriesRequest(_message.Message):
    __slots__ = ("start", "stop")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class EntriesResponse(_message.Message):
    __slots__ = ("leaves",)
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    leaves: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, leaves: _Optional[_Iterable[bytes]] = ...) -> None: ...

class InclusionRequest(_message.Message):
    __slots__ = ("index", "size")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    index: int
    size: int
    def __init__(self, index: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class InclusionResponse(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, proof: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ConsistencyRequest(_message.Message):
    __slots__ = ("old", "new")
    OLD_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    old: int
    new: int
    def __init__(self, old: _Optional[int] = ..., new: _Optional[int] = ...) -> None: ...

class ConsistencyResponse(_message.Message):
    __slots__ = ("proof",)
    PROOF_FIELD_NUMBER: _ClassVar[int]
    proof: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, proof: _Optional[_Iterable[bytes]] = ...) -> None: ...
