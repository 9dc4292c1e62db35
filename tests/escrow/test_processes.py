"""What is true of plain processes alone: who ends them, what they inherit, which code they run.

What they share with sealed workers is in `test_runtime.py`.
"""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import EscrowError
from escrow.runtime.base import State, Status
from escrow.runtime.job import Job, Program
from escrow.runtime.process import ProcessRuntime, code_digest, memory_root
from tests.jobs import FINISHED, NAUGHTY, PATIENCE, has_ended, job, processes, refused, run, start_and_hear
from tests.wire import until


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


def make(root: Path, package: Path) -> ProcessRuntime:
    return ProcessRuntime(root, command=(sys.executable, str(NAUGHTY)), packages=(package,))


def pidfd_of(root: Path, job_id: str = "job-1") -> int:
    return os.pidfd_open(int((root / job_id / "job/results/pid").read_text()))


# what the worker gets


def test_inputs_stream_into_private_read_only_files(runtime: ProcessRuntime, root: Path) -> None:
    runtime.prepare(Job("job-1", {}, {"a/b.bin": lambda file: [file.write(b"x") for _ in range(3)] and None}))
    path = root / "job-1/job/inputs/a/b.bin"
    assert path.read_bytes() == b"xxx"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert {stat.S_IMODE(path.stat().st_mode) for path in (root, root / "job-1", root / "job-1/job")} == {0o700}


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
    assert seen["limits"] == {"RLIMIT_CORE": 1, "RLIMIT_NOFILE": 99, "RLIMIT_FSIZE": 3 << 20}
    assert (seen["descriptors"], seen["stdin"], seen["cwd"], seen["argv"]) == (3, "/dev/null", folder, [folder])
    assert (seen["umask"], seen["session"], seen["no_new_privs"]) == (0o077, True, 1)


def test_a_program_does_not_get_the_workers_packages(runtime: ProcessRuntime) -> None:
    tell = b"#!/bin/sh\nenv > ../results/out.bin\n"
    what = Job("job-1", {}, {"code/run": tell}, ("out.bin",), program=Program("sha256:" + "0" * 64, ("code/run",)))
    assert run(runtime, what) == FINISHED
    assert b"PYTHONPATH" not in runtime.collect(what)["out.bin"].read()


def test_one_huge_allocation_is_refused(runtime: ProcessRuntime) -> None:
    assert run(runtime, job("one_huge_allocation", memory_mib=64)) == Status(State.FAILED, "training-failed")


def test_the_runtime_says_loudly_that_it_is_not_sealed_once_it_is_given_a_job(
    root: Path, package: Path, caplog
) -> None:
    with make(root, package) as runtime:
        assert runtime.sealing == "none"
        assert caplog.records == []
        for _ in range(2):
            runtime.prepare(job("write"))
            runtime.destroy("job-1")
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


def test_an_output_that_became_a_link_after_collect_is_not_opened(runtime: ProcessRuntime, root: Path) -> None:
    what = job("copy")
    run(runtime, what)
    output = runtime.collect(what)["out.bin"]
    (root / "job-1/job/results/out.bin").unlink()
    (root / "job-1/job/results/out.bin").symlink_to("/etc/hostname")
    with refused("output-refused"):
        output.open()


# the end


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
    os.kill(next(processes(f"{root}/job-1/outcome")), signal.SIGKILL)
    assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
    assert runtime.status("job-1") == Status(State.FAILED, "worker-lost")
    runtime.destroy("job-1")
    assert has_ended(daemon)


def test_a_program_whose_supervisor_was_killed_has_failed_as_programs_do(runtime: ProcessRuntime, root: Path) -> None:
    code = b"#!/bin/sh\nsleep 600\n"
    what = Job("job-1", {}, {"code/run": code}, program=Program("sha256:" + "0" * 64, ("code/run",)))
    runtime.prepare(what)
    runtime.start(what)
    until(lambda: any(processes(f"{root}/job-1/outcome")), seconds=PATIENCE)  # begun, it may lack its name yet
    os.kill(next(processes(f"{root}/job-1/outcome")), signal.SIGKILL)
    assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
    assert runtime.status("job-1") == Status(State.FAILED, "capsule-failed")


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


def test_a_machine_without_pidfds_is_refused(root: Path, monkeypatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(EscrowError, match="Linux"):
        ProcessRuntime(root)
