"""Both runtimes keep the contract of `escrow.runtime.base`: with real processes, real containers and a worker that
misbehaves. What is true of one of them alone is in `test_processes.py` and `test_containers.py`.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from contracts.errors import CODES, EscrowError
from escrow.runtime.base import Runtime, State, Status, failure, progress_text
from escrow.runtime.confinement import LIFE, Names
from escrow.runtime.docker import ContainerRuntime
from escrow.runtime.job import Job, Program
from escrow.runtime.process import ProcessRuntime
from tests.engine import label_of, leftovers
from tests.jobs import FINISHED, NAUGHTY, PATIENCE, has_ended, job, processes, refused, run, start_and_hear
from tests.wire import until


@dataclass(frozen=True)
class House:
    """A kind of runtime, a root, and how to make runtimes of that kind over a root."""

    sealed: bool
    image: str
    root: Path
    make: Callable[..., Runtime]
    kill: Callable[[str], None]
    """Kills the worker of a running `sleep_and_tell`, from outside."""


@pytest.fixture
def root(memory: Path) -> Path:
    return memory / "jobs"


def kill_process(root: Path, job_id: str) -> None:
    os.kill(int((root / job_id / "job/results/pid").read_text()), signal.SIGKILL)


def names_of(root: Path, job_id: str) -> Names:
    return Names(label_of(root).partition("=")[2], job_id)


@pytest.fixture(params=["process", pytest.param("container", marks=pytest.mark.engine)])
def house(request: pytest.FixtureRequest, root: Path) -> Iterator[House]:
    if request.param == "process":
        command = (sys.executable, str(NAUGHTY))
        make = partial(ProcessRuntime, root, command=command, packages=())
        yield House(False, "sha256:" + "0" * 64, root, make, partial(kill_process, root))
        return
    client, image = request.getfixturevalue("engine"), request.getfixturevalue("image")
    command = ("python3", "-c", NAUGHTY.read_text())
    make = partial(ContainerRuntime, root, image=image, command=command)
    yield House(True, image, root, make, lambda job_id: client.api.kill(names_of(root, job_id).worker))
    assert leftovers(client, root) == []


@pytest.fixture
def runtime(house: House) -> Iterator[Runtime]:
    with house.make() as runtime:
        yield runtime


# the way of a job


def test_a_job_goes_from_absent_to_finished_and_back(runtime: Runtime, root: Path) -> None:
    what = job("copy")
    assert runtime.status(what.id) == Status(State.ABSENT)
    runtime.prepare(what)
    assert runtime.status(what.id) == Status(State.PREPARED)
    assert run(runtime, what) == FINISHED
    assert {path: output.read() for path, output in runtime.collect(what).items()} == {"out.bin": b"input"}
    runtime.destroy(what.id)
    assert runtime.status(what.id) == Status(State.ABSENT)
    assert list(root.iterdir()) == []


def test_every_duty_may_be_repeated(runtime: Runtime) -> None:
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


def test_an_input_that_refuses_leaves_nothing(runtime: Runtime, root: Path) -> None:
    def refuse(file: object) -> None:
        raise EscrowError("blob-corrupt", "The file is damaged.")

    with refused("blob-corrupt"):
        runtime.prepare(Job("job-1", {}, {"first": b"plaintext", "second": refuse}))
    assert runtime.status("job-1") == Status(State.ABSENT)
    assert list(root.iterdir()) == []


def test_duties_out_of_turn_are_refused(runtime: Runtime) -> None:
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


def test_waiting_tells_which_of_several_jobs_ended(runtime: Runtime) -> None:
    start_and_hear(runtime, job("sleep_and_tell", job_id="slow"))
    runtime.prepare(job("copy", job_id="fast"))
    runtime.start(job("copy", job_id="fast"))
    assert runtime.wait(["slow", "fast"], seconds=PATIENCE) == {"fast"}
    assert runtime.wait(["slow"], seconds=0.01) == frozenset()
    assert runtime.wait(["slow", "never-prepared"], seconds=PATIENCE) == {"never-prepared"}


def test_destroying_a_job_ends_the_wait_for_it(runtime: Runtime) -> None:
    start_and_hear(runtime, job("sleep_and_tell"))
    halt = threading.Thread(target=runtime.destroy, args=("job-1",))
    halt.start()
    assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
    halt.join()
    assert runtime.status("job-1") == Status(State.ABSENT)


def test_a_job_whose_input_takes_long_keeps_no_other_waiting(runtime: Runtime) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(file: BinaryIO) -> None:
        asked.set()
        assert go_on.wait(PATIENCE)
        file.write(b"input")

    what = replace(job("copy", job_id="slow"), inputs={"in.bin": slow})
    preparing = threading.Thread(target=runtime.prepare, args=(what,))
    preparing.start()
    try:
        assert asked.wait(PATIENCE)
        assert run(runtime, job("copy", job_id="quick")) == FINISHED
        start_and_hear(runtime, job("sleep_and_tell", job_id="halted"))
        runtime.destroy("halted")
        assert runtime.status("slow") == Status(State.ABSENT)
    finally:
        go_on.set()
        preparing.join()
    assert run(runtime, what) == FINISHED


def test_waiting_costs_no_processor_time(runtime: Runtime) -> None:
    start_and_hear(runtime, job("sleep_and_tell"))
    before = time.process_time()
    assert runtime.wait(["job-1"], seconds=1.0) == frozenset()
    assert time.process_time() - before < 0.3


# how it can fail


@pytest.mark.parametrize(
    ("do", "limits", "plain", "sealed"),
    [
        ("sleep", {"seconds": 1}, "limit-time", "limit-time"),
        ("fill_memory", {"memory_mib": 64}, "limit-memory", "limit-memory"),
        ("fill_results", {"results_mib": 4}, "limit-results", "limit-results"),
        ("big_file", {"results_mib": 4}, "training-failed", "limit-results"),
        ("fill_scratch", {"scratch_mib": 4}, "limit-results", "training-failed"),  # the kernel says no, and the worker
        ("many_processes", {"processes": 10}, "limit-processes", "training-failed"),  # dies of it
        ("exit_3", {}, "training-failed", "training-failed"),
        ("crash", {}, "training-failed", "training-failed"),
        ("die", {}, "worker-lost", "worker-lost"),
        ("exit_137", {}, "training-failed", "worker-lost"),  # which the engine does not tell apart
        ("catalogued", {}, "roster-incomplete", "roster-incomplete"),
        ("invented", {}, "training-failed", "training-failed"),
        ("talkative", {}, "training-failed", "training-failed"),
        ("broken", {}, "training-failed", "training-failed"),
        ("nested", {}, "training-failed", "training-failed"),
        ("long", {}, "training-failed", "training-failed"),
        ("fail_and_exit_0", {}, "update-invalid", "update-invalid"),
        ("link_failure", {}, "training-failed", "training-failed"),
        ("link_results", {}, "training-failed", "training-failed"),
        ("no_such_deed", {}, "training-failed", "training-failed"),
    ],
)
def test_a_failure_has_a_catalogued_code_and_no_outputs(
    house: House, do: str, limits: dict[str, int], plain: str, sealed: str
) -> None:
    code = sealed if house.sealed else plain
    with house.make() as runtime:
        assert run(runtime, job(do, **limits)) == Status(State.FAILED, code)
        assert code in CODES
        with pytest.raises(ValueError, match="not finished"):
            runtime.collect(job(do))


@pytest.mark.parametrize(
    ("do", "party"),
    [("blaming", "north-2"), ("fail_and_die", "north"), ("blaming_oddly", None), ("fail_and_exit_0", None)],
)
def test_a_failure_names_the_party_that_the_worker_blames(runtime: Runtime, do: str, party: str | None) -> None:
    assert run(runtime, job(do)) == Status(State.FAILED, "update-invalid", party)


def test_a_worker_that_is_killed_is_lost(house: House, runtime: Runtime) -> None:
    start_and_hear(runtime, job("sleep_and_tell"))
    house.kill("job-1")
    assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
    assert runtime.status("job-1") == Status(State.FAILED, "worker-lost")
    with house.make() as another:
        assert another.status("job-1") == Status(State.FAILED, "worker-lost")
    runtime.destroy("job-1")
    assert run(runtime, job("copy")) == FINISHED


def test_a_worker_that_is_destroyed_is_not_lost(runtime: Runtime) -> None:
    start_and_hear(runtime, job("daemon"))  # so there is something to end
    seen = {runtime.status("job-1")}
    halt = threading.Thread(target=runtime.destroy, args=("job-1",))
    halt.start()
    while halt.is_alive():
        seen.add(runtime.status("job-1"))
    halt.join()
    assert seen | {runtime.status("job-1")} == {Status(State.RUNNING), Status(State.ABSENT)}


def test_a_command_that_cannot_start_is_a_failure(house: House) -> None:
    with house.make(command=("/nowhere/python",)) as runtime:
        assert run(runtime, job("copy")) == Status(State.FAILED, "training-failed")
        assert b"/nowhere/python" in runtime.logs("job-1")


def test_failure_codes_and_progress_let_nothing_else_through() -> None:
    assert failure(b'{"code": "update-invalid"}') == Status(State.FAILED, "update-invalid")
    assert failure(b'{"code": "update-invalid", "party": "north"}') == Status(State.FAILED, "update-invalid", "north")
    for party in (
        b'""',
        b'"North"',
        b'"1"',
        b'"north\\n"',
        b'"n\\u00f6rd"',
        b"7",
        b"null",
        b'["north"]',
        b'"%s"' % (33 * b"a"),
    ):
        assert failure(b'{"code": "update-invalid", "party": %s}' % party) == Status(State.FAILED, "update-invalid")
    for word in (b'{"code": ["update-invalid"]}', b"\xff", b'{"party": "north"}', b'{"code": "odd", "party": "north"}'):
        assert failure(word) == Status(State.FAILED, "training-failed")
    assert progress_text(b'{"progress": "round 3 of 12 (25%)"}') == "round 3 of 12 (25%)"
    for line in (b"", b"[]", b'{"progress": ""}', b'{"progress": "\\u001b[2J"}', b'{"progress": "\\u0430"}', b"7"):
        assert progress_text(line) is None


# what the worker says


def test_what_the_worker_prints_is_kept_and_only_progress_is_told(runtime: Runtime) -> None:
    told: list[tuple[str, str]] = []
    what = job("talk")
    runtime.prepare(what)
    runtime.start(what)
    while not runtime.wait([what.id], seconds=PATIENCE, progress=lambda *line: told.append(line)):
        pytest.fail("the worker should have ended")
    assert told == [("job-1", "round 1 of 2"), ("job-1", "done")]
    logs = runtime.logs("job-1")
    assert b"row 17 has label 1" in logs  # what was printed to standard error may stand right behind it
    assert b"no line end" in logs


def test_a_worker_that_prints_without_end_fills_neither_disk_nor_pipe(runtime: Runtime) -> None:
    assert run(runtime, job("shout")) == FINISHED
    assert len(runtime.logs("job-1")) == 4 << 20


# the door


def test_a_worker_dials_once_and_the_door_is_gone(runtime: Runtime) -> None:
    what = job("dial", job_id="long-" + "x" * 100, door=True)  # longer than the address of a socket may be
    runtime.prepare(what)
    runtime.start(what)
    with runtime.link(what.id, seconds=PATIENCE) as stream:
        stream.sendall(b"hello")
        assert stream.recv(100) == b"HELLO"
        with pytest.raises(ValueError, match="door"):
            runtime.link(what.id, seconds=PATIENCE)
    assert runtime.wait([what.id], seconds=PATIENCE) == {what.id}
    assert runtime.collect(what)["out.bin"].read() == b"closed"


def test_a_worker_that_does_not_dial_is_not_waited_for_long(runtime: Runtime) -> None:
    start_and_hear(runtime, job("sleep_and_tell", door=True))
    with refused("worker-silent"):
        runtime.link("job-1", seconds=0.05)


def test_a_worker_that_ends_without_dialling_is_silent(runtime: Runtime) -> None:
    assert run(runtime, job("nothing", door=True)) == FINISHED
    with refused("worker-silent"):
        runtime.link("job-1", seconds=10 * PATIENCE)


def test_the_stream_ends_with_the_job(runtime: Runtime) -> None:
    what = job("dial_and_wait", door=True)
    runtime.prepare(what)
    runtime.start(what)
    with runtime.link(what.id, seconds=PATIENCE) as stream:
        stream.settimeout(PATIENCE)
        runtime.destroy(what.id)
        assert stream.recv(1) == b""


def test_a_job_without_a_door_has_none(runtime: Runtime) -> None:
    start_and_hear(runtime, job("sleep_and_tell"))
    for job_id in ("job-1", "never-prepared"):
        with pytest.raises(ValueError, match="door"):
            runtime.link(job_id, seconds=PATIENCE)


# programs

CAPSULE = b"""#!/bin/sh
cat ../data/rows.csv > ../results/out.bin
echo "$1 $CONFIDENTIAL $TZ" >> ../results/out.bin
test ! -e ../job.json && test ! -w ../data/rows.csv -o "$(id -u)" = 0
"""


def program(image: str) -> Job:
    inputs = {"code/run": CAPSULE, "data/rows.csv": b"a,b\n"}
    command = Program(image, ("code/run", "first"), {"CONFIDENTIAL": "yes", "TZ": "Mars"})
    return Job("job-1", {"role": "capsule"}, inputs, ("out.bin",), program=command)


def test_a_program_finds_its_inputs_beside_it(house: House, runtime: Runtime) -> None:
    what = program(house.image)
    assert run(runtime, what) == FINISHED, runtime.logs("job-1")
    assert runtime.collect(what)["out.bin"].read() == b"a,b\nfirst yes UTC\n"


def test_a_program_blames_nobody_and_is_not_lost(house: House, runtime: Runtime) -> None:
    word = '{"code": "update-invalid", "party": "north"}'
    script = f"#!/bin/sh\necho '{word}' > ../results/failure.json\nkill -9 $$\n".encode()
    what = Job("job-1", {}, {"code/run": script}, program=Program(house.image, ("code/run",)))
    assert run(runtime, what) == Status(State.FAILED, "capsule-failed")


@pytest.mark.parametrize(
    "path", ["etc/passwd", "results/out.bin", "tmp/x", "door/socket", "job.json", "run", "usr/bin/x"]
)
def test_a_programs_inputs_replace_nothing_of_the_machine(path: str) -> None:
    with pytest.raises(ValueError, match="directories of its own"):
        Job("job-1", {}, {"code/run": b"", path: b""}, program=Program("sha256:" + "0" * 64, ("code/run",)))


@pytest.mark.parametrize("target", ["/etc/x", "data", "/", "/confidential/../etc", "/proc/self", "/x y", "/a/b\n"])
def test_a_program_mounts_nothing_over_the_machine(target: str) -> None:
    with pytest.raises(ValueError, match="cannot be where"):
        Program("sha256:" + "0" * 64, ("code/run",), mounts={"data": target})


def test_a_program_runs_its_own_inputs() -> None:
    with pytest.raises(ValueError, match="among its inputs"):
        Job("job-1", {}, {"code/run": b""}, program=Program("sha256:" + "0" * 64, ("bin/sh",)))


# what comes out


def test_only_declared_outputs_are_collected(runtime: Runtime) -> None:
    what = job("copy", outputs=("out.bin", "never-written.bin"))
    assert run(runtime, what) == FINISHED
    assert list(runtime.collect(what)) == ["out.bin"]
    assert runtime.collect(what)["out.bin"].size == len(b"input")


@pytest.mark.parametrize(
    "do", ["link_out", "link_folder", "hard_link", "hard_link_from", "fifo", "device", "unix_socket", "folder"]
)
def test_anything_but_a_regular_file_is_refused(runtime: Runtime, do: str) -> None:
    what = job(do, outputs=("sub/in.bin",) if do == "link_folder" else ("out.bin",))
    assert run(runtime, what) == FINISHED
    with refused("output-refused"):
        runtime.collect(what)


def test_outputs_that_are_too_large_together_are_refused(runtime: Runtime) -> None:
    assert run(runtime, job("big_file", results_mib=16)) == FINISHED
    with refused("output-refused"):
        runtime.collect(job("big_file", results_mib=7))


# the end


def test_destroy_removes_what_is_deep_closed_or_oddly_named(runtime: Runtime, root: Path) -> None:
    assert run(runtime, job("nest")) in {FINISHED, Status(State.FAILED, "limit-results")}  # if it was seen in time
    runtime.destroy("job-1")
    assert list(root.iterdir()) == []
    assert Path("/etc").is_dir()


def test_closing_ends_running_jobs_and_keeps_finished_ones(house: House) -> None:
    with house.make() as runtime:
        run(runtime, job("copy", job_id="done"))
        start_and_hear(runtime, job("sleep_and_tell"))
    with house.make() as again:
        assert again.status("done") == FINISHED
        assert again.collect(job("copy", job_id="done"))["out.bin"].read() == b"input"
        assert again.status("job-1") == Status(State.ABSENT)
        assert run(again, job("copy")) == FINISHED  # the same id, from the beginning


def test_closing_leaves_no_empty_directory_and_starts_nothing(house: House, root: Path) -> None:
    with house.make() as runtime:
        runtime.prepare(job("copy"))
    assert [path.name for path in root.iterdir()] == ["job-1"]
    with refused("runtime-unfit"):
        runtime.start(job("copy"))
    with house.make() as runtime:
        runtime.destroy("job-1")
    assert not root.exists()
    with refused("runtime-unfit"):
        runtime.prepare(job("copy"))
    assert not root.exists()


ESCROW = """
import sys
from pathlib import Path
from escrow.runtime.job import Job
from escrow.runtime.docker import ContainerRuntime
from escrow.runtime.process import ProcessRuntime

