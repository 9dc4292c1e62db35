"""Choosing the sealing: who needs an engine, what is said without one, and how what a killed escrow left is ended."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from contracts.errors import EscrowError
from escrow import containers, home
from escrow.channel import operating
from escrow.cli import main
from escrow.runtime.images.engine import WORKER
from escrow.runtime.images.worker import installed_code
from escrow.sealing import IMAGE, UNSEALED, Seal
from tests.engine import WorkersImage

Ask = Callable[..., dict[str, Any]]
SEALED_ONLY = {"engine", "limits", "runtimes", "image"}


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Calls the command with `--format json`; its data."""

    def asked(*argv: object, exit_code: int = 0) -> dict[str, Any]:
        code = main([*map(str, argv), "--format", "json"])
        envelope = json.loads(capsys.readouterr().out)
        assert (code, envelope["exit_code"]) == (exit_code, exit_code), envelope
        return envelope["data"]  # type: ignore[no-any-return]

    return asked


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")


@pytest.fixture
def directory(tmp_path: Path, ask: Ask) -> Path:
    """A new escrow."""
    ask("init", tmp_path / "e", "--origin", "escrow.example/ledger")
    return tmp_path / "e"


def leave(seal: Seal, directory: Path) -> Path:
    """A job that a killed escrow left."""
    job = seal.jobs(directory) / "some-job"
    job.mkdir(parents=True, mode=0o700)
    job.parent.chmod(0o700)
    (job / "started").write_text("some-job.0")
    return job


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("chosen", [[], ["--sealing", "container"], ["--sealing", "gvisor"]])
def test_an_escrow_serves_sealed_or_not_at_all(directory: Path, ask: Ask, chosen: list[str]) -> None:
    refused = ask("serve", "--home", directory, *chosen, exit_code=2)
    assert refused["code"] == "engine-missing"
    assert refused["hint"].endswith("Or choose --sealing none, for development only.")


