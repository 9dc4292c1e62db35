"""Watching contracts by command: each event once, over a restart of the escrow, to an exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.api import Event
from escrow.hub import Watching
from scenarios import tiny
from scenarios.consortium import Consortium

PARTY = Path(sys.executable).with_name("party")
Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]


def test_each_event_is_told_once_also_over_a_restart_of_the_escrow(founded: Callable[..., Consortium]) -> None:
    consortium = founded("north", "harbour")
    digest = tiny.proposed(consortium)
    watch = ["contract", "watch", digest[7:15], "--until-ended", "--format", "jsonl"]
    argv: list[str | Path] = [PARTY, *watch, "--home", consortium.banks["north"].home]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first = json.loads(process.stdout.readline())
        assert (first["kind"], first["state"], first["turn"]) == ("now", "open", ["north", "harbour"])
        consortium.approve(digest, "north")
        second = json.loads(process.stdout.readline())
        assert (second["kind"], second["approved"]) == ("contract-approved", ["north"])
        consortium.reopen()
        consortium.banks["harbour"].reject(digest)
        told = map(json.loads, process.stdout)
        third, ending = (each for each in told if each.get("kind") != "now")  # a connection made anew begins with that
        assert process.wait() == 1
    assert (third["kind"], third["entry"] > second["entry"]) == ("contract-rejected", True)
    assert (ending["status"], ending["exit_code"], ending["data"]["state"]) == ("ok", 1, "rejected")


def test_a_contract_that_has_ended_is_not_waited_for(
    *, call: Call, ask: Ask, refuses: Callable[..., str], town: Consortium
) -> None:
    home = ("--home", town.banks["harbour"].home)
    refuses("contract", "watch", "--until-ended", *home, exit_code=4, code="usage")
    digest = tiny.proposed(town)
    town.banks["harbour"].reject(digest)
    code, out, _ = call("contract", "watch", digest[7:15], "--until-ended", *home)
    assert (code, out.splitlines()[-1]) == (1, "It has ended: rejected")
    found = ask("contract", "watch", digest, "--until-ended", *home)
    assert (found["status"], found["data"]["state"]) == ("ok", "rejected")
    assert [each["kind"] for each in found["data"]["told"]] == ["now"]
    history = ask("contract", "watch", digest, "--until-ended", "--since", 0, *home)["data"]["told"]
    assert [each["kind"] for each in history] == ["now", "contract-proposed", "run-key-opened", "contract-rejected"]
    late = ask("contract", "watch", digest, "--until-ended", "--since", town.core.ledger.size() + 9, *home)
    assert [each["kind"] for each in late["data"]["told"]] == ["now"]


def test_a_run_that_failed_ends_a_contract_only_if_it_was_the_last(
    ask: Ask, founded: Callable[..., Consortium]
) -> None:
    consortium = founded("north", "harbour")
    beyond = [{"kind": "floor", "party": "harbour", "metric": "average-precision", "at-least": 0.999}]
    limits = {**consortium.draft(model={"family": "logistic"}, method={"name": "pooled"})["limits"], "runs": 2}
    digest = tiny.approved(consortium, release=beyond, limits=limits)
    for _ in range(2):
        consortium.core.run(digest)
    home = ("--home", consortium.banks["north"].home)
    told = ask("contract", "watch", digest, "--until-ended", "--since", 0, *home)["data"]["told"]
    kinds = [each["kind"] for each in told]
    assert (kinds[-1], kinds.count("run-decided")) == ("run-decided", 2)


def test_a_revocation_that_halts_two_contracts_is_heard_of_both_over_a_cut_between_them(
    founded: Callable[..., Consortium], monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium = founded("north", "harbour")
    halted = {tiny.proposed(consortium, title=title) for title in ("one", "two")}
    since = consortium.core.ledger.size()
    receipt = consortium.banks["harbour"].revoke(consortium.deposits["harbour"][0].commitment)
    cuts, honest = list[int](), Watching.__next__

    def cut_once(self: Watching) -> Event:
        if self._since > receipt.index and not cuts:
            cuts.append(self._since)
            self.leave()
            raise StopIteration
        return honest(self)

    monkeypatch.setattr(Watching, "__next__", cut_once)
    events = consortium.banks["north"].escrow.watch(since)
    heard = [next(events) for _ in range(2)]
    events.close()  # type: ignore[attr-defined]
    assert cuts == [receipt.index + 1]
    assert {each.contract for each in heard} == halted
    assert {each.index for each in heard} == {receipt.index}


def test_an_escrow_that_is_gone_is_given_up(*, refuses: Callable[..., str], founded: Callable[..., Consortium]) -> None:
    consortium = founded("north", "harbour")
    digest = tiny.proposed(consortium)
    home = ("--home", consortium.banks["north"].home)
    assert consortium.server
    consortium.server.stop(grace_seconds=0)
    watch = ("contract", "watch", digest, "--since", 0, "--patience", 1)
    refuses(*watch, *home, exit_code=2, code="escrow-unreachable")
