"""A bank's node: takes part in the training under one contract with rows that stay at the bank.

The node relays frames between the worker beside the rows and the escrow (`contracts.nodes`), over connections that may
break, until the contract ends. Rules:

1. It serves nothing but what the verified ledger shows that its own bank approved, and no attempt of a run that it does
   not show as under way (`parties.permission`); of one run it begins a bounded number, over all its restarts.
2. What its worker is asked follows from the contract (`contracts.work`, `parties.questions`). The rows are decrypted
   into the worker's input and nowhere else.
3. What its bank takes back (`parties.marks`) ends it within a second or two, and no question passes after that,
   whatever the escrow does.
4. It says that it is there only while it has a place: the escrow begins nothing before, and blames nobody.
5. Nothing of an attempt outlives it: neither worker nor plaintext, however it ended.
6. A connection that was lost is made anew, after a while that grows; the worker goes on meanwhile.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from contracts.api import CaseView
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.lifecycle import TERMINAL, State
from contracts.nodes import Begin, Here, Over, Piece, Pieces
from contracts.records import CaseRecord
from contracts.terms import Digest
from contracts.work import SALT, TRAIN, client_spec
from escrow.runtime.job import Job, Limits
from parties import permission, questions
from parties.attempt import Attempt, Saying
from parties.client import Client
from parties.conditions import Conditions, News
from parties.identity import pinned
from parties.patience import Persistence
from parties.places import Seat
from parties.sealing import Deposit

LOOK_SECONDS: Final = 1.0
"""After which a node looks again if its bank has taken something back, and if others wait for its place."""
_JOINED: Final = frozenset({State.APPROVED, State.RUNNING})
"""Where a contract stands when its training may need a node."""


class Node:
    """The node of one contract.

    Attributes:
        case: the contract as the verified ledger last showed it to this node.
    """

    def __init__(self, contract: Digest, conditions: Conditions) -> None:
        self.contract = contract
        self._with = conditions
        self._stopped = threading.Event()
        self._close: Callable[[], object] = lambda: None
        self._line = Saying()
        self._persistence = Persistence(conditions.patience)
        self._attempt: Attempt | None = None
        self._stands = Here()  # without the questions, which the attempt counts
        self._round = 0
        self._client: Client | None = None
        self._seat = Seat(conditions.places)
        self._trouble: BaseException | None = None
        self.case: CaseRecord | None = None

    def serve(self) -> CaseView:
        """Take part until the contract has ended; how it stands then.

        Raises:
            EscrowError: as `parties.permission` if the bank has not approved this or the rows are not at home, as
                `parties.premises` if the contract's worker cannot run here, `interrupted` after `stop`, and what the
                connection fails with; `node-refused` if the bank has taken back its part.
        """
        with self._watched():
            try:
                while (ended := self._connected()) is None:
                    pass
                return ended
            finally:
                self._end_attempt()
                self._seat.leave()

    def stop(self) -> None:
        """End it soon; called from any thread."""
        self._stopped.set()
        self._line.end()
        self._with.places.wake()
        self._close()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Meanwhile a thread looks what the bank wants, as long as the other one hears the escrow."""
        over = threading.Event()
        thread = threading.Thread(target=self._look_around, args=(over,), name=f"watch-{self.contract[-8:]}")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look_around(self, over: threading.Event) -> None:
        try:
            while not over.wait(LOOK_SECONDS):
                self._look()
        except BaseException as error:  # noqa: BLE001 - the other thread raises it
            self._trouble = error
            self.stop()

    def _look(self) -> None:
        if (client := self._client) is not None and permission.taken_back(client, self.contract, self.case):
            self.stop()
            if (attempt := self._attempt) is not None:
                attempt.end()
        elif self._in_the_way():
            self._seat.yielded = True
            self._line.end()

    def _in_the_way(self) -> bool:
        """Whether others wait for the place of this contract, which has not begun."""
        client = self._client
        if client is None or self._attempt is not None or not self._seat.to_yield:
            return False
        try:
            return client.view(self.contract).state is State.APPROVED
        except EscrowError:  # the other thread meets it as well, and makes the connection anew
            return False

    def _connected(self) -> CaseView | None:
        """Serve over one connection; how the contract stands if it has ended."""
        try:
            session = self._with.dial()
            self._close, self._client = session.close, session.client
            try:
                self._go_on()
                return self._served(session.client)
            finally:
                session.close()
        except EscrowError as error:
            self._go_on()
            pause = self._persistence.pause(error)
            words = f"{error.message} Reconnecting in {pause:.1f} s."
            self._tell("reconnecting", words, code=error.code, seconds=pause)
            self._stopped.wait(pause)
            return None

    def _go_on(self) -> None:
        if self._trouble is not None:
            raise self._trouble
        if self._client is not None:
            permission.require_wanted(self._client, self.contract, self.case)
        if self._stopped.is_set():
            raise EscrowError("interrupted", "The node was stopped before the contract ended.")

    def _served(self, client: Client) -> CaseView | None:
        view = client.view(self.contract)
        if view.state in TERMINAL:
            return view
        self._require(client)
        waits = f"; waits for {', '.join(view.turn)}" if view.turn else ""
        self._tell("waiting", f"{view.state} ({view.reason}){waits}", state=view.state, turn=list(view.turn))
        if view.state not in _JOINED:
            self._wait_for_change(client)
            return None
        if not self._take_place():
            return None
        try:
            self._converse(client)
        except EscrowError as error:
            if error.code != "state-refused":  # it has gone on since it was looked at
                raise
        if self._seat.yielded:
            self._seat.leave()
            return None
        view = client.view(self.contract)
        if view.state not in TERMINAL:
            raise EscrowError("escrow-unreachable", "The escrow has ended the conversation.")
        return view

    def _require(self, client: Client) -> None:
        """Refuse, before anything is joined, what could not be done."""
        if self.case is None:
            self.case = case = permission.approved(client, self.contract)
            self._go_on()
            permission.rows(client, case.contract)
            self._with.runtime(case.contract)

    def _take_place(self) -> bool:
        """Have a place; False if it was waited for, so that everything is to be looked at again."""
        waits = self._seat.waits
        if waits:
            self._tell("queued", "Waiting for a place: others of this bank's contracts have them all.")
        self._seat.take(lambda: not self._stopped.is_set())
        self._go_on()
        return not waits

    def _wait_for_change(self, client: Client) -> None:
        size = pinned(client.home).checkpoint(client.head()).size
        if client.view(self.contract).state not in _JOINED | TERMINAL:
            next((each for each in client.escrow.watch(size) if each.contract == self.contract), None)

    def _converse(self, client: Client) -> None:
        """Speak with the escrow until the connection or the contract ends."""
        line, whole = Saying(), Pieces()
        self._line = line
        if self._seat.yielded:  # between two connections, when there was no line to end
            return
        line.say(self._here())
        try:
            self._go_on()
            for told in client.escrow.join(self.contract, line.said()):
                self._go_on()
                self._persistence.well()
                match told:
                    case Begin():
                        whole = Pieces()
                        self._begin(client, told).resume(told.answers, line.say)
                    case Piece():
                        self._take(told, whole)
                    case Over():
                        self._over()
                        line.say(self._here())
        finally:
            line.end()
            if self._attempt is not None:
                self._attempt.leave()

    def _here(self) -> Here:
        questions = self._attempt.questions if self._attempt is not None else 0
        return self._stands.model_copy(update={"questions": questions})

    def _begin(self, client: Client, begin: Begin) -> Attempt:
        """The attempt that begins or goes on."""
        if self._attempt is not None and (self._stands.run, self._stands.attempt) == (begin.run, begin.attempt):
            return self._attempt
        self._end_attempt()
        self.case = case = permission.approved(client, self.contract)
        permission.require_under_way(case, begin.run)
        deposit, bounds = permission.rows(client, case.contract), questions.bounds(case.contract, client.name)
        job, runtime = self._job(case.contract, begin, deposit, client.name), self._with.runtime(case.contract)
        permission.count(client, case, begin.run)
        self._go_on()
        self._attempt = Attempt(runtime, job, bounds)
        self._stands, self._round = Here(run=begin.run, attempt=begin.attempt), 0
        words = f"Run {begin.run}, attempt {begin.attempt}: training begins here."
        self._tell("begun", words, run=begin.run, attempt=begin.attempt)
        self._attempt.start()
        return self._attempt

    def _job(self, contract: Contract, begin: Begin, deposit: Deposit, party: str) -> Job:
        return Job(
            f"node-{self.contract.rpartition(':')[2][:32]}-{begin.run}-{begin.attempt}",
            client_spec(contract, begin.run, party),
            {TRAIN.format(party=party): deposit.open_into, SALT.format(party=party): bytes.fromhex(deposit.salt)},
            limits=Limits(
                seconds=max(1, int(contract.limits.expires.timestamp()) - self._with.now()),
                memory_mib=self._with.memory_mib,
            ),
            party=party,
            door=True,
        )

    def _take(self, piece: Piece, whole: Pieces) -> None:
        attempt = self._attempt
        if attempt is None:
            raise EscrowError("message-refused", "The escrow asks before it has begun.")
        try:
            question = whole.add(piece)
        except EscrowError as error:
            attempt.refuse(error.code)
            return
        if question is not None and (number := attempt.ask(question)) > self._round:
            self._round = number
            self._tell("round", f"Round {number} of {attempt.rounds}.", round=number, rounds=attempt.rounds)

    def _over(self) -> None:
        failure = self._attempt.failure if self._attempt is not None else None
        self._end_attempt()
        words = f"The attempt has failed here [{failure}]." if failure else "The attempt is over."
        self._tell("failed" if failure else "over", words, code=failure)

    def _end_attempt(self) -> None:
        attempt, self._attempt, self._stands = self._attempt, None, Here()
        self._seat.rest()
        if attempt is not None:
            attempt.end()

    def _tell(self, kind: str, words: str, **data: object) -> None:
        self._with.news(News(self.contract, kind, words, data))


__all__ = ["Node"]
