"""The process runtime keeps the contract of `escrow.runtime.base`, with real processes and a worker that misbehaves."""

import json
import os
import resource
import select
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from contracts.errors import CODES, EscrowError
from escrow.runtime.base import Job, Limits, Source, State, Status, failure_code, progress_text
from escrow.runtime.process import ProcessRuntime, code_digest, memory_root

WORKER = Path(__file__).with_name("naughty.py")
PATIENCE = 20.0  # seconds that no test should need
FINISHED = Status(State.FINISHED)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "code/toy"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("ANSWER = 42\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def runtime(root: Path, package: Path) -> Iterator[ProcessRuntime]:
    with make(root, package) as runtime:
        yield runtime


def make(root: Path, package: Path, capacity: int = 2) -> ProcessRuntime:
    return ProcessRuntime(root, command=(sys.executable, str(WORKER)), packages=(package,), capacity=capacity)


def job(do: str, *, job_id: str = "job-1", outputs: tuple[str, ...] = ("out.bin",), **limits: int) -> Job:
    inputs: dict[str, Source] = {"in.bin": b"input"}
    return Job(job_id, {"do": do}, inputs, outputs, Limits(**limits))


def run(runtime: ProcessRuntime, what: Job) -> Status:
    runtime.prepare(what)
    runtime.start(what)
    assert runtime.wait([what.id], seconds=PATIENCE) == {what.id}
    return runtime.status(what.id)


def start_and_hear(runtime: ProcessRuntime, what: Job) -> None:
    """Start a job that says `sleeping`, and return when it has said so."""

    class Heard(Exception):  # noqa: N818 - an event
        pass

    def heard(job_id: str, text: str) -> None:
        raise Heard

    runtime.prepare(what)
    runtime.start(what)
    with pytest.raises(Heard):
        runtime.wait([what.id], seconds=PATIENCE, progress=heard)


def pidfd_of(root: Path, job_id: str = "job-1") -> int:
    return os.pidfd_open(int((root / job_id / "job/results/pid").read_text()))


def has_ended(pidfd: int) -> bool:
    try:
        return bool(select.select([pidfd], [], [], PATIENCE)[0])
    finally:
        os.close(pidfd)


def refused(code: str):
    return pytest.raises(EscrowError, check=lambda error: error.code == code)


# the way of a job


def test_a_job_goes_from_absent_to_finished_and_back(runtime: ProcessRuntime, root: Path) -> None:
    what = job("copy")
    assert runtime.status(what.id) == Status(State.ABSENT)
    runtime.prepare(what)
    assert runtime.status(what.id) == Status(State.PREPARED)
    assert run(runtime, what) == FINISHED
    assert {path: output.read() for path, output in runtime.collect(what).items()} == {"out.bin": b"input"}
    runtime.destroy(what.id)
    assert runtime.status(what.id) == Status(State.ABSENT)
    assert list(root.iterdir()) == []


def test_every_duty_may_be_repeated(runtime: ProcessRuntime) -> None:
    what = job("copy")
    for _ in range(2):
        runtime.prepare(what)
    for _ in range(2):
        runtime.start(what)
    runtime.wait([what.id], seconds=PATIENCE)
    runtime.prepare(what)  # a finished job is not undone
    runtime.start(what)
    assert runtime.wait([what.id], seconds=0) == {what.id}
    assert runtime.collect(what).keys() == runtime.collect(what).keys() == {"out.bin"}
    for _ in range(2):
        runtime.destroy(what.id)


def test_inputs_stream_into_private_read_only_files(runtime: ProcessRuntime, root: Path) -> None:
    runtime.prepare(Job("job-1", {}, {"a/b.bin": lambda file: [file.write(b"x") for _ in range(3)] and None}))
    path = root / "job-1/job/inputs/a/b.bin"
    assert path.read_bytes() == b"xxx"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert {stat.S_IMODE(path.stat().st_mode) for path in (root, root / "job-1", root / "job-1/job")} == {0o700}


def test_an_input_that_refuses_leaves_nothing(runtime: ProcessRuntime, root: Path) -> None:
    def refuse(file: object) -> None:
        raise EscrowError("blob-corrupt", "The file is damaged.")

    with refused("blob-corrupt"):
        runtime.prepare(Job("job-1", {}, {"first": b"plaintext", "second": refuse}))
    assert runtime.status("job-1") == Status(State.ABSENT)
    assert list(root.iterdir()) == []


def test_duties_out_of_turn_are_refused(runtime: ProcessRuntime) -> None:
    with pytest.raises(ValueError, match="not prepared"):
        runtime.start(job("copy"))
    runtime.prepare(job("copy"))
    with pytest.raises(ValueError, match="not finished"):
        runtime.collect(job("copy"))


@pytest.mark.parametrize("name", ["", ".", "../x", "a/../b", "/etc/passwd", "a//b", "a\n", "-/.", "a/b/c/d/e", "é"])
def test_an_odd_path_is_no_input_and_no_output(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Job("job-1", {}, {name: b""})
    with pytest.raises(ValueError, match="cannot be"):
        Job("job-1", {}, outputs=(name,))
    with pytest.raises(ValueError, match="cannot be"):
        Job(name, {})


def test_no_more_jobs_run_than_the_capacity(root: Path, package: Path) -> None:
    with make(root, package, capacity=1) as runtime:
        start_and_hear(runtime, job("sleep_and_tell"))
        second = job("copy", job_id="job-2")
        runtime.prepare(second)
        with refused("runtime-busy"):
            runtime.start(second)
        runtime.destroy("job-1")
        assert run(runtime, second) == FINISHED


def test_waiting_tells_which_of_several_jobs_ended(runtime: ProcessRuntime) -> None:
    start_and_hear(runtime, job("sleep_and_tell", job_id="slow"))
    runtime.prepare(job("copy", job_id="fast"))
    runtime.start(job("copy", job_id="fast"))
    assert runtime.wait(["slow", "fast"], seconds=PATIENCE) == {"fast"}
    assert runtime.wait(["slow"], seconds=0.01) == frozenset()
    assert runtime.wait(["slow", "never-prepared"], seconds=PATIENCE) == {"never-prepared"}


def test_destroying_a_job_ends_the_wait_for_it(runtime: ProcessRuntime) -> None:
    start_and_hear(runtime, job("sleep_and_tell"))
    halt = threading.Thread(target=runtime.destroy, args=("job-1",))
    halt.start()
    assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
    halt.join()
    assert runtime.status("job-1") == Status(State.ABSENT)


# how it can fail


@pytest.mark.parametrize(
    ("do", "limits", "code"),
    [
        ("sleep", {"seconds": 1}, "limit-time"),
        ("fill_memory", {"memory_mib": 64}, "limit-memory"),
        ("fill_disk", {"results_mib": 4}, "limit-results"),
        ("many_processes", {"processes": 10}, "limit-processes"),
        ("one_huge_allocation", {"memory_mib": 64}, "training-failed"),
        ("big_file", {"results_mib": 4}, "training-failed"),
        ("exit_3", {}, "training-failed"),
        ("die", {}, "training-failed"),
        ("catalogued", {}, "roster-incomplete"),
        ("invented", {}, "training-failed"),
        ("talkative", {}, "training-failed"),
        ("broken", {}, "training-failed"),
        ("nested", {}, "training-failed"),
        ("long", {}, "training-failed"),
        ("fail_and_exit_0", {}, "update-invalid"),
        ("link_results", {}, "training-failed"),
        ("no_such_deed", {}, "training-failed"),
    ],
)
def test_a_failure_has_a_catalogued_code_and_no_outputs(
    runtime: ProcessRuntime, do: str, limits: dict[str, int], code: str
) -> None:
    assert run(runtime, job(do, **limits)) == Status(State.FAILED, code)
    assert code in CODES
    with pytest.raises(ValueError, match="not finished"):
        runtime.collect(job(do))


def test_a_command_that_cannot_start_is_a_failure(root: Path, package: Path) -> None:
    with ProcessRuntime(root, command=("/nowhere/python",), packages=(package,)) as runtime:
        assert run(runtime, job("copy")) == Status(State.FAILED, "training-failed")
        assert b"could not be started" in runtime.logs("job-1")


def test_failure_codes_and_progress_let_nothing_else_through() -> None:
    assert failure_code(b'{"code": "update-invalid"}') == "update-invalid"
    assert failure_code(b'{"code": ["update-invalid"]}') == failure_code(b"\xff") == "training-failed"
    assert progress_text(b'{"progress": "round 3 of 12 (25%)"}') == "round 3 of 12 (25%)"
    for line in (b"", b"[]", b'{"progress": ""}', b'{"progress": "\\u001b[2J"}', b'{"progress": "\\u0430"}', b"7"):
        assert progress_text(line) is None


# what the worker gets


def test_the_worker_inherits_nothing(runtime: ProcessRuntime, root: Path, package: Path, monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "key of the escrow")
    with (root / "open file").open("wb") as held:
        os.set_inheritable(held.fileno(), True)
        what = job("look", outputs=("seen.json",), open_files=99, results_mib=3)
        assert run(runtime, what) == FINISHED
    seen = json.loads(runtime.collect(what)["seen.json"].read())
    folder = str(root / "job-1/job")
    environment = seen["environment"]
    assert "SECRET" not in environment
    assert "key of the escrow" not in str(seen)
    assert (environment["HOME"], environment["TMPDIR"]) == (str(root / "job-1/job/tmp"),) * 2
    assert (environment["OMP_NUM_THREADS"], environment["PYTHONHASHSEED"]) == ("1", "0")
    assert environment["PYTHONPATH"] == str(package.parent)
    assert seen["limits"] == {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 99, "RLIMIT_FSIZE": 3 << 20}
    assert (seen["descriptors"], seen["stdin"], seen["cwd"], seen["argv"]) == (3, "/dev/null", folder, [folder])
    assert (seen["umask"], seen["session"], seen["no_new_privs"]) == (0o077, True, 1)


def test_what_the_worker_prints_is_kept_and_only_progress_is_told(runtime: ProcessRuntime) -> None:
    told: list[tuple[str, str]] = []
    what = job("talk")
    runtime.prepare(what)
    runtime.start(what)
    while not runtime.wait([what.id], seconds=PATIENCE, progress=lambda *line: told.append(line)):
        pytest.fail("the worker should have ended")
    assert told == [("job-1", "round 1 of 2"), ("job-1", "done")]
    logs = runtime.logs("job-1")
    assert b"row 17 has label 1\n" in logs
    assert b"no line end" in logs


def test_a_worker_that_prints_without_end_fills_neither_disk_nor_pipe(runtime: ProcessRuntime) -> None:
    assert run(runtime, job("shout")) == FINISHED
    assert len(runtime.logs("job-1")) == 4 << 20


def test_the_runtime_says_loudly_that_it_is_not_sealed(root: Path, package: Path, caplog) -> None:
    with make(root, package) as runtime:
        assert runtime.sealing == "none"
        assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [runtime.warning]
        assert "NOT SEALED" in runtime.warning
        assert str(root) in runtime.warning


def test_changed_code_does_not_run(runtime: ProcessRuntime, package: Path) -> None:
    assert runtime.worker() == code_digest([package])
    runtime.prepare(job("copy"))
    (package / "__init__.py").write_text("ANSWER = 43\n")
    with refused("worker-changed"):
        runtime.start(job("copy"))
    (package / "__init__.py").write_text("ANSWER = 42\n")
    assert run(runtime, job("copy")) == FINISHED
    (package / "added.py").write_text("")
    assert runtime.worker() != code_digest([package])


def test_the_default_worker_is_the_code_of_models_and_contracts(root: Path) -> None:
    with ProcessRuntime(root) as runtime:
        house = Path(__file__).parents[2]
        assert runtime.worker() == code_digest([house / "contracts", house / "models"])


# what comes out


def test_only_declared_outputs_are_collected(runtime: ProcessRuntime) -> None:
    what = job("copy", outputs=("out.bin", "never-written.bin"))
    assert run(runtime, what) == FINISHED
    assert list(runtime.collect(what)) == ["out.bin"]
    assert runtime.collect(what)["out.bin"].size == len(b"input")


@pytest.mark.parametrize("do", ["link_out", "link_folder", "hard_link", "fifo", "device", "unix_socket", "folder"])
def test_anything_but_a_regular_file_is_refused(runtime: ProcessRuntime, do: str) -> None:
    what = job(do, outputs=("sub/in.bin",) if do == "link_folder" else ("out.bin",))
    assert run(runtime, what) == FINISHED
    with refused("output-refused"):
        runtime.collect(what)


def test_outputs_that_are_too_large_together_are_refused(runtime: ProcessRuntime) -> None:
    assert run(runtime, job("big_file", results_mib=16)) == FINISHED
    with refused("output-refused"):
        runtime.collect(job("big_file", results_mib=7))


def test_an_output_that_became_a_link_after_collect_is_not_opened(runtime: ProcessRuntime, root: Path) -> None:
    what = job("copy")
    run(runtime, what)
    output = runtime.collect(what)["out.bin"]
    (root / "job-1/job/results/out.bin").unlink()
    (root / "job-1/job/results/out.bin").symlink_to("/etc/hostname")
    with refused("output-refused"):
        output.open()


# the end


def test_destroy_removes_what_is_deep_closed_or_oddly_named(runtime: ProcessRuntime, root: Path) -> None:
    assert run(runtime, job("nest")) in {FINISHED, Status(State.FAILED, "limit-results")}  # if it was seen in time
    assert (root / "job-1/job/tmp/closed").exists()
    runtime.destroy("job-1")
    assert list(root.iterdir()) == []
    assert Path("/etc").is_dir()


def test_destroy_ends_grandchildren_that_left_the_session(runtime: ProcessRuntime, root: Path) -> None:
    start_and_hear(runtime, job("daemon"))
    daemon = pidfd_of(root)
    runtime.destroy("job-1")
    assert has_ended(daemon)


def test_a_job_does_not_end_before_all_it_started(runtime: ProcessRuntime, root: Path) -> None:
    assert run(runtime, job("leave_daemon", outputs=("pid",))) == FINISHED
    with pytest.raises(ProcessLookupError):
        pidfd_of(root)


def test_a_killed_supervisor_takes_the_worker_along(runtime: ProcessRuntime, root: Path) -> None:
    start_and_hear(runtime, job("daemon"))
    daemon = pidfd_of(root)
    supervisor = next(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and f"{root}/job-1/outcome".encode() in cmdline(entry)
    )
    os.kill(supervisor, signal.SIGKILL)
    assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
    assert runtime.status("job-1") == Status(State.FAILED, "training-failed")
    runtime.destroy("job-1")
    assert has_ended(daemon)


def cmdline(entry: Path) -> list[bytes]:
    with suppress(OSError):
        return (entry / "cmdline").read_bytes().split(b"\0")
    return []


def test_closing_ends_running_jobs_and_keeps_finished_ones(root: Path, package: Path) -> None:
    with make(root, package) as runtime:
        run(runtime, job("copy", job_id="done"))
        start_and_hear(runtime, job("sleep_and_tell"))
        sleeper = pidfd_of(root)
    assert has_ended(sleeper)
    with make(root, package) as again:
        assert again.status("done") == FINISHED
        assert again.collect(job("copy", job_id="done"))["out.bin"].read() == b"input"
        assert again.status("job-1") == Status(State.ABSENT)
        assert run(again, job("copy")) == FINISHED  # the same id, from the beginning


ESCROW = """
import sys
from pathlib import Path
from escrow.runtime.base import Job
from escrow.runtime.process import ProcessRuntime

root, worker, package = map(Path, sys.argv[1:])
runtime = ProcessRuntime(root, command=(sys.executable, str(worker)), packages=(package,), capacity=3)
for name, do in (("finished", "copy"), ("failed", "catalogued"), ("lost", "daemon"), ("prepared", "copy")):
    job = Job(name, {"do": do}, {"in.bin": b"input"}, ("out.bin",))
    runtime.prepare(job)
    if name != "prepared":
        runtime.start(job)
    if name in ("finished", "failed"):
        runtime.wait([name])
runtime.wait(["lost"], progress=lambda *_: print("ready", flush=True))
"""


def test_a_killed_escrow_leaves_no_worker_and_a_new_one_takes_over(root: Path, package: Path) -> None:
    command = [sys.executable, "-c", ESCROW, str(root), str(WORKER), str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as escrow:
        assert escrow.stdout is not None
        assert escrow.stdout.readline() == b"ready\n"
        daemon = pidfd_of(root, "lost")
        escrow.kill()
    assert has_ended(daemon)
    (root / ".half").mkdir()
    (root / ".half/plaintext").write_bytes(b"x")
    with make(root, package) as runtime:
        names = ["finished", "failed", "lost", "prepared"]
        states = [State.FINISHED, State.FAILED, State.ABSENT, State.PREPARED]
        assert [runtime.status(name).state for name in names] == states
        assert runtime.status("failed").code == "roster-incomplete"
        assert runtime.sweep(keep=[*names, "half"]) == {"finished", "failed", "prepared"}
        assert run(runtime, job("copy", job_id="prepared")) == FINISHED
        assert runtime.sweep() == frozenset()
        assert list(root.iterdir()) == []


def test_sweep_ends_what_an_earlier_supervisor_could_not(root: Path, package: Path) -> None:
    mark = "job-1.0123456789abcdef"
    (root / "job-1").mkdir(parents=True)
    root.chmod(0o700)
    (root / "job-1/started").write_text(mark)
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    with (
        subprocess.Popen(sleep, env={"ESCROW_JOB": mark}, stdout=subprocess.PIPE) as ours,
        subprocess.Popen(sleep, env={"ESCROW_JOB": mark + "0"}, stdout=subprocess.PIPE) as other,
        make(root, package) as runtime,
    ):
        for child in (ours, other):
            assert child.stdout is not None
            child.stdout.readline()
        runtime.sweep()
        assert ours.wait(PATIENCE) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


# where jobs live


def test_each_escrow_has_its_own_place_in_memory(tmp_path: Path) -> None:
    here, there = memory_root(tmp_path / "a"), memory_root(tmp_path / "b")
    assert here != there
    assert here == memory_root(tmp_path / "b/../a")
    if os.access("/dev/shm", os.W_OK):  # noqa: S108 - memory
        assert here.parent == Path("/dev/shm")  # noqa: S108


def test_a_root_that_others_can_enter_is_refused(tmp_path: Path, package: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "file").write_text("")
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "private")
    for name in ("open", "file", "link"):
        with refused("runtime-unfit"):
            make(tmp_path / name, package)


def test_waiting_costs_no_processor_time(runtime: ProcessRuntime) -> None:
    start_and_hear(runtime, job("sleep_and_tell"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert runtime.wait(["job-1"], seconds=0.5) == frozenset()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 0.1
