"""The escrow over the network: `contracts.api.Escrow` by gRPC and mutual TLS.

1. The connection is to the pinned escrow and no other: its TLS authorities come from a card that the pinned key signed.
2. Every answer shows that the ledger continues the one this bank saw, or it is refused (`parties.witness`).
3. Every verb may be repeated: a call that was cut off is tried again, and a stream goes on where it was cut off.
4. A refusal of the escrow is the same `EscrowError` as in process; what the network does has codes of its own.
5. Nothing that is taken from the escrow is unbounded: a message, a call, and a package have limits.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

import grpc

from contracts.api import CaseView, DepositView, EscrowView, Event, PartyView, Receipt, Upload
from contracts.enrolment import server_host
from contracts.errors import EscrowError
from contracts.package import LIMITS
from contracts.protocol import convert
from contracts.protocol import escrow_pb2 as pb
from contracts.protocol import escrow_pb2_grpc as stubs
from contracts.transparency import HASH_BYTES
from parties.certificates import Credentials
from parties.witness import Witness

CALL_SECONDS: Final = 60.0
ATTEMPTS: Final = 5  # of a stream that makes no progress in between
PAUSE_SECONDS: Final = 0.2  # before the second attempt; then three times as long each time
STEADY_SECONDS: Final = 30.0  # a connection that held so long was none that failed
BUSY_SECONDS: Final = 150.0  # the escrow gives the place of a transfer whose line is dead back after 60 to 120
BUSY_PAUSE_SECONDS: Final = 5.0
CHUNK: Final = 1 << 20
PACKAGE_AT_MOST: Final = sum(LIMITS.values()) + (1 << 20)  # the archive's headers and the encryption's
_RETRIED: Final = """{"methodConfig": [
 {"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 3,
  "retryableStatusCodes": ["UNAVAILABLE"]}},
 {"name": [{"service": "model_escrow.v1.Escrow", "method": "Deposit"}]}]}"""
"""Deposits are not gRPC's to repeat: repeated by it after a cut, a stream was seen to lose a message (grpcio 1.85)."""
_TRIED_AGAIN: Final = frozenset({"escrow-unreachable", "upload-stalled"})
_LOST: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN})

Found = TypeVar("Found")
Message = TypeVar("Message")
Warn = Callable[[str], object]
"""Hears a sentence about what went wrong and is no reason to stop."""


def unwarned(_: str) -> None:
    """Nobody listens."""


def open_channel(address: str, credentials: grpc.ChannelCredentials, ledger: str) -> grpc.Channel:
    """A channel to the escrow of a ledger, whose certificate names the host of the ledger's origin."""
    options = [
        ("grpc.ssl_target_name_override", server_host(ledger)),
        ("grpc.max_receive_message_length", 8 << 20),
        ("grpc.service_config", _RETRIED),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_retries", 1),
    ]
    return grpc.secure_channel(address, credentials, options)


