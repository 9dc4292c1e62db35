"""The services of the protocol: one method for each verb, each of them one call of a `Session`."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import grpc

from contracts.errors import EscrowError
from contracts.nodes import Said
from contracts.protocol import convert
from contracts.protocol import escrow_pb2 as pb
from escrow.enrolment import Enrolment
from escrow.front import Answer, Context, Front, Patience
from escrow.session import Session

STALLED_SECONDS: Final = 60.0


class EscrowService:
    """The service `Escrow` of the protocol; what each method does stands there and in `contracts.api`."""

    def __init__(self, front: Front, stalled_seconds: float = STALLED_SECONDS) -> None:
        self._front, self._stalled = front, stalled_seconds

    def Info(self, _: pb.InfoRequest, context: Context) -> pb.InfoResponse:
        return self._front.answer("info", context, lambda session: convert.to_info(session.info()))

    def Directory(self, _: pb.DirectoryRequest, context: Context) -> pb.DirectoryResponse:
        def call(session: Session) -> pb.DirectoryResponse:
            return pb.DirectoryResponse(parties=[convert.to_party(view) for view in session.directory()])

        return self._front.answer("directory", context, call)

    def Submit(self, request: pb.SubmitRequest, context: Context) -> pb.SubmitResponse:
        return self._front.answer(
            "submit", context, lambda session: convert.to_receipt(session.submit(request.envelope))
        )

    def Received(self, request: pb.ReceivedRequest, context: Context) -> pb.ReceivedResponse:
        return self._front.answer(
            "received", context, lambda session: pb.ReceivedResponse(size=session.received(request.upload))
        )

    def Deposit(self, requests: Iterator[pb.DepositRequest], context: Context) -> pb.DepositResponse:
        def call(session: Session) -> pb.DepositResponse:
            with Patience(context, self._stalled) as patience:
                sent = _Sent(patience.each(requests))
                digest = session.receive(sent.begin.upload, sent.begin.offset, sent.data(), sent.digest)
            return pb.DepositResponse(digest=digest)

        return self._front.answer("deposit", context, call)

    def Deposits(self, _: pb.DepositsRequest, context: Context) -> pb.DepositsResponse:
        def call(session: Session) -> pb.DepositsResponse:
            return pb.DepositsResponse(deposits=[convert.to_deposit(view) for view in session.deposits()])

        return self._front.answer("deposits", context, call)

    def View(self, request: pb.ViewRequest, context: Context) -> pb.ViewResponse:
        return self._front.answer(
            "view", context, lambda session: pb.ViewResponse(case=convert.to_case(session.view(request.contract)))
        )

    def List(self, _: pb.ListRequest, context: Context) -> Iterator[pb.ListResponse]:
        def call(session: Session) -> Iterator[pb.ListResponse]:
            return (pb.ListResponse(case=convert.to_case(view)) for view in session.contracts())

        return self._stream("list", context, call)

    def Watch(self, request: pb.WatchRequest, context: Context) -> Iterator[pb.WatchResponse]:
        def call(session: Session) -> Iterator[pb.WatchResponse]:
            # a certificate may end, or be revoked, while its holder listens
            watching = session.watch(request.since, lambda: self._front.session(context))
            try:
                if context.add_callback(watching.close):
                    yield from map(convert.to_event, watching)
            finally:
                watching.leave()

        return self._stream("watch", context, call)

    def Collect(self, request: pb.CollectRequest, context: Context) -> Iterator[pb.CollectResponse]:
        def call(session: Session) -> Iterator[pb.CollectResponse]:
            return (pb.CollectResponse(data=chunk) for chunk in session.collect(request.contract, request.offset))

        return self._stream("collect", context, call)

    def Join(self, requests: Iterator[pb.JoinRequest], context: Context) -> Iterator[pb.JoinResponse]:
        def call(session: Session) -> Iterator[pb.JoinResponse]:
            with Patience(context, self._stalled) as patience:
                first = next(patience.each(requests), None)
                if first is None or first.WhichOneof("said") != "here":
                    raise EscrowError("message-refused", "A node begins with where it stands.")
                said = _said(first, requests)
                # a certificate may end, or be revoked, while its holder waits
                told = session.join(first.here.contract, said, lambda: self._front.session(context))
                yield from patience.taken(map(convert.to_told, told))

        return self._front.stream("join", context, call)

    def _stream(self, verb: str, context: Context, call: Callable[[Session], Iterator[Answer]]) -> Iterator[Answer]:
        """A stream of answers whose reader takes them."""

        def taken(session: Session) -> Iterator[Answer]:
            with Patience(context, self._stalled) as patience:
                yield from patience.taken(call(session))

        return self._front.stream(verb, context, taken)

    def Head(self, _: pb.HeadRequest, context: Context) -> pb.HeadResponse:
        return self._front.answer("head", context, lambda session: pb.HeadResponse(note=session.head()))

    def Entries(self, request: pb.EntriesRequest, context: Context) -> pb.EntriesResponse:
        return self._front.answer(
            "entries", context, lambda session: pb.EntriesResponse(leaves=session.entries(request.start, request.stop))
        )

    def Inclusion(self, request: pb.InclusionRequest, context: Context) -> pb.InclusionResponse:
        def call(session: Session) -> pb.InclusionResponse:
            return pb.InclusionResponse(proof=convert.to_hashes(session.inclusion(request.index, request.size)))

        return self._front.answer("inclusion", context, call)

    def Consistency(self, request: pb.ConsistencyRequest, context: Context) -> pb.ConsistencyResponse:
        def call(session: Session) -> pb.ConsistencyResponse:
            return pb.ConsistencyResponse(proof=convert.to_hashes(session.consistency(request.old, request.new)))

        return self._front.answer("consistency", context, call)


class EnrolmentService:
    """The service `Enrolment`, for whoever reaches the port: it tells what a card and a certificate tell."""

    def __init__(self, front: Front, enrolment: Enrolment, card: Callable[[], bytes]) -> None:
        self._front, self._enrolment, self._card = front, enrolment, card

    def GetCard(self, _: pb.GetCardRequest, context: Context) -> pb.GetCardResponse:
        return self._front.public("card", context, lambda: pb.GetCardResponse(card=self._card()))

    def Enrol(self, request: pb.EnrolRequest, context: Context) -> pb.EnrolResponse:
        def call() -> pb.EnrolResponse:
            found = self._enrolment.enrol(request.request, request.certificate)
            return pb.EnrolResponse(admitted=found is not None, certificate=found)

        return self._front.public("enrol", context, call)


def _said(first: pb.JoinRequest, others: Iterator[pb.JoinRequest]) -> Iterator[Said]:
    """What a node says, about the one contract that it named first, until its connection ends."""
    yield convert.from_said(first)
    with suppress(grpc.RpcError):  # the connection has ended
        for each in others:
            if each.WhichOneof("said") == "here" and each.here.contract != first.here.contract:
                raise EscrowError("message-refused", "A node speaks of one contract over one connection.")
            yield convert.from_said(each)


class _Sent:
    """The messages of one deposit, in their order: begin, data, end."""

    def __init__(self, requests: Iterator[pb.DepositRequest]) -> None:
        self._requests = requests
        self._end: str | None = None
        first = next(requests, None)
        if first is None or first.WhichOneof("part") != "begin":
            raise EscrowError("message-refused", "A deposit begins with its name and offset.")
        self.begin = first.begin

    def data(self) -> Iterator[bytes]:
        for message in self._requests:
            part = message.WhichOneof("part")
            if part == "end":
                self._end = message.end.digest
                return
            if part != "data":
                raise EscrowError("message-refused", "After its beginning a deposit has data and an end.")
            yield message.data
        raise EscrowError("upload-stalled", "The file was cut off before its end.")

    def digest(self) -> str:
        if self._end is None:
            raise EscrowError("upload-stalled", "The file was cut off before its end.")
        return self._end