def test_the_environment_chooses_too(directory: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCROW_SEALING", "paper")
    assert ask("serve", "--home", directory, exit_code=4)["code"] == "usage"
    monkeypatch.setenv("ESCROW_SEALING", "none")
    lock = home.lock(directory)  # it ends where it would begin to serve, and needed no engine to come so far
    assert ask("serve", "--home", directory, exit_code=1)["code"] == "escrow-busy"
    lock.release()


@pytest.mark.usefixtures("no_engine")
def test_who_runs_no_job_needs_no_engine(directory: Path, ask: Ask, tmp_path: Path) -> None:
    ask("run", "list", "--home", directory)
    ask("certificate", "rotate", "--home", directory)
    ask("ledger", "export", tmp_path / "ledger.jsonl", "--home", directory)
    ask("backup", tmp_path / "b.tar", "--home", directory)
    ask("restore", tmp_path / "b.tar", tmp_path / "again")
    ask("status", "--home", tmp_path / "again")


def test_the_image_that_is_built_is_the_one_that_is_used() -> None:
    assert IMAGE == WORKER


def test_what_a_killed_escrow_left_is_ended_whatever_is_chosen_now(directory: Path, ask: Ask) -> None:
    job = leave(UNSEALED, directory)
    ask("run", "list", "--home", directory)
    assert not job.exists()


@pytest.mark.usefixtures("no_engine")
def test_plain_jobs_that_were_left_are_ended_before_an_engine_is_looked_for(directory: Path, ask: Ask) -> None:
    job = leave(UNSEALED, directory)
    assert ask("serve", "--home", directory, exit_code=2)["code"] == "engine-missing"
    assert not job.exists()


@pytest.mark.usefixtures("no_engine")
def test_sealed_jobs_that_were_left_are_not_passed_over(directory: Path, ask: Ask) -> None:
    """Their containers may be running: nothing is stated or served before they are ended."""
    job = leave(Seal(), directory)
    try:
        for argv in (["run", "list"], ["serve", "--sealing", "none"]):
            refused = ask(*argv, "--home", directory, exit_code=2)
            assert refused["code"] == "engine-missing"
            assert "--sealing none" not in refused["hint"]
        assert job.exists()
    finally:
        rmtree(job.parent)


def test_a_directory_of_jobs_that_is_another_users_is_told(directory: Path, ask: Ask) -> None:
    jobs = Seal().jobs(directory)
    jobs.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(jobs, 65534, 65534)
    else:
        jobs.chmod(0o755)
    try:
        assert ask("run", "list", "--home", directory, exit_code=1)["code"] == "runtime-unfit"
    finally:
        jobs.rmdir()


def test_the_jobs_of_an_escrow_that_lives_are_not_touched(directory: Path) -> None:
    job, lock = leave(Seal(), directory), home.lock(directory)
    try:
        with pytest.raises(EscrowError) as refused, operating(directory):
            pass
        assert refused.value.code == "escrow-busy"
        assert job.exists()
    finally:
        lock.release()
        rmtree(job.parent)


# the doctor


@pytest.mark.usefixtures("no_engine")
def test_the_doctor_calls_wrong_only_what_the_chosen_sealing_needs(directory: Path, ask: Ask) -> None:
    ports = ["--port", 0, "--enrol-port", 0, "--metrics-port", 0]
    sealed = ask("doctor", "--home", directory, *ports, exit_code=1)
    assert marked(sealed, "wrong") == SEALED_ONLY
    unsealed = ask("doctor", "--home", directory, *ports, "--sealing", "none")
    assert (marked(unsealed, "wrong"), unsealed["sound"]) == (set(), True)
    assert marked(unsealed, "note") >= SEALED_ONLY
    for check in sealed["checks"] + unsealed["checks"]:
        assert (check["mark"] == "ok") == (not check["advice"]), check


def marked(asked: dict[str, Any], mark: str) -> set[str]:
    return {check["name"] for check in asked["checks"] if check["mark"] == mark}


def test_an_engine_that_cannot_hold_its_limits_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    weak = {"MemoryLimit": True, "PidsLimit": False, "CpuCfsQuota": False, "Runtimes": {"runc": {}}}
    monkeypatch.setattr(containers, "_info", lambda: weak | {"Warnings": ["WARNING: No cpu cfs quota support"]})
    with pytest.raises(EscrowError, match=r"cannot limit processes, processors\. WARNING: No cpu") as refused:
        containers.limits_hold()
    assert refused.value.code == "runtime-unfit"
    with pytest.raises(EscrowError, match="filters no system calls"):
        containers.engine_answers()
    with pytest.raises(EscrowError, match="no runsc"):
        containers.runtimes_there("gvisor")
    assert containers.runtimes_there("container") == containers.Note("The engine has no runsc.", containers._ADD)


# with an engine


@pytest.mark.engine
def test_an_escrow_serves_sealed_by_the_image_it_was_given(directory: Path, ask: Ask, image: str) -> None:
    ports = ["--port", "0", "--enrol-port", "0", "--metrics-port", "0"]
    start = "import sys; from escrow.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", start, "serve", "--home", str(directory), "--image", image, *ports]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stderr is not None
            ready = next(line for line in map(json.loads, serving.stderr) if line["event"] == "ready")
            assert ready["sealing"] == "container"
            status = ask("status", "--home", directory)
            assert (status["sealing"], status["worker"]) == ("container", image)
            serving.terminate()
            assert serving.wait(60) == 0
        finally:
            serving.kill()
    assert not Seal().jobs(directory).exists()


@pytest.mark.engine
@pytest.mark.usefixtures("engine")
def test_no_image_is_pulled_and_nothing_serves_without_it(directory: Path, ask: Ask) -> None:
    refused = ask("serve", "--home", directory, "--image", "nowhere/worker:1", exit_code=1)
    assert refused["code"] == "image-missing"
    assert refused["hint"].endswith("Or choose --sealing none, for development only.")
    assert "escrow image build" in refused["hint"]


@pytest.mark.engine
def test_sealed_jobs_that_were_left_are_ended_whatever_is_chosen_now(directory: Path, image: str) -> None:
    job = leave(Seal("container", image), directory)
    with Seal("none", image).runtime(directory):
        assert not job.parent.exists()


@pytest.mark.engine
def test_the_doctor_looks_at_engine_and_image(
    directory: Path, ask: Ask, image: str, workers_image: WorkersImage
) -> None:
    ports = ["--port", 0, "--enrol-port", 0, "--metrics-port", 0]
    for reference, mark, words in (
        (workers_image(installed_code()), "ok", "with the code that is installed here"),
        (workers_image("sha256:older"), "note", "holds the code sha256:older"),
        ("nowhere/worker:1", "wrong", "no image nowhere/worker:1"),
        (image, "wrong", "not the image of a worker"),
    ):
        exit_code = 1 if mark == "wrong" else 0
        asked = ask("doctor", "--home", directory, "--image", reference, *ports, exit_code=exit_code)
        assert marked(asked, "ok") >= {"engine", "limits"}
        [found] = [check for check in asked["checks"] if check["name"] == "image"]
        assert (found["mark"], words in found["found"]) == (mark, True), found