@dataclass(frozen=True)
class RemoteEscrow:
    """One bank's session with the escrow; implements `contracts.api.Escrow`. Safe for threads."""

    caller: str
    channel: grpc.Channel
    stub: stubs.EscrowStub
    witness: Witness
    seconds: float = CALL_SECONDS
    warn: Warn = unwarned
    ended: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def connect(
        cls,
        address: str,
        credentials: Credentials,
        witness: Witness,
        *,
        ledger: str,
        caller: str,
        seconds: float = CALL_SECONDS,
        warn: Warn = unwarned,
    ) -> Self:
        """A session over a new connection, which is made with the first call.

        Args:
            address: host and port of the escrow's service for parties.
            credentials: this bank's TLS key and certificate, and the escrow's authorities.
            witness: what this bank remembers of the ledger.
            ledger: origin of the pinned ledger.
            caller: the bank's name.
            seconds: how long one call may take.
            warn: hears what is waited for.
        """
        tls = grpc.ssl_channel_credentials(credentials.authorities_pem, credentials.key_pem, credentials.chain_pem)
        channel = open_channel(address, tls, ledger)
        return cls(caller, channel, stubs.EscrowStub(channel), witness, seconds, warn)

    def close(self) -> None:
        """End the connection, and whatever waits on it."""
        self.ended.set()
        self.channel.close()

    def info(self) -> EscrowView:
        """See `contracts.api.Escrow.info`."""
        return convert.from_info(self._ask(self.stub.Info, pb.InfoRequest()))

    def directory(self) -> tuple[PartyView, ...]:
        """See `contracts.api.Escrow.directory`."""
        return tuple(map(convert.from_party, self._ask(self.stub.Directory, pb.DirectoryRequest()).parties))

    def submit(self, envelope: bytes) -> Receipt:
        """See `contracts.api.Escrow.submit`."""
        return convert.from_receipt(self._ask(self.stub.Submit, pb.SubmitRequest(envelope=envelope)))

    def deposit(self, upload: Upload) -> str:
        """See `contracts.api.Escrow.deposit`."""
        patience = _Patience(self.ended, self.warn)
        while True:
            offset: int = self._ask(self.stub.Received, pb.ReceivedRequest(upload=upload.token)).size
            patience.at(offset)
            sending = _Sending(upload, offset)
            try:
                # No deadline: a file takes as long as it takes, and a dead connection is noticed by its keepalive.
                return str(self._ask(self.stub.Deposit, sending.messages(), seconds=None).digest)
            except EscrowError as error:
                if sending.failed is not None:
                    raise sending.failed from None
                patience.again(error)

    def deposits(self) -> tuple[DepositView, ...]:
        """See `contracts.api.Escrow.deposits`."""
        return tuple(map(convert.from_deposit, self._ask(self.stub.Deposits, pb.DepositsRequest()).deposits))

    def view(self, contract: str) -> CaseView:
        """See `contracts.api.Escrow.view`."""
        return convert.from_case(self._ask(self.stub.View, pb.ViewRequest(contract=contract)).case)

    def contracts(self) -> tuple[CaseView, ...]:
        """See `contracts.api.Escrow.contracts`."""
        patience = _Patience(self.ended)
        while True:
            try:
                return tuple(convert.from_case(each.case) for each in self._listen(self.stub.List, pb.ListRequest()))
            except EscrowError as error:
                patience.again(error)

    def collect(self, contract: str, offset: int = 0) -> Iterator[bytes]:
        """See `contracts.api.Escrow.collect`."""
        patience = _Patience(self.ended)
        while True:
            patience.at(offset)
            try:
                request = pb.CollectRequest(contract=contract, offset=offset)
                for each in self._listen(self.stub.Collect, request, seconds=None):  # as long as it takes
                    offset = _within_package(offset + len(each.data))
                    yield each.data
            except EscrowError as error:
                patience.again(error)
            else:
                return

    def watch(self, since: int) -> Iterator[Event]:
        """See `contracts.api.Escrow.watch`. Goes on over lost connections until the escrow cannot be reached."""
        patience, place, told = _Patience(self.ended), Place(since), 0
        while not self.ended.is_set():
            patience.at(told)
            try:
                for event in map(convert.from_event, self._heard(place.since)):
                    if place.moves(event):
                        told += 1
                        yield event
            except EscrowError as error:
                if not self.ended.is_set():
                    patience.again(error)

    def _heard(self, since: int) -> Iterator[pb.WatchResponse]:
        yield from self._listen(self.stub.Watch, pb.WatchRequest(since=since), seconds=None)
        raise EscrowError("escrow-unreachable", "The escrow has ended its service.")

    def head(self) -> str:
        """See `contracts.api.Escrow.head`."""
        return str(self._ask(self.stub.Head, pb.HeadRequest()).note)

    def entries(self, start: int, stop: int) -> tuple[bytes, ...]:
        """See `contracts.api.Escrow.entries`."""
        return tuple(self._ask(self.stub.Entries, pb.EntriesRequest(start=start, stop=stop)).leaves)

    def inclusion(self, index: int, size: int) -> tuple[str, ...]:
        """See `contracts.api.Escrow.inclusion`."""
        return convert.from_hashes(self._ask(self.stub.Inclusion, pb.InclusionRequest(index=index, size=size)).proof)

    def consistency(self, old: int, new: int) -> tuple[str, ...]:
        """See `contracts.api.Escrow.consistency`."""
        return convert.from_hashes(self._steps(old, new))

    def _ask(self, method: Callable[..., Any], request: object, **how: float | None) -> Any:
        """One answer, with its head checked."""
        since = self.witness.seen()
        seconds = how.get("seconds", self.seconds)
        try:
            answer, call = method.with_call(request, timeout=seconds, metadata=_known(since))  # type: ignore[attr-defined]
        except grpc.RpcError as error:
            raise failure(error) from None
        self._saw(call.trailing_metadata(), since)
        return answer

    def _listen(self, method: Callable[..., Any], request: object, **how: float | None) -> Iterator[Any]:
        """The answers of a stream, with the head at its end checked."""
        since = self.witness.seen()
        call = method(request, timeout=how.get("seconds", self.seconds), metadata=_known(since))
        try:
            yield from call
            self._saw(call.trailing_metadata(), since)
        except grpc.RpcError as error:
            raise failure(error) from None
        finally:
            call.cancel()

    def _saw(self, metadata: Sequence[tuple[str, str | bytes]], since: int) -> None:
        shown = dict(metadata)
        note, joined = shown.get("head-bin"), shown.get("consistency-bin")
        if not isinstance(note, bytes) or not isinstance(joined, bytes):
            raise EscrowError("proof-invalid", "The escrow answered without its ledger's head.")
        proof = [joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES)]
        self.witness.saw(note.decode(errors="replace"), self._steps, since=since, proof=proof)

    def _steps(self, old: int, new: int) -> list[bytes]:
        """A proof of consistency. The witness asks for it while it holds its memory, so this answer's own head is not
        looked at.
        """
        try:
            answer = self.stub.Consistency(pb.ConsistencyRequest(old=old, new=new), timeout=self.seconds)
        except grpc.RpcError as error:
            raise failure(error) from None
        return list(answer.proof)


