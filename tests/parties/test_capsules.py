"""A capsule on its author's machine: read from a directory, doubted, and run by the escrow's own job."""

import os
import stat
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import LEDGER, OPENED, World, committed, refused, sha

from contracts.api import EscrowView, PartyView
from contracts.capsule import Capsule, read, unpack
from contracts.computation import CapsuleRun
from contracts.contract import validated
from contracts.errors import EscrowError
from contracts.records import PartyRecord
from escrow.runtime.capsulefolder import capsule_in, find
from escrow.runtime.capsules import capsule_code, capsule_job, failure
from escrow.runtime.folders import remove
from escrow.runtime.job import Job
from escrow.runtime.process import ProcessRuntime
from parties.capsules import checks
from parties.capsules.draft import capsule_draft, files_of
from parties.capsules.templates import TEMPLATES, new_capsule, transactions
from parties.capsules.trial import Trial, private_root, tables_in, try_out
from parties.offers import Offer
from parties.policy import policy_from
from parties.tables import table_content

IMAGE = sha("image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A capsule's directory."""
    new_capsule(tmp_path / "capsule", "python")
    return tmp_path / "capsule"


# a directory


def test_a_template_is_a_whole_capsule_and_always_the_same(tmp_path: Path) -> None:
    for template in TEMPLATES:
        files = new_capsule(tmp_path / template, template)
        new_capsule(tmp_path / f"{template}-again", template)
        capsule = capsule_in(tmp_path / template)
        assert set(capsule.files) == set(files)
        assert capsule.declaration.family == template
        assert capsule_in(tmp_path / f"{template}-again").packed() == capsule.packed()
        assert (tmp_path / template / "code" / "run").stat().st_mode & stat.S_IXUSR
        assert checks.warnings(capsule, left_out=(), results=tmp_path) == (
            "by_hour.csv is declared, and the last run here did not write it.",
            "summary.json is declared, and the last run here did not write it.",
        )


def test_a_template_never_replaces_anything(folder: Path) -> None:
    with refused("file-unwritable"):
        new_capsule(folder, "python")
    with refused("file-unwritable"):
        new_capsule(folder / "README.md", "python")
    with refused("usage"):
        new_capsule(folder.parent / "other", "cobol")
    assert not (folder.parent / "other").exists()


def test_synthetic_rows_come_from_the_seed_alone() -> None:
    first, again, other = (transactions(50, seed) for seed in (1, 1, 2))
    assert (first == again, first == other, first.count("\n")) == (True, False, 51)


def test_what_is_no_part_of_it_is_left_out(folder: Path) -> None:
    before = capsule_in(folder).packed()
    for path in ("results/by_hour.csv", ".git/HEAD", "code/__pycache__/x.pyc", "code/.Rhistory"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(b"\0")
    assert capsule_in(folder).packed() == before
    assert find(folder).left_out == [".git", "code/.Rhistory", "code/__pycache__", "results"]


def test_links_are_refused_wherever_they_lead(folder: Path) -> None:
    (folder / "code" / "secret").symlink_to("/etc/passwd")
    (folder / "data" / "more").symlink_to(folder / "code")
    (folder / "environment" / "gone").symlink_to("nowhere")
    with pytest.raises(EscrowError) as caught:
        capsule_in(folder)
    assert [each.split("'")[1] for each in caught.value.details] == ["code/secret", "data/more", "environment/gone"]


def test_rules_of_the_directory_and_of_the_law_are_named_together(folder: Path) -> None:
    (folder / "code" / "link").symlink_to("run")
    (folder / "notes.txt").write_text("mine")
    (folder / "escrow.yml").write_text("capsule: 1\n")
    with pytest.raises(EscrowError) as caught:
        capsule_in(folder)
    assert len(caught.value.details) == 5  # link, place, family, data, outputs


def test_no_more_is_read_than_a_capsule_holds(folder: Path) -> None:
    with (folder / "data" / "large.csv").open("wb") as file:
        file.truncate(1 << 40)
    for number in range(1100):
        (folder / "code" / f"f{number}").touch()
    found = find(folder)
    assert len(found.files) == 1001
    with refused("capsule-invalid"):
        capsule_in(folder)


def test_no_more_bytes_are_read_than_a_capsule_holds(folder: Path) -> None:
    for number in range(5):
        with (folder / "data" / f"part-{number}.csv").open("wb") as file:
            file.truncate(30 << 20)
    found = find(folder)
    assert sum(len(content) for content in found.files.values()) <= 64 << 20
    assert [each.split("'")[1] for each in found.wrong] == [f"data/part-{number}.csv" for number in (2, 3, 4)]
    with refused("capsule-invalid"):
        capsule_in(folder)


def test_nothing_is_looked_for_below_the_deepest_level(folder: Path) -> None:
    below = folder / "code" / "a" / "b"
    below.mkdir(parents=True)
    (below / "deepest.py").write_text("x = 1\n")
    assert "code/a/b/deepest.py" in capsule_in(folder).files
    descriptors = [os.open(below, os.O_RDONLY)]
    try:
        for _ in range(1500):  # deeper than a path can be long, or Python calls itself
            os.mkdir("d", dir_fd=descriptors[-1])
            descriptors.append(os.open("d", os.O_RDONLY, dir_fd=descriptors[-1]))
            os.close(descriptors.pop(0))
        with pytest.raises(EscrowError) as caught:
            capsule_in(folder)
    finally:
        os.close(descriptors[0])
        remove(folder)
    assert caught.value.code == "capsule-invalid"
    assert [each.split("'")[1] for each in caught.value.details] == ["code/a/b/d"]


def test_a_directory_that_is_none_is_told(tmp_path: Path) -> None:
    with refused("file-unreadable"):
        capsule_in(tmp_path / "absent")
    (tmp_path / "file").touch()
    with refused("file-unreadable"):
        capsule_in(tmp_path / "file")


# doubts


@pytest.mark.parametrize(
    ("path", "content", "doubt"),
    [
        ("code/more.py", "open('/data/transactions.csv')\n", "code/more.py:1 names an absolute path"),
        ("code/more.py", "\n\nimport requests\n", "code/more.py:3 may use the network"),
        ("code/more.py", "from urllib.request import urlopen\n", "may use the network"),
        ("code/more.R", "library(httr)\n", "may use the network"),
        ("code/more.sh", "curl https://example.org\n", "may use the network"),
        ("data/notes.csv", "a\n1\n", "data/notes.csv is not declared"),
        ("environment/Dockerfile", "FROM python:3.11\nRUN make\n", "environment/Dockerfile, line 2"),
    ],
)
def test_what_may_go_wrong_is_named(folder: Path, path: str, content: str, doubt: str) -> None:
    (folder / path).write_text(content)
    found = checks.warnings(capsule_in(folder), left_out=(), results=folder / "absent")
    assert any(doubt in each for each in found), found


@pytest.mark.parametrize(
    "line", ["# import requests\n", "x = '../data/a.csv'\n", "import socketserver_x\n", "y = a/data\n"]
)
def test_what_is_harmless_is_not_doubted(folder: Path, line: str) -> None:
    (folder / "code" / "more.py").write_text(line)
    (folder / "results").mkdir()
    for name in ("by_hour.csv", "summary.json"):
        (folder / "results" / name).touch()
    assert checks.warnings(capsule_in(folder), left_out=("results", ".git"), results=folder / "results") == ()


def test_configuration_that_nothing_reads_is_doubted(folder: Path) -> None:
    (folder / "code" / "config-confidential.yml").write_text("a: 1\n")
    (folder / "code" / "analysis.py").write_text("print(1)\n")
    found = checks.warnings(capsule_in(folder), left_out=(), results=folder)
    assert found[0].startswith("code/config-confidential.yml is there, but no code reads CONFIDENTIAL")
    (folder / "code" / "analysis.py").write_text("import os\nos.environ['CONFIDENTIAL']\n")
    assert "CONFIDENTIAL" not in str(checks.warnings(capsule_in(folder), left_out=(), results=folder))


def test_outputs_that_would_be_held_and_files_left_out_are_named(folder: Path) -> None:
    text = (folder / "escrow.yml").read_text().replace("vetting: none", "vetting: disclosure-control", 1)
    (folder / "escrow.yml").write_text(text)
    found = checks.warnings(capsule_in(folder), left_out=("code/.secret", ".git"), results=folder)
    assert any(each.startswith("by_hour.csv asks for disclosure-control") for each in found)
    assert found[-1] == "Left out, since their names begin with a dot: code/.secret."


# the job


def changed(capsule: Capsule, **files: str) -> Capsule:
    return read({**capsule.files, **{f"code/{name}": text.encode() for name, text in files.items()}})


@pytest.fixture
def job(folder: Path) -> Callable[..., Job]:
    (folder / "code" / "config-confidential.yml").write_text("a: 1\n")

    def made(tables: Mapping[str, bytes] | None) -> Job:
        return capsule_job("run-1", capsule_in(folder), image=IMAGE, tables=tables, party="north")

    return made


def test_both_modes_differ_in_rows_configuration_and_one_variable(job: Callable[..., Job]) -> None:
    synthetic, confidential = job(None), job({"transactions.csv": b"rows"})
    assert synthetic.program
    assert confidential.program
    assert confidential.inputs.keys() - synthetic.inputs.keys() == {"code/config-confidential.yml"}
    assert confidential.inputs["data/transactions.csv"] == b"rows"
    assert (synthetic.program.environment, confidential.program.environment) == (
        {"CONFIDENTIAL": "no"},
        {"CONFIDENTIAL": "yes"},
    )
    assert (synthetic.program.mounts, confidential.program.mounts) == ({}, {"data": "/confidential/data"})
    assert synthetic.program.command == confidential.program.command == ("code/run",)
    assert (synthetic.outputs, synthetic.limits) == (confidential.outputs, confidential.limits)
    assert synthetic.outputs == ("by_hour.csv", "summary.json")
    assert (synthetic.limits.seconds, synthetic.limits.memory_mib) == (300, 1024)


@pytest.mark.parametrize("names", [[], ["other.csv"], ["transactions.csv", "other.csv"]])
def test_the_tables_are_the_declared_files(job: Callable[..., Job], names: list[str]) -> None:
    with refused("tables-differ"):
        job(dict.fromkeys(names, b"rows"))


def test_a_capsule_s_own_word_is_no_code() -> None:
    words = ("limit-time", "output-refused", "training-failed", "holdout-in-training", None)
    assert [capsule_code(each) for each in words] == ["limit-time", "output-refused", *3 * ["capsule-failed"]]


def test_a_place_is_told_of_the_capsules_own_failures_alone(job: Callable[..., Job]) -> None:
    printed = (
        b'Traceback (most recent call last):\n  File "/code/analysis.py", line 2, in <module>\nValueError: secret\n'
    )
    told = {
        code: failure(job(None), code, printed) for code in ("limit-time", "output-refused", "training-failed", None)
    }
    assert {code: each.code for code, each in told.items()} == {
        "limit-time": "limit-time",
        "output-refused": "output-refused",
        "training-failed": "capsule-failed",
        None: "capsule-failed",
    }
    places = {code: each.place and each.place.line for code, each in told.items()}
    assert places == {"limit-time": None, "output-refused": None, "training-failed": 2, None: 2}


# a run, as a plain process


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Callable[..., Trial]:
    """Runs the capsule with other code."""

    def ran(*, tables: Path | None = None, **files: str) -> Trial:
        capsule = changed(capsule_in(folder), **files)
        found = None if tables is None else tables_in(tables, capsule)
        with private_root(folder) as root, ProcessRuntime(root, packages=()) as runtime:
            return try_out(capsule, runtime, image=IMAGE, tables=found, out=tmp_path / "out", told=lambda *_: None)

    return ran


def test_the_template_runs_on_its_own_rows_and_on_others(run: Callable[..., Trial], tmp_path: Path) -> None:
    own = run()
    assert (own.code, own.missing, own.confidential, own.sealing) == (None, (), False, "none")
    assert own.written == {name: (tmp_path / "out" / name).stat().st_size for name in ("by_hour.csv", "summary.json")}
    assert '"confidential": false, "transactions": 2000' in (tmp_path / "out" / "summary.json").read_text()
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "transactions.csv").write_text(transactions(7, 3))
    assert run(tables=tmp_path / "rows").confidential
    assert '"confidential": true, "transactions": 7' in (tmp_path / "out" / "summary.json").read_text()


def test_the_rows_and_the_code_are_not_touched(run: Callable[..., Trial], folder: Path) -> None:
    before = capsule_in(folder).packed()
    run(run="#!/bin/sh\nrm -rf ../data/* analysis.py\n")
    assert capsule_in(folder).packed() == before


def test_a_failure_shows_the_author_everything_and_others_a_place(run: Callable[..., Trial], tmp_path: Path) -> None:
    run()
    failed = run(**{"analysis.py": 'rows = open("../data/transactions.csv").read()\nraise ValueError(rows[:20])\n'})
    assert b"ValueError: time,card,terminal" in failed.log
    assert (failed.code, failed.written, failed.missing) == ("capsule-failed", {}, ())
    assert failed.place is not None
    assert failed.place.model_dump() == {"exception": "ValueError", "file": "code/analysis.py", "line": 2}
    assert not list((tmp_path / "out").iterdir())  # nothing of the run before


def test_a_table_that_cannot_be_read_is_told(folder: Path, tmp_path: Path) -> None:
    capsule, rows = capsule_in(folder), tmp_path / "rows"
    rows.mkdir()
    (rows / "transactions.csv").write_bytes(b"time\n")
    tables = tables_in(rows, capsule)
    (rows / "transactions.csv").unlink()
    with private_root(folder) as root, ProcessRuntime(root, packages=()) as runtime, refused("file-unreadable"):
        try_out(capsule, runtime, image=IMAGE, tables=tables, out=tmp_path / "out", told=lambda *_: None)


def test_an_output_that_is_missing_is_a_failure(run: Callable[..., Trial], tmp_path: Path) -> None:
    trial = run(run="#!/bin/sh\necho 1 > ../results/by_hour.csv\necho 2 > ../results/undeclared.csv\n")
    assert (trial.code, trial.missing, trial.written) == ("capsule-failed", ("summary.json",), {"by_hour.csv": 2})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["by_hour.csv"]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("head -c 20000 /dev/zero > ../results/by_hour.csv", "output-refused"),  # 16 KiB were declared
        ("ln -s /etc/passwd ../results/by_hour.csv", "output-refused"),
        ("for i in 1 2 3; do head -c 9000000 /dev/zero > ../results/$i; done; sleep 60", "limit-results"),
        ("exit 3", "capsule-failed"),
        ('echo \'{"code": "holdout-in-training"}\' > ../results/failure.json', "capsule-failed"),
        ("kill -9 $$", "capsule-failed"),
    ],
)
def test_what_others_would_be_told(run: Callable[..., Trial], script: str, code: str) -> None:
    trial = run(run=f"#!/bin/sh\n{script}\n")
    assert (trial.code, trial.place) == (code, None)