root, worker = map(Path, sys.argv[1:3])
if sys.argv[3] == "sealed":
    runtime = ContainerRuntime(root, image=sys.argv[4], command=("python3", "-c", worker.read_text()))
else:
    runtime = ProcessRuntime(root, command=(sys.executable, str(worker)), packages=())
for name, do in (("finished", "copy"), ("failed", "catalogued"), ("lost", "daemon"), ("prepared", "copy")):
    job = Job(name, {"do": do}, {"in.bin": b"input"}, ("out.bin",))
    runtime.prepare(job)
    if name != "prepared":
        runtime.start(job)
    if name in ("finished", "failed"):
        runtime.wait([name])
runtime.wait(["lost"], progress=lambda *_: print("ready", flush=True))
"""


def test_a_killed_escrow_leaves_no_worker_and_a_new_one_takes_over(house: House, root: Path, request) -> None:
    kind = ("sealed", house.image) if house.sealed else ("plain",)
    command = [sys.executable, "-c", ESCROW, str(root), str(NAUGHTY), *kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as escrow:
        try:
            assert escrow.stdout is not None
            assert escrow.stdout.readline() == b"ready\n"
            if house.sealed:
                client = request.getfixturevalue("engine")
                lost, prepared = (names_of(root, name) for name in ("lost", "prepared"))
                whole = {f"/{lost.worker}", *(f"/{each.keeper}" for each in (lost, prepared))}
                whole |= {each.volume for each in (lost, prepared)}
                until(lambda: set(leftovers(client, root)) == whole, seconds=PATIENCE)  # what is half made may escape
                containers = client.api.containers(filters={"label": label_of(root)})
                (life,) = {each["Labels"][LIFE] for each in containers}
                (guard,) = processes(f"{LIFE}={life}")
                end = os.pidfd_open(guard)
            else:
                end = os.pidfd_open(int((root / "lost/job/results/pid").read_text()))
        finally:
            escrow.kill()
    assert has_ended(end)
    if house.sealed:
        assert leftovers(client, root) == []
    (root / ".half").mkdir()
    (root / ".half/plaintext").write_bytes(b"x")
    with house.make() as runtime:
        names = ["finished", "failed", "lost", "prepared"]
        states = [State.FINISHED, State.FAILED, State.ABSENT, State.PREPARED]
        assert [runtime.status(name).state for name in names] == states
        assert runtime.status("failed").code == "roster-incomplete"
        assert runtime.sweep(keep=[*names, "half"]) == {"finished", "failed", "prepared"}
        assert run(runtime, job("copy", job_id="prepared")) == FINISHED
        assert runtime.sweep() == frozenset()
        assert list(root.iterdir()) == []


def test_a_root_that_others_can_enter_is_refused(house: House, memory: Path) -> None:
    (memory / "open").mkdir(mode=0o755)
    (memory / "file").write_text("")
    (memory / "private").mkdir(mode=0o700)
    (memory / "link").symlink_to(memory / "private")
    for name in ("open", "file", "link"):
        with refused("runtime-unfit"):
            house.make.func(memory / name, **house.make.keywords)
