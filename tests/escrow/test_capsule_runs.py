"""A capsule's contract at the escrow, from two deposits to what its author receives, and to what nobody does."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
from docker import DockerClient

from contracts import statements as st
from contracts.capsule import Capsule, read
from contracts.consequences import explain
from contracts.entries import read_leaf
from contracts.statements import ErrorPlace
from escrow.runstore import RunStore
from escrow.runtime.base import Output, Runtime
from escrow.runtime.docker import ContainerRuntime
from escrow.runtime.images.capsule import build
from escrow.runtime.job import Limits
from escrow.scheduler import RunTold, Scheduler
from parties.identity import pinned
from parties.release import fetch, verify_release
from parties.scoring import score
from parties.sealing import Sealing
from scenarios import tiny
from scenarios.consortium import Consortium
from tests.escrow.crash_child import Pretended

Refused = Callable[[str], AbstractContextManager[None]]

CONFIDENTIAL = b"amount,fraud\n1.5,0\n20,1\n70,1\n900,0\n"
SYNTHETIC = b"amount,fraud\n3,0\n4,1\n"
COUNT = """
import csv
import os

with open("../data/transactions.csv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
with open("../results/table.csv", "w", encoding="utf-8") as file:
    frauds = sum(row["fraud"] == "1" for row in rows)
    file.write(f"confidential,rows,frauds\\n{os.environ['CONFIDENTIAL']},{len(rows)},{frauds}\\n")
print("a row:", rows[0])
"""
PICKY = """
import csv

with open("../data/transactions.csv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
for row in rows:
    if float(row["amount"]) > 100:
        raise ValueError(f"secret {row['amount']}")
open("../results/table.csv", "w").close()
"""
DECLARED = """capsule: 1
family: python
data: [transactions.csv]
outputs:
  - {path: table.csv, kind: table, size-kib: 1, vetting: VETTING}
limits: {seconds: 30, memory-mib: 256}
"""
PATIENCE = 60.0  # seconds that no test should need
IMAGE = "sha256:" + "1" * 64


def capsule(code: str = COUNT, *, vetting: str = "none", **files: bytes) -> Capsule:
    return read(
        {
            "metadata/metadata.yml": b"title: frauds\n",
            "environment/Dockerfile": b"FROM python\n",
            "code/run": b"#!/bin/sh\nexec python3 analysis.py\n",
            "code/analysis.py": code.encode(),
            "data/transactions.csv": SYNTHETIC,
            "escrow.yml": DECLARED.replace("VETTING", vetting).encode(),
            **files,
        }
    )


@dataclass
class Study:
    """An owner, north, with a table, and a researcher, lab, with a capsule."""

    consortium: Consortium
    author: Capsule
    clock: tiny.Clock

    @classmethod
    def made(cls, folder: Path, code: Capsule, runtime: Runtime) -> "Study":
        clock = tiny.Clock()
        consortium = Consortium.create(folder, tiny.SCHEMA, runtime=runtime, now=clock)
        for name, part, content, rows in (
            ("north", "table", CONFIDENTIAL, 4),
            ("lab", "capsule", code.packed(), None),
        ):
            bank = consortium.join(name)
            sealed = Sealing(BytesIO(content), bank.folder, part=part, rows=rows).finish()  # type: ignore[arg-type]
            bank.deposit([sealed])
            consortium.deposits[name] = (sealed,)
        return cls(consortium, code, clock)

    def document(self, **terms: object) -> dict[str, Any]:
        [table], [code] = self.consortium.deposits["north"], self.consortium.deposits["lab"]
        declared = self.author.declaration.model_dump(mode="json", by_alias=True)
        computation = {
            "kind": "capsule",
            "capsule": self.author.digest,
            "image": IMAGE,
            "mode": "validate",
            "outputs": declared["outputs"],
            "limits": declared["limits"],
            "sealing": self.consortium.core.runtime.sealing,
        }
        whole: dict[str, Any] = {
            "contract": 1,
            "title": "Frauds of one bank",
            "purpose": "One table for one paper.",
            "parties": ["north", "lab"],
            "contributions": [
                {
                    "party": "north",
                    "table": {"commitment": table.commitment, "rows": 4, "file": "transactions.csv"},
                },
                {"party": "lab", "capsule": {"commitment": code.commitment}},
            ],
            "computation": computation | dict(terms.pop("computation", {})),  # type: ignore[call-overload]
            "recipients": [{"party": "lab", "receives": "outputs"}],
            "release": [],
            "limits": {"expires": "2030-01-01T00:00:00Z"},
        }
        return {**whole, **terms}

    def approved(self, **terms: object) -> str:
        contract = self.consortium.contract(self.document(**terms))
        assert explain(contract).digest == contract.digest()
        digest = self.consortium.propose(contract, by="lab")
        self.consortium.approve(digest)
        return digest

    def run(self, digest: str) -> Any:
        return self.consortium.core.run(digest)

    def statements(self, kind: type[st.Statement]) -> list[Any]:
        leaves = self.consortium.core.ledger.leaves()
        found = [st.read(read_leaf(leaf).envelope.payload) for leaf in leaves]
        return [each for each in found if isinstance(each, kind)]


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Callable[[Capsule], Study]]:
    opened: list[Study] = []

    def make(code: Capsule) -> Study:
        runtime = Pretended(tmp_path / "jobs", capacity=2)
        opened.append(Study.made(tmp_path / "world", code, runtime))
        return opened[-1]

    yield make
    for each in opened:
        each.consortium.close()


def texts(folder: Path) -> Mapping[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_author_receives_what_its_capsule_made_of_rows_it_never_saw(
    study: Callable[[Capsule], Study], tmp_path: Path
) -> None:
    made = study(capsule())
    digest = made.approved()
    case = made.run(digest)
    assert (case.state, case.verdict, case.key_erased) == ("released", "released", True)
    lab, north = (made.consortium.banks[name] for name in ("lab", "north"))
    folder = fetch(lab, digest, tmp_path / "lab")
    found = verify_release(folder, lab.identity, pinned(lab.home))
    assert (folder / "outputs" / "table.csv").read_text() == "confidential,rows,frauds\nyes,4,2\n"
    assert found.outputs is not None
    assert found.outputs.capsule == made.author.digest
    stages = {each.stage: each.outputs for each in made.statements(st.StageCompleted)}
    assert stages == {"synthetic": found.outputs.synthetic, "confidential": found.outputs.confidential}
    owner = fetch(north, digest, tmp_path / "north")
    assert verify_release(owner, north.identity, pinned(north.home)).outputs is None
    assert not (owner / "outputs").exists()
    assert not texts(made.consortium.core.directory / "runs")
    assert not [path for path, content in texts(tmp_path / "world" / "escrow").items() if b"70,1" in content]


def test_a_released_output_that_was_changed_is_refused(
    study: Callable[[Capsule], Study], tmp_path: Path, refused: Refused
) -> None:
    made = study(capsule())
    digest = made.approved()
    made.run(digest)
    lab = made.consortium.banks["lab"]
    folder = fetch(lab, digest, tmp_path / "lab")
    (folder / "outputs" / "table.csv").write_text("confidential,rows,frauds\nyes,4,0\n")
    with refused("release-invalid"):
        verify_release(folder, lab.identity, pinned(lab.home))


def lying(**others: bytes) -> Callable[..., str]:
    """A store that binds other outputs of the run on confidential rows than the capsule made."""
    put = RunStore.put

    def lies(self: RunStore, stage: str, files: Mapping[str, bytes]) -> str:
        return put(self, stage, {**files, **others} if stage == "confidential" else files)

    return lies


def test_outputs_that_the_escrow_exchanged_are_refused(
    study: Callable[[Capsule], Study], tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All it signs fits the exchanged ones, but for the commitment to what the run on confidential rows made."""
    made = study(capsule())
    digest = made.approved()

    exchanged = {"table.csv": b"confidential,rows,frauds\nyes,4,0\n"}
    monkeypatch.setattr(RunStore, "get", lambda *_: exchanged)
    assert made.run(digest).state == "released"
    lab = made.consortium.banks["lab"]
    folder = fetch(lab, digest, tmp_path / "lab")
    with refused("release-invalid"):
        verify_release(folder, lab.identity, pinned(lab.home))


@pytest.mark.parametrize(
    "others", [{"table.csv": 1025 * b"x"}, {"more.csv": b"undeclared"}, {"below/table.csv": b"undeclared"}]
)
def test_more_than_was_declared_is_refused_whatever_the_escrow_states(
    study: Callable[[Capsule], Study],
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    others: dict[str, bytes],
) -> None:
    made = study(capsule())
    digest = made.approved()
    monkeypatch.setattr(RunStore, "put", lying(**others))
    assert made.run(digest).state == "released"
    lab = made.consortium.banks["lab"]
    folder = fetch(lab, digest, tmp_path / "lab")
    with refused("release-invalid"):
        verify_release(folder, lab.identity, pinned(lab.home))


def test_outputs_score_nothing_and_are_written_over_no_file(
    study: Callable[[Capsule], Study], tmp_path: Path, refused: Refused
) -> None:
    made = study(capsule())
    digest = made.approved()
    made.run(digest)
    lab = made.consortium.banks["lab"]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "outputs").touch()
    with refused("file-unwritable"):
        fetch(lab, digest, tmp_path / "taken")
    found = verify_release(fetch(lab, digest, tmp_path / "lab"), lab.identity, pinned(lab.home))
    with refused("not-permitted"):
        score(found, tmp_path / "today.csv")


def test_what_needs_vetting_is_held_encrypted_until_the_contract_ends(
    study: Callable[[Capsule], Study], tmp_path: Path, refused: Refused
) -> None:
    made = study(capsule(vetting="disclosure-control"))
    digest = made.approved()
    case = made.run(digest)
    assert (case.state, case.reason, case.key_erased) == ("held", "vetting-unavailable", False)
    held = texts(made.consortium.core.directory / "runs")
    assert any(path.name == "table.csv.age" for path in held)
    assert not [path for path, content in held.items() if b"yes,4,2" in content]
    with refused("not-released"):
        fetch(made.consortium.banks["lab"], digest, tmp_path / "lab")
    with refused("state-refused"):
        made.run(digest)
    made.consortium.reopen(Pretended(tmp_path / "jobs", capacity=2))
    assert texts(made.consortium.core.directory / "runs") == held
    made.consortium.banks["north"].halt(digest)
    assert made.consortium.core.runs.case(digest).key_erased
    assert not texts(made.consortium.core.directory / "runs")


class Listening(RunTold):
    """Keeps how the first run ended."""

    def __init__(self) -> None:
        self.outcome = Future[str]()

    def ended(self, contract: str, outcome: str, seconds: float) -> None:
        assert contract.startswith("sha256:")
        assert seconds >= 0
        self.outcome.set_result(outcome)


def test_a_run_whose_outputs_are_held_counts_as_decided(study: Callable[[Capsule], Study]) -> None:
    made, listening = study(capsule(vetting="disclosure-control")), Listening()
    made.approved()
    scheduler = Scheduler(made.consortium.core, told=listening)
    scheduler.start()
    try:
        assert listening.outcome.result(PATIENCE) == "decided"
    finally:
        assert scheduler.stop(PATIENCE)


@pytest.mark.parametrize("ending", ["expired", "revoked"])
def test_what_is_held_is_destroyed_with_the_contract(study: Callable[[Capsule], Study], ending: str) -> None:
    made = study(capsule(vetting="disclosure-control"))
    digest = made.approved(limits={"expires": "2027-01-15T09:00:00Z"})  # an hour after the start
    consortium = made.consortium
    assert consortium.core.run(digest).state == "held"
    if ending == "expired":
        made.clock.time = tiny.START + 3600
        consortium.core.expire()
    else:
        consortium.banks["north"].revoke(consortium.deposits["north"][0].commitment)
    case = consortium.core.runs.case(digest)
    assert (case.state, case.key_erased) == ("expired" if ending == "expired" else "halted", True)
    assert not texts(consortium.core.directory / "runs")


@pytest.mark.parametrize("told", [False, True])
def test_a_failure_tells_its_code_and_its_place_only_if_all_agreed(
    study: Callable[[Capsule], Study], *, told: bool
) -> None:
    made = study(capsule(PICKY))
    terms = {"disclosure": {"failed": ["error-code", "error-place"]}} if told else {}
    case = made.run(made.approved(**terms))
    assert (case.state, case.reason, set(case.stages)) == ("failed", "capsule-failed", {"synthetic"})
    [failed] = made.statements(st.RunFailed)
    expected = ErrorPlace(exception="ValueError", file="code/analysis.py", line=8) if told else None
    assert failed.place == expected
    assert b"secret" not in failed.payload()
    assert not texts(made.consortium.core.directory / "runs")


def test_no_run_on_confidential_rows_before_the_synthetic_one_is_green(study: Callable[[Capsule], Study]) -> None:
    silent = capsule("import os\nif os.environ['CONFIDENTIAL'] == 'yes':\n    open('../results/table.csv', 'w')\n")
    case = study(silent)
    ended = case.run(case.approved())
    assert (ended.state, ended.reason, ended.stages) == ("failed", "capsule-failed", {})


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import json; json.dump({'code': 'counts-differ'}, open('../results/failure.json', 'w'))", "capsule-failed"),
        ("open('../results/table.csv', 'w').write(1025 * 'x')", "output-refused"),
        ("import os; os.symlink('/etc/passwd', '../results/table.csv')", "output-refused"),
        ("import time; time.sleep(60)", "limit-time"),
    ],
)
def test_nothing_that_it_writes_chooses_the_code(study: Callable[[Capsule], Study], code: str, expected: str) -> None:
    declared = DECLARED.replace("VETTING", "none")
    if expected == "limit-time":
        declared = declared.replace("seconds: 30", "seconds: 2")
    made = study(capsule(code, **{"escrow.yml": declared.encode()}))
    case = made.run(made.approved())
    assert (case.state, case.reason) == ("failed", expected)


