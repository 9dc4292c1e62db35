"""The operator's commands, called as its users call them, on an escrow that serves and on one that does not."""

import io
import itertools
import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from contracts import ledgerfile
from contracts import statements as st
from contracts.errors import EscrowError
from escrow import channel, housekeeping
from escrow.audit import audit
from escrow.authority import Authority
from escrow.backup import restore
from escrow.channel import operating
from escrow.cli import main
from escrow.core import Core
from escrow.daemon import Serving, Settings
from escrow.enrolment import Enrolment
from escrow.housekeeping import Housekeeping
from escrow.logs import Log
from escrow.operator import Operator
from escrow.vault import WAIT
from parties.client import Client
from parties.identity import Identity
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium
from tests.servers import free_ports
from tests.wire import until

Refused = Callable[[str], AbstractContextManager[None]]
Ask = Callable[..., dict[str, Any]]


@contextmanager
def served(core: Core) -> Iterator[Serving]:
    """The escrow serves in this process."""
    log = io.StringIO()
    serving = Serving.start(core, Log(log, time.time), Settings(grace_seconds=0))
    try:
        yield serving
    finally:
        assert serving.stop(0)
    assert '"event": "bug"' not in log.getvalue(), log.getvalue()


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Calls the command on the escrow of a directory with `--format json`; its data."""
    monkeypatch.setenv("COLUMNS", "80")

    def asked(home: Path, *argv: object, exit_code: int = 0) -> dict[str, Any]:
        monkeypatch.setenv("ESCROW_HOME", str(home))
        code = main([*map(str, argv), "--format", "json"])
        out, err = capsys.readouterr()
        envelope = json.loads(out)
        assert (code, envelope["exit_code"], err) == (exit_code, exit_code, "")
        return envelope["data"]  # type: ignore[no-any-return]

    return asked


@pytest.fixture(params=["serving", "not serving"])
def home(request: pytest.FixtureRequest, consortium: Consortium) -> Iterator[Path]:
    """The directory of an escrow of two banks, which serves or does not."""
    directory = consortium.core.directory
    _waits(consortium, "valley")
    if request.param == "serving":
        with served(consortium.core):
            yield directory
    else:
        consortium.core.close()
        yield directory


def _waits(consortium: Consortium, name: str) -> Identity:
    """A bank that has asked to be admitted."""
    identity = Identity.create(consortium.directory / "asking" / name, name)
    requests = Enrolment(consortium.core, Authority.open(consortium.core.directory))
    requests._keep(name, identity.request(ORIGIN))
    return identity


def people(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """What a person reads, in 80 columns but for digests, which are never broken."""
    assert main([str(word) for word in argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(len(line) <= 80 or len(line.split()[-1]) > 60 for line in out.splitlines()), out
    return out


def test_parties_are_admitted_rejected_and_revoked(home: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    found = {each["name"]: each for each in ask(home, "party", "list")["parties"]}
    assert {name: each["state"] for name, each in found.items()} == {
        "north": "admitted",
        "harbour": "admitted",
        "valley": "waiting",
    }
    wrong = ask(home, "party", "admit", "valley", "--fingerprint", found["north"]["fingerprint"], exit_code=1)
    assert wrong["code"] == "party-unknown"
    assert ask(home, "party", "reject", "nobody", exit_code=1)["code"] == "party-unknown"
    ask(home, "party", "admit", "valley", "--fingerprint", found["valley"]["fingerprint"])
    assert ask(home, "status")["admitted"] == 3
    ask(home, "party", "revoke", "valley")
    ask(home, "party", "revoke", "valley")  # what stands is not stated again
    assert ask(home, "party", "revoke", "nobody", exit_code=1)["code"] == "party-unknown"
    text = people(capsys, "party", "list")
    assert "revoked" in text
    assert found["north"]["fingerprint"][:30] in text


def test_a_rejected_request_is_gone(home: Path, ask: Ask) -> None:
    ask(home, "party", "reject", "valley")
    assert ask(home, "status")["waiting"] == 0


def test_the_ledger_is_exported_and_its_file_verifies(home: Path, ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    entries = ask(home, "ledger", "export", file)["entries"]
    fingerprint = ask(home, "status")
    with file.open("rb") as source:
        opened = ledgerfile.read(source)
        assert len(list(opened.leaves)) == entries == fingerprint["entries"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ask(home, "ledger", "export", tmp_path / "no" / "file", exit_code=4)["code"] == "file-unwritable"


def test_a_backup_restores_elsewhere_and_passes_the_audit(home: Path, ask: Ask, tmp_path: Path) -> None:
    archive, again = tmp_path / "escrow.tar", tmp_path / "again"
    made = ask(home, "backup", archive)
    assert (made["files"], made["object-storage"]) == (4, False)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert not list(tmp_path.glob("escrow.tar.*"))
    restored = ask(home, "restore", archive, again)
    assert (restored["entries"], restored["files"], restored["missing"]) == (made["entries"], 4, 0)
    assert stat.S_IMODE(again.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in again.rglob("*") if path.is_file()} <= {0o600, 0o644}
    audit(again)
    before, after = ask(home, "status"), ask(again, "status")
    assert [after[each] for each in ("ledger", "fingerprint", "entries", "admitted", "waiting")] == [
        before[each] for each in ("ledger", "fingerprint", "entries", "admitted", "waiting")
    ]
    assert ask(home, "restore", archive, again, exit_code=4)["code"] == "escrow-exists"


def test_contracts_and_runs_are_shown_and_a_run_under_way_is_aborted(
    consortium: Consortium, ask: Ask, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = consortium.core
    monkeypatch.setattr(core.runtime, "_command", (sys.executable, "-S", "-c", "import signal; signal.pause()"))
    monkeypatch.setenv("ESCROW_HOME", str(core.directory))
    quiet = tiny.proposed(consortium, title="Stays open")
    with served(core):
        digest = tiny.approved(consortium)
        watching = consortium.banks["north"].escrow.watch(0)
        assert any(each.kind == "run-started" for each in watching)
        listed = {each["contract"]: each for each in ask(core.directory, "contract", "list")["contracts"]}
        assert (listed[quiet]["state"], listed[quiet]["turn"]) == ("open", ["north", "harbour"])
        shown = ask(core.directory, "contract", "show", digest[7:15])
        assert shown["contract"] == digest
        assert shown["terms"]["title"] == "Joint card-fraud model"
        assert [each["statement"] for each in shown["history"]][:2] == ["contract-proposed", "run-key-opened"]
        assert digest[7:23] in people(capsys, "contract", "list")
        assert "run-started" in people(capsys, "contract", "show", digest)
        assert ask(core.directory, "status")["running"] == [digest]
        assert "1 of 1" in people(capsys, "run", "list")
        assert "running" in people(capsys, "run", "show", digest)
        assert ask(core.directory, "run", "abort", quiet, exit_code=1)["code"] == "state-refused"
        assert ask(core.directory, "run", "abort", digest)["state"] == "failed"
        assert any(each.kind == "key-erased" for each in watching)
        assert ask(core.directory, "run", "show", digest)["reason"] == "run-aborted"
    assert core.runtime.sweep() == frozenset()
    assert not (core.directory / "runs" / digest[7:]).exists()


def test_an_aborted_run_that_nobody_runs_is_cleared_away(consortium: Consortium, ask: Ask) -> None:
    core, digest = consortium.core, tiny.approved(consortium)
    core.state(st.RunStarted(ledger=core.origin, contract=digest, run=1))
    core.close()
    assert ask(core.directory, "run", "abort", digest)["state"] == "failed"
    assert ask(core.directory, "contract", "show", digest)["key-erased"] is True


def test_a_contract_is_named_by_enough_of_its_digest(consortium: Consortium, ask: Ask) -> None:
    digest = tiny.proposed(consortium)
    with served(consortium.core):
        for name in (digest, digest[7:], digest[7:15]):
            assert ask(consortium.core.directory, "contract", "show", name)["contract"] == digest
        for name in (digest[7:14], "0" * 64, "ffffffff"):
            found = ask(consortium.core.directory, "contract", "show", name, exit_code=1)
            assert found["code"] == "contract-unknown"


def test_revoking_a_party_ends_its_open_streams(consortium: Consortium, ask: Ask) -> None:
    watching = consortium.banks["north"].escrow.watch(0)
    ended: list[str] = []

    def watch() -> None:
        try:
            list(watching)
        except EscrowError as error:
            ended.append(error.code)

    thread = threading.Thread(target=watch)
    thread.start()
    with served(consortium.core):
        ask(consortium.core.directory, "party", "revoke", "north")
        thread.join(30)
    assert ended == ["party-revoked"]


# init, doctor, certificate


def test_init_makes_an_escrow_and_shows_what_to_give_to_banks(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "new" / "escrow"
    made = ask(home, "init", home, "--origin", "escrow.example/ledger")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    status = ask(home, "status")
    assert (status["fingerprint"], status["entries"], status["serving"]) == (made["fingerprint"], 1, False)
    assert ask(home, "init", home, "--origin", "escrow.example/ledger", exit_code=4)["code"] == "escrow-exists"
    text = people(capsys, "status", "--home", home)
    assert made["fingerprint"] in text.replace("\n", "").replace(" ", "").replace("parties", "\n")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--origin", "No Ledger"], "usage"),
        (["--origin", "a/b", "--database", "mysql://x"], "database-unsupported"),
        (["--origin", "a/b", "--blobs", "http://x"], "usage"),
    ],
)
def test_init_refuses_before_anything_is_made(ask: Ask, tmp_path: Path, argv: list[str], code: str) -> None:
    assert ask(tmp_path, "init", tmp_path / "e", *argv, exit_code=4)["code"] == code
    assert not (tmp_path / "e").exists()


def test_the_databases_url_may_come_from_the_environment(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold a password, which everybody on the machine could read on a command line."""
    monkeypatch.setenv("ESCROW_DATABASE", "mysql://escrow:secret@database/escrow")
    refused = ask(tmp_path, "init", tmp_path / "e", "--origin", "a/b", exit_code=4)
    assert refused["code"] == "database-unsupported"
    assert "PASSWORD@" not in refused["hint"]
    assert "secret" not in str(refused)