def test_a_capsule_that_never_ends_is_ended(run: Callable[..., Trial], folder: Path) -> None:
    text = (folder / "escrow.yml").read_text().replace("seconds: 300", "seconds: 1")
    (folder / "escrow.yml").write_text(text)
    assert run(run="#!/bin/sh\nsleep 600\n").code == "limit-time"


def test_rows_that_are_not_there_are_told_before_anything_runs(run: Callable[..., Trial], tmp_path: Path) -> None:
    with refused("tables-differ"):
        run(tables=tmp_path)


def test_one_command_at_a_time_runs_a_capsule_and_leaves_nothing(folder: Path) -> None:
    with private_root(folder) as root, refused("runtime-busy"), private_root(folder):
        pass
    assert not root.exists()


def test_a_command_that_fails_leaves_nothing_either(folder: Path) -> None:
    with refused("image-missing"), private_root(folder) as root:
        assert root.exists()
        raise EscrowError("image-missing", "There is no image.")
    assert not root.exists()


# tables


@pytest.mark.parametrize(
    ("text", "rows"),
    [("a,b\n1,2\n3,4\n", 2), ('a,b\n"1\n2",3\n\n4,5', 2), ("a\r\n1\r\n", 1), ("\ufeffa\n1\n", 1)],
)
def test_rows_of_csv_are_records(tmp_path: Path, text: str, rows: int) -> None:
    (tmp_path / "table.csv").write_text(text, newline="")
    content = table_content(tmp_path / "table.csv")
    assert (content.part, content.rows, content.schema, content.positives) == ("table", rows, None, None)
    with content.open() as file:
        assert file.read() == text.encode()