def _within_package(size: int) -> int:
    if size > PACKAGE_AT_MOST:
        raise EscrowError("release-invalid", "The escrow sends more than a package can hold.")
    return size


class Place:
    """Where a listener is. One entry may change several contracts, so listening goes on at the entry heard last.

    Attributes:
        since: the ledger index to listen from.
    """

    def __init__(self, since: int) -> None:
        self.since = since
        self._contracts: set[str] = set()  # of which that entry was heard

    def moves(self, event: Event) -> bool:
        """Whether this event was not heard before; now it was."""
        if event.index > self.since:
            self.since, self._contracts = event.index, set()
        if event.index < self.since or event.contract in self._contracts:
            return False
        self._contracts.add(event.contract)
        return True


class _Patience:
    """Counts how often a stream was cut off without progress, and waits a while before the next attempt.

    Where an earlier transfer of the same upload still has the place, it is waited for as long as the escrow may take to
    notice that its line is dead.
    """

    def __init__(self, ended: threading.Event, warn: Warn = unwarned) -> None:
        self._ended, self._warn = ended, warn
        self._place, self._failed, self._begun = -1, 0, time.monotonic()
        self._busy = 0.0  # seconds waited for the place

    def at(self, place: int) -> None:
        """Where the stream goes on."""
        now = time.monotonic()
        if place > self._place or now - self._begun > STEADY_SECONDS:
            self._place, self._failed = place, 0
        self._begun = now

    def again(self, error: EscrowError) -> None:
        """Wait, and try again after a lost connection, or give up and raise the error."""
        if error.code == "upload-busy" and self._busy < BUSY_SECONDS:
            self._wait_for_place()
            return
        self._failed += 1
        if error.code not in _TRIED_AGAIN or self._failed == ATTEMPTS:
            raise error
        self._ended.wait(PAUSE_SECONDS * 3 ** (self._failed - 1))

    def _wait_for_place(self) -> None:
        if not self._busy:
            self._warn(
                "The escrow still holds the place of an earlier transfer of this file;"
                f" waiting until it gives it back, at most {BUSY_SECONDS:.0f} s."
            )
        self._ended.wait(BUSY_PAUSE_SECONDS)
        self._busy += BUSY_PAUSE_SECONDS


class _Sending:
    """The messages of one upload. If the file cannot be read they end before its end, and `failed` says why."""

    def __init__(self, upload: Upload, offset: int) -> None:
        self._upload, self._offset = upload, offset
        self.failed: Exception | None = None

    def messages(self) -> Iterator[pb.DepositRequest]:
        yield pb.DepositRequest(begin=pb.DepositBegin(upload=self._upload.token, offset=self._offset))
        try:
            for chunk in self._upload.chunks(self._offset):
                yield pb.DepositRequest(data=chunk)
            yield pb.DepositRequest(end=pb.DepositEnd(digest=self._upload.digest()))
        except Exception as error:  # noqa: BLE001 - whoever asked for the upload gets it; gRPC would log and hide it
            self.failed = error


def _known(since: int) -> tuple[tuple[str, str], ...]:
    return (("seen-size", str(since)),)


def failure(error: grpc.RpcError) -> EscrowError:
    """What a failed call means for a bank."""
    problem = next((each.value for each in error.trailing_metadata() or () if each.key == "problem-bin"), None)
    if isinstance(problem, bytes):
        return convert.from_problem(problem)
    status, details = error.code(), error.details() or ""
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return EscrowError("escrow-slow", "The escrow did not answer in time.")
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        large = "larger than" in details or "metadata size" in details
        code = "message-refused" if large else "escrow-crowded"
        return EscrowError(
            code, "The message is larger than is taken." if large else "The escrow takes no more calls now."
        )
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return EscrowError("escrow-untrusted", "Whoever answers there does not hold the pinned escrow's certificate.")
    if status in _LOST:
        return EscrowError("escrow-unreachable", "The escrow cannot be reached, or the connection was lost.")
    return EscrowError("message-refused", f"The escrow did not take the call ({status.name}).")