def test_asking_an_escrow_that_serves_loads_no_escrow(consortium: Consortium) -> None:
    """Which takes a second."""
    child = "import pathlib, sys; from escrow.channel import operating\n"
    child += "with operating(pathlib.Path(sys.argv[1])) as ask: serving = ask('status')['serving']\n"
    child += "print(serving, 'escrow.core' in sys.modules)"
    with served(consortium.core):
        ran = subprocess.run(
            [sys.executable, "-c", child, str(consortium.core.directory)], capture_output=True, text=True, check=True
        )
    assert ran.stdout == "True False\n"


def on_free_ports() -> list[object]:
    """Options for an escrow that seals nothing, on ports that are free, all of them."""
    main, enrolment = free_ports(2)
    return ["--port", main, "--enrol-port", enrolment, "--metrics-port", 0, "--sealing", "none"]


def wrong(asked: dict[str, Any]) -> set[str]:
    """What the doctor calls wrong."""
    return {each["name"] for each in asked["checks"] if each["mark"] == "wrong"}


def test_the_doctor_finds_nothing_wrong_in_a_sound_escrow(consortium: Consortium, clock: tiny.Clock, ask: Ask) -> None:
    home = consortium.core.directory
    clock.time = max(clock.time, int(time.time()) + 86400)
    tiny.proposed(consortium)
    audit(home)
    with served(consortium.core) as serving:
        (home / "serving.json").write_text(json.dumps(serving.where()))
        asked = ask(home, "doctor", "--sealing", "none", exit_code=1)
        found = {each["name"]: each for each in asked["checks"]}
        assert wrong(asked) == {"clock"}  # the escrow's own is ahead
        assert str(serving.server.ports.main) in found["ports"]["found"]
    assert len(list((home / "vault" / "blobs").iterdir())) == 4