def test_rows_of_other_files_are_counted_or_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "table.parquet")
    assert table_content(tmp_path / "table.parquet").rows == 3
    (tmp_path / "table.sqlite").write_bytes(b"\0")
    assert table_content(tmp_path / "table.sqlite", 12).rows == 12
    with refused("usage"):
        table_content(tmp_path / "table.sqlite")
    with refused("counts-differ"):
        table_content(tmp_path / "table.parquet", 4)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("table.csv", b"", "table-empty"),
        ("table.csv", b"a,b\n", "table-empty"),
        ("table.csv", b"a\n\xff\n", "table-invalid"),
        ("table.parquet", b"PAR1", "table-invalid"),
    ],
)
def test_a_table_without_rows_to_count_is_refused(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(content)
    with refused(code):
        table_content(tmp_path / name)
    with refused("file-unreadable"):
        table_content(tmp_path / f"absent-{name}")


# the contract


def offer(party: str, *, part: Any = "table", entry: int = 7, rows: int | None = 1000) -> Offer:
    return Offer(party, part, committed(f"{party}/{part}/{entry}"), None, rows, None, entry, 0)


INFO = EscrowView(
    ledger=LEDGER,
    public_key="",
    workers={"none": sha("process"), "container": sha("image")},
    methods=("pooled",),
    sealings=("none", "container"),
)
OWN = committed("north/capsule")


@pytest.fixture
def drawn(folder: Path) -> Callable[..., Any]:
    views = [
        PartyView(request=each.request, revoked=each.revoked)
        for each in World.founded().records.values()
        if isinstance(each, PartyRecord)
    ]

    def made(*offers: Offer, **terms: Any) -> Any:
        offered = {each.party: [other for other in offers if other.party == each.party] for each in offers}
        given = {"me": "north", "commitment": OWN, "files": {"harbour": "transactions.csv"}, "image": IMAGE}
        return capsule_draft(INFO, views, offered, capsule=capsule_in(folder), **{**given, "now": OPENED, **terms})

    return made


def test_a_draft_is_a_contract_that_names_the_capsule(drawn: Callable[..., Any], folder: Path) -> None:
    made = drawn(offer("harbour"))
    contract, capsule = validated(made.document), capsule_in(folder)
    computation = contract.computation
    assert isinstance(computation, CapsuleRun)
    assert (computation.capsule, computation.image, computation.mode) == (capsule.digest, IMAGE, "validate")
    assert (computation.outputs, computation.limits) == (capsule.declaration.outputs, capsule.declaration.limits)
    assert computation.sealing == "container"
    assert contract.names() == ["north", "harbour"]
    assert contract.commitments() == [OWN, offer("harbour").commitment]
    assert [(each.party, each.receives) for each in contract.recipients] == [("north", "outputs")]
    assert (contract.release, contract.disclosure.failed, made.chosen) == ((), ("error-code",), ())


def test_the_latest_table_is_taken_and_said(drawn: Callable[..., Any]) -> None:
    made = drawn(offer("harbour", entry=3), offer("harbour", entry=9), offer("harbour", part="train", entry=11))
    assert offer("harbour", entry=9).commitment in validated(made.document).commitments()
    assert len(made.chosen) == 1
    assert "2 tables" in made.chosen[0]


def test_a_place_is_disclosed_only_if_it_was_asked_for(drawn: Callable[..., Any]) -> None:
    made = drawn(offer("harbour"), error_place=True, sealing="container")
    contract = validated(made.document)
    assert contract.disclosure.failed == ("error-code", "error-place")
    assert contract.computation.sealing == "container"


def test_the_author_s_own_policy_is_asked(drawn: Callable[..., Any]) -> None:
    policy = policy_from({"policy": 1, "partners": ["valley"]})
    assert [each.term for each in drawn(offer("harbour"), policy=policy).warnings] == ["partners"]


def test_what_a_draft_needs_is_named(drawn: Callable[..., Any]) -> None:
    with refused("deposit-unknown"):
        drawn(offer("harbour", part="train"))
    with refused("party-unknown"):
        drawn(offer("nobody"), files={"nobody": "transactions.csv"})
    with refused("not-supported"):
        drawn(offer("harbour"), sealing="gvisor")
    with refused("document-invalid"):
        drawn(offer("harbour"), image="latest")


def test_each_declared_file_has_an_owner(folder: Path) -> None:
    one = capsule_in(folder)
    assert files_of(["harbour"], one) == files_of(["harbour=transactions.csv"], one) == {"harbour": "transactions.csv"}
    text = one.files["escrow.yml"].replace(b"[transactions.csv]", b"[transactions.csv, cards.csv]")
    two = read({**one.files, "escrow.yml": text, "data/cards.csv": b"card\n"})
    assert files_of(["harbour=cards.csv", "valley=transactions.csv"], two) == {
        "harbour": "cards.csv",
        "valley": "transactions.csv",
    }
    for owners in (["harbour"], ["harbour", "valley"], ["harbour=cards.csv"], ["harbour=cards.csv", "valley=x.csv"]):
        with refused("tables-differ"):
            files_of(owners, two)
    with refused("tables-differ"):
        files_of(["harbour", "harbour"], one)


def test_a_capsule_comes_back_from_its_deposit(folder: Path) -> None:
    capsule = capsule_in(folder)
    assert unpack(BytesIO(capsule.packed()).read()).digest == capsule.digest
