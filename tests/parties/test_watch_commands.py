"""Watching contracts by command: each event once, over a restart of the escrow, to an exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        third, ending = (json.loads(line) for line in process.stdout)
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
