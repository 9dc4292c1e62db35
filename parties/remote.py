"""The escrow over the network: `contracts.api.Escrow` by gRPC and mutual TLS.

1. The connection is to the pinned escrow and no other: its TLS authorities come from a card that the pinned key signed.
2. Every answer shows that the ledger continues the one this bank saw, or it is refused (`parties.witness`).
3. Every verb may be repeated: a call that was cut off is tried again, and a stream goes on where it was cut off.
4. A refusal of the escrow is the same `EscrowError` as in process; what the network does has codes of its own.
5. Nothing that is taken from the escrow is unbounded: a message, a call, and a package have limits.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

import grpc

from contracts.api import CaseView, DepositView, EscrowView, Event, PartyView, Receipt, Upload
from contracts.errors import EscrowError
from contracts.nodes import Said, Told
from contracts.package import LIMITS
from contracts.protocol import convert
from contracts.protocol import escrow_pb2 as pb
from contracts.protocol import escrow_pb2_grpc as stubs
from contracts.transparency import HASH_BYTES
from parties.certificates import Credentials
from parties.channel import failure, open_channel
from parties.patience import Patience, Place, Warn, unwarned
from parties.witness import Witness

CALL_SECONDS: Final = 60.0
PACKAGE_AT_MOST: Final = sum(LIMITS.values()) + (1 << 20)  # the archive's headers and the encryption's


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
        patience = Patience(self.ended, self.warn)
        while True:
            sending: _Sending | None = None
            try:
                offset: int = self._ask(self.stub.Received, pb.ReceivedRequest(upload=upload.token)).size
                patience.at(offset)
                sending = _Sending(upload, offset)
                # No deadline: a file takes as long as it takes, and a dead connection is noticed by its keepalive.
                return str(self._ask(self.stub.Deposit, sending.messages(), seconds=None).digest)
            except EscrowError as error:
                if sending is not None and sending.failed is not None:
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
        patience = Patience(self.ended)
        while True:
            try:
                return tuple(convert.from_case(each.case) for each in self._listen(self.stub.List, pb.ListRequest()))
            except EscrowError as error:
                patience.again(error)

    def collect(self, contract: str, offset: int = 0) -> Iterator[bytes]:
        """See `contracts.api.Escrow.collect`."""
        patience = Patience(self.ended)
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

    def join(self, contract: str, said: Iterator[Said]) -> Iterator[Told]:
        """See `contracts.api.Escrow.join`. A lost connection ends it: where to go on is for the node to say.

        `said` is asked in a thread of gRPC's, also after the end: it has to end when this has.
        """
        messages = (convert.to_said(each, contract) for each in said)
        yield from map(convert.from_told, self._listen(self.stub.Join, messages, seconds=None))

    def watch(self, since: int) -> Iterator[Event]:
        """See `contracts.api.Escrow.watch`. Goes on over lost connections until the escrow cannot be reached."""
        patience, place, told = Patience(self.ended), Place(since), 0
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
        with self._calling():
            answer, call = method.with_call(request, timeout=seconds, metadata=_known(since))  # type: ignore[attr-defined]
        self._saw(call.trailing_metadata(), since)
        return answer

    def _listen(self, method: Callable[..., Any], request: object, **how: float | None) -> Iterator[Any]:
        """The answers of a stream, with the head at its end checked."""
        since = self.witness.seen()
        with self._calling():
            call = method(request, timeout=how.get("seconds", self.seconds), metadata=_known(since))
        try:
            with self._calling():
                yield from call
            self._saw(call.trailing_metadata(), since)
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
        with self._calling():
            answer = self.stub.Consistency(pb.ConsistencyRequest(old=old, new=new), timeout=self.seconds)
        return list(answer.proof)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """What gRPC raises of a call is told in this bank's words."""
        try:
            yield
        except grpc.RpcError as error:
            raise failure(error) from None
        except ValueError:
            if not self.ended.is_set():
                raise
            # another thread has closed the connection meanwhile
            raise EscrowError("escrow-unreachable", "The connection was closed from this side.") from None


def _within_package(size: int) -> int:
    if size > PACKAGE_AT_MOST:
        raise EscrowError("release-invalid", "The escrow sends more than a package can hold.")
    return size


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