def test_a_limit_tells_no_place(study: Callable[[Capsule], Study]) -> None:
    printing = (
        "import time, traceback\ntry:\n    1 / 0\nexcept ArithmeticError:\n    traceback.print_exc()\ntime.sleep(60)\n"
    )
    declared = DECLARED.replace("VETTING", "none").replace("seconds: 30", "seconds: 2")
    made = study(capsule(printing, **{"escrow.yml": declared.encode()}))
    case = made.run(made.approved(disclosure={"failed": ["error-code", "error-place"]}))
    assert (case.state, case.reason) == ("failed", "limit-time")
    [failed] = made.statements(st.RunFailed)
    assert failed.place is None


def test_an_output_that_is_too_large_is_not_read(
    study: Callable[[Capsule], Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study(capsule("open('../results/table.csv', 'w').write(1025 * 'x')"))
    opened = list[Output]()
    monkeypatch.setattr(Output, "open", opened.append)
    case = made.run(made.approved())
    assert (case.state, case.reason, opened) == ("failed", "output-refused", [])


TALKS = """
import json
import time

with open("../data/transactions.csv", encoding="utf-8") as file:
    print(json.dumps({"progress": file.read().split()[-1]}), flush=True)
time.sleep(1)
open("../results/table.csv", "w").close()
"""


def test_what_a_capsule_prints_reaches_nobody(study: Callable[[Capsule], Study]) -> None:
    made = study(capsule(TALKS))
    assert words(made, made.approved()) == {"started", "done"}


def words(made: Study, digest: str) -> set[str]:
    """All that is said of a run that releases."""
    said: set[str] = set()
    assert made.consortium.core.run(digest, lambda _, text: said.add(text)).state == "released"
    return said


@pytest.mark.engine
def test_what_a_sealed_capsule_prints_reaches_nobody(
    engine: DockerClient, image: str, memory: Path, tmp_path: Path
) -> None:
    built = build(engine, capsule(TALKS), base=image, tell=lambda _: None).image
    with ContainerRuntime(memory / "jobs", image=image) as runtime:
        made = Study.made(tmp_path / "world", capsule(TALKS), runtime)
        try:
            assert words(made, made.approved(computation={"image": built})) == {"started", "done"}
        finally:
            made.consortium.close()


@pytest.mark.parametrize(
    "terms",
    [
        {"capsule": "sha256:" + "2" * 64},
        {"outputs": [{"path": "table.csv", "kind": "table", "size-kib": 2, "vetting": "none"}]},
        {"limits": {"seconds": 31, "memory-mib": 256}},
    ],
)
def test_only_the_capsule_that_all_approved_runs(study: Callable[[Capsule], Study], terms: dict[str, Any]) -> None:
    made = study(capsule())
    case = made.run(made.approved(computation=terms))
    assert (case.state, case.reason, case.stages) == ("failed", "capsule-changed", {})


SWITCH = """
import os

confidential = os.environ["CONFIDENTIAL"] == "yes"
assert os.listdir("../data") == ["transactions.csv"]
assert os.path.exists("config-confidential.yml") == confidential
if os.path.exists("/code/run"):
    assert os.path.exists("/confidential/data/transactions.csv") == confidential
    assert os.listdir("/data") == ["transactions.csv"]
open("../results/table.csv", "w").write("fine")
"""


def switching() -> Capsule:
    return capsule(SWITCH, **{"code/config-confidential.yml": b"data: /confidential/data\n"})


def test_a_capsule_that_switches_by_itself_finds_its_configuration(study: Callable[[Capsule], Study]) -> None:
    made = study(switching())
    assert made.run(made.approved()).state == "released"


@pytest.mark.engine
def test_sealed_it_finds_the_same_paths_in_both_runs(
    engine: DockerClient, image: str, sealing: Literal["container", "gvisor"], memory: Path, tmp_path: Path
) -> None:
    built = build(engine, switching(), base=image, tell=lambda _: None).image
    with ContainerRuntime(memory / "jobs", image=image, sealing=sealing) as runtime:
        made = Study.made(tmp_path / "world", switching(), runtime)
        try:
            assert made.run(made.approved(computation={"image": built})).state == "released"
        finally:
            made.consortium.close()


@pytest.mark.engine
def test_it_runs_in_no_image_that_was_made_from_another_environment(
    engine: DockerClient, image: str, memory: Path, tmp_path: Path
) -> None:
    other = capsule(**{"environment/Dockerfile": b"FROM python\n# another\n"})
    built = build(engine, other, base=image, tell=lambda _: None).image
    with ContainerRuntime(memory / "jobs", image=image) as runtime:
        made = Study.made(tmp_path / "world", capsule(), runtime)
        try:
            case = made.run(made.approved(computation={"image": built}))
            assert (case.state, case.reason, case.stages) == ("failed", "image-refused", {})
        finally:
            made.consortium.close()


@pytest.mark.engine
def test_a_contract_that_names_an_image_which_is_not_there_is_not_proposed(
    image: str, memory: Path, tmp_path: Path, refused: Refused
) -> None:
    with ContainerRuntime(memory / "jobs", image=image) as runtime:
        made = Study.made(tmp_path / "world", capsule(), runtime)
        try:
            with refused("image-missing"):
                made.approved()
        finally:
            made.consortium.close()


def test_requests_have_areas_of_their_own(study: Callable[[Capsule], Study], tmp_path: Path, refused: Refused) -> None:
    made = study(capsule())
    first, second = made.approved(), made.approved(title="The same once more")
    assert (made.run(first).state, made.run(second).state) == ("released", "released")
    lab = made.consortium.banks["lab"]
    one, two = fetch(lab, first, tmp_path / "one"), fetch(lab, second, tmp_path / "two")
    (one / "outputs.json").write_bytes((two / "outputs.json").read_bytes())
    with refused("release-invalid"):
        verify_release(one, lab.identity, pinned(lab.home))


def test_its_limits_are_the_contracts(study: Callable[[Capsule], Study]) -> None:
    greedy = "x = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(9)\n"
    made = study(capsule(greedy))
    assert made.consortium.core.limits == Limits()
    case = made.run(made.approved())
    assert (case.state, case.reason) in {("failed", "limit-memory"), ("failed", "capsule-failed")}