def test_the_doctor_names_what_is_wrong_and_what_to_do(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "e"
    ask(home, "init", home, "--origin", "escrow.example/ledger")
    ports = on_free_ports()
    assert ask(home, "doctor", *ports)["sound"] is True
    (home / "key.pem").chmod(0o644)
    with closing(sqlite3.connect(home / "ledger.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports[1] = taken.getsockname()[1]
        asked = ask(home, "doctor", *ports, exit_code=1)
    assert wrong(asked) == {"directory", "database", "ports"}
    assert "chmod 600" in asked["checks"][0]["advice"]
    assert main(["doctor", *map(str, ports)]) == 1
    out, _ = capsys.readouterr()
    assert "1.  WRONG directory" in out
    assert out.splitlines()[-1].endswith("checks failed.")
    assert ask(tmp_path, "doctor", exit_code=4)["code"] == "escrow-missing"


def test_the_doctor_wants_files_for_connections(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "e"
    ask(home, "init", home, "--origin", "escrow.example/ledger")
    monkeypatch.setattr("escrow.doctor.FILES_AT_LEAST", 1 << 62)  # a process cannot lower its hard limit and raise it
    asked = ask(home, "doctor", "--listen", "::1", *on_free_ports(), exit_code=1)
    assert wrong(asked) == {"files"}
    assert any("LimitNOFILE" in each["advice"] for each in asked["checks"])


def test_the_authority_is_rotated_and_old_ones_dropped(ask: Ask, tmp_path: Path) -> None:
    home = tmp_path / "e"
    ask(home, "init", home, "--origin", "escrow.example/ledger")
    old = Authority.open(home).authorities()
    assert ask(home, "certificate", "rotate")["trusted"] == 2
    assert ask(home, "certificate", "show")["days"]["authority"] > 3000
    assert ask(home, "certificate", "drop-old")["trusted"] == 1
    assert not set(old) & set(Authority.open(home).authorities())


# the channel


def test_the_socket_is_for_its_owner_alone_and_bad_requests_are_refused(consortium: Consortium) -> None:
    path = consortium.core.directory / channel.SOCKET
    with served(consortium.core):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for sent in (
            b"\n",
            b"[]\n",
            b'{"verb": "status", "arguments": {"a": 1}}\n',
            b"x" * 70_000,
            b"{" * 5000 + b"\n",
        ):
            with socket.socket(socket.AF_UNIX) as line, _near(path) as address:
                line.connect(address)
                with suppress(ConnectionError):  # it closes the line when it has read enough
                    line.sendall(sent)
                line.shutdown(socket.SHUT_WR)
                answer = json.loads(line.makefile("rb").readline())
            assert answer["error"]["code"] == "usage"
        with operating(consortium.core.directory) as verbs, pytest.raises(EscrowError) as caught:
            verbs("release")
        assert caught.value.code == "usage"
    assert not path.exists()


@contextmanager
def _near(path: Path) -> Iterator[str]:
    """The socket's path in few enough characters for the system, which takes about a hundred."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def test_another_users_process_is_not_answered(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says who asks; here it says so of a user that is neither the escrow's nor root."""
    left, right = socket.socketpair()
    with left, right:
        assert channel._trusted(left)

    class Stranger:
        def getsockopt(self, *_: int) -> bytes:
            return channel._CREDENTIALS.pack(1, 4711, 4711)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not channel._trusted(Stranger())  # type: ignore[arg-type]


def test_a_socket_that_a_killed_escrow_left_is_no_obstacle(consortium: Consortium, ask: Ask) -> None:
    directory = consortium.core.directory
    with socket.socket(socket.AF_UNIX) as left, _near(directory / channel.SOCKET) as address:
        left.bind(address)
    with served(consortium.core):
        assert ask(directory, "status")["serving"] is True
    assert ask(directory, "status", exit_code=1)["code"] == "escrow-busy"  # open in this process, but not serving


# backup and housekeeping


def test_no_erased_key_comes_back_and_unfinished_contracts_keep_theirs(consortium: Consortium, tmp_path: Path) -> None:
    ended, going = tiny.approved(consortium, title="Ended"), tiny.approved(consortium, title="Going on")
    keys = consortium.core.directory / "vault" / "keys"
    erased = (keys / ended[7:]).read_bytes()
    consortium.banks["north"].halt(ended)
    (keys / ended[7:]).write_bytes(erased)  # as if it had been copied a moment before
    (keys / f"{ended[7:]}.erased").unlink()
    with operating_here(consortium) as verbs:
        verbs("backup", path=str(tmp_path / "b.tar"))
    assert restore(tmp_path / "b.tar", tmp_path / "again").keys == 1
    assert sorted(path.name for path in (tmp_path / "again" / "vault" / "keys").iterdir()) == [going[7:]]


def test_a_backup_is_whole_while_the_ledger_grows(consortium: Consortium, tmp_path: Path) -> None:
    over, made, ledger = threading.Event(), [], consortium.core.ledger
    sizes = [ledger.size()]

    def work() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            consortium.banks["north"].reject(tiny.proposed(consortium, title=f"Contract {number}"))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        with operating_here(consortium) as verbs:
            for number in range(4):
                until(lambda: ledger.size() > sizes[-1])
                made.append(verbs("backup", path=str(tmp_path / f"{number}.tar")))
                sizes.append(made[-1]["entries"])
            until(lambda: ledger.size() > sizes[-1])
    finally:
        over.set()
        worker.join()
    assert sizes == sorted(set(sizes))
    for number, each in enumerate(made):
        restored = restore(tmp_path / f"{number}.tar", tmp_path / str(number))
        assert (restored.head.size, restored.missing) == (each["entries"], 0)
        audit(tmp_path / str(number))


@contextmanager
def operating_here(consortium: Consortium) -> Iterator[channel.Verbs]:
    with served(consortium.core), operating(consortium.core.directory) as verbs:
        yield verbs


def test_a_restored_escrow_runs_what_was_approved(
    consortium: Consortium, runtime: Any, clock: tiny.Clock, tmp_path: Path
) -> None:
    digest = tiny.approved(consortium)
    core = consortium.core
    made = Operator(core, Housekeeping(core)).backup(str(tmp_path / "b.tar"))
    assert made["keys"] == 1
    restore(tmp_path / "b.tar", tmp_path / "again")
    core.close()
    again = Core.open(tmp_path / "again", type(runtime)(runtime.root), now=clock)
    assert again.run(digest).state == "released"
    again.close()
    audit(tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("../key.pem", tarfile.REGTYPE), ("vault/blobs/../../x", tarfile.REGTYPE), ("tls/a", tarfile.SYMTYPE),
     ("vault/keys/a", tarfile.FIFOTYPE), ("lock", tarfile.REGTYPE), ("/etc/x", tarfile.REGTYPE)],
)  # fmt: skip
def test_a_hostile_archive_is_refused(refused: Refused, tmp_path: Path, name: str, kind: bytes) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member, io.BytesIO())
    with refused("archive-invalid"):
        restore(tmp_path / "b.tar", tmp_path / "e")
    assert not list((tmp_path / "e").rglob("*"))


@pytest.mark.parametrize(("what", "code"), [("vault/blobs/", "blob-corrupt"), ("ledger.jsonl", "ledger-tampered")])
def test_a_damaged_archive_is_refused(
    consortium: Consortium, refused: Refused, tmp_path: Path, what: str, code: str
) -> None:
    core = consortium.core
    Operator(core, Housekeeping(core)).backup(str(tmp_path / "b.tar"))
    data = bytearray((tmp_path / "b.tar").read_bytes())
    with tarfile.open(tmp_path / "b.tar") as archive:
        member = next(each for each in archive if each.name.startswith(what))
    place = data.index(b'"sig":"', member.offset_data) + 20 if code == "ledger-tampered" else member.offset_data + 300
    data[place] ^= 1
    (tmp_path / "b.tar").write_bytes(data)
    with refused(code):
        restore(tmp_path / "b.tar", tmp_path / "e")
    with refused("escrow-missing"):
        Core.open(tmp_path / "e", core.runtime)


def test_what_is_no_archive_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(b"no archive" * 100)
    with refused("archive-invalid"):
        restore(tmp_path / "b.tar", tmp_path / "e")
    with refused("file-unreadable"):
        restore(tmp_path / "no.tar", tmp_path / "f")


def test_files_that_nothing_names_are_deleted_in_time_and_others_stay(consortium: Consortium) -> None:
    north: Client = consortium.banks["north"]
    core = consortium.core
    train, holdout = consortium.deposits["north"]
    stray = core.vault.put([b"never stated"], limit=100)
    north.revoke(train.commitment)
    now = time.time()
    assert Housekeeping(core, lambda: now + WAIT - 60).tidy() == ()
    later = Housekeeping(core, lambda: now + WAIT + 60)
    with later.paused():
        assert later.tidy() == ()
    blobs = {each.stated.commitment: each.stated.blob for each in core.ledger.deposits("north")}
    assert set(later.tidy()) == {stray, blobs[train.commitment]}
    assert core.vault.has(blobs[holdout.commitment])
    assert later.tidy() == ()


def test_released_packages_and_the_data_of_unfinished_contracts_are_needed(replayed: Consortium) -> None:
    core = replayed.core
    released = [case for case in core.ledger.all("case") if getattr(case, "packages", None)]
    packages = {blob for case in released for blob in case.packages.values()}  # type: ignore[attr-defined]
    assert len(packages) == 2
    assert packages < housekeeping.needed(core.ledger)
    assert Housekeeping(core, lambda: time.time() + 2 * WAIT).tidy() == ()
