"""`.ci/engine`, which sets a container engine up, on machines that a test makes up: it never sees this one's.

The script runs with the directories of such a machine in place of `/etc`, `/proc`, `/run`, `/usr` and `/var`, and with
programs that say they were called in place of those that install and start.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "engine"
LISTENING = "0000000000000000: 00000002 00000000 00010000 0001 01 23456 {socket}\n"
"""A line of /proc/net/unix about a socket that accepts connections."""
REAL = ("cat", "env", "grep", "mkdir", "sleep", "tee", "timeout")
"""Programs that do what they always do, on the machine that was made up."""


@dataclass
class Machine:
    """A machine without an engine: Debian, its user root."""

    root: Path
    user: int = 0
    seconds: int = 60

    @property
    def calls(self) -> list[str]:
        """What was called that could change something, in order."""
        log = self.root / "calls"
        told = log.read_text().splitlines() if log.exists() else []
        return [call for call in told if call.split()[0] not in {"docker", "id"}]

    def put(self, path: str, content: str = "") -> Path:
        """Make a file."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    def program(self, name: str, body: str = "") -> None:
        """Make a program that says it was called, and does what `body` says."""
        self.put(f"bin/{name}", f'#!/bin/sh\necho "{name} $*" >> {self.root}/calls\n{body}\n').chmod(0o755)

    def without(self, path: str) -> None:
        """Remove a file."""
        (self.root / path).unlink()

    def run(self, **environment: str) -> tuple[int, str, list[str]]:
        """Run the script; exit code, what is said first, and the rest."""
        text = re.sub(r"(?<![\w.])/(etc|proc|run|usr|var)\b", rf"{self.root}/\1", SCRIPT.read_text())
        text = text.replace("$EUID", str(self.user)).replace("seconds=60", f"seconds={self.seconds}")
        script = self.put("engine", text)
        done = subprocess.run(
            [str(shutil.which("bash")), script],
            env={"PATH": str(self.root / "bin"), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        first, *rest = (done.stdout + done.stderr).replace(str(self.root), "").splitlines()
        return done.returncode, first, rest


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    (tmp_path / "bin").mkdir()
    for name in REAL:
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    about = f"[ -e {tmp_path}/answers ] || exit 1\n"
    made.program("docker", about + f"case $1 in version) echo It answers. ;; info) cat {tmp_path}/info ;; esac")
    made.put("info", '{"runc":{},"runsc":{}}')
    made.program("id", "echo clerk")
    made.program("apt-get")
    for name in ("systemctl", "setsid"):
        made.program(name, f": > {tmp_path}/answers")
    made.put("etc/debian_version", "12.8\n")
    made.put("proc/net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n")
    return made


@pytest.mark.parametrize("lacks", ["bin/apt-get", "etc/debian_version"])
def test_elsewhere_than_on_debian_a_person_is_told_what_to_install(machine: Machine, lacks: str) -> None:
    machine.without(lacks)
    code, told, hint = machine.run()
    assert (code, told) == (1, "No container engine answers, and this is not Debian, where it could be installed.")
    assert hint[0].startswith(
        "Install and start Docker Engine 20.10 or later (https://docs.docker.com/engine/install/)"
    )
    assert "runsc" in hint[1]
    assert machine.calls == []


def test_an_engine_that_is_named_is_neither_replaced_nor_started(machine: Machine) -> None:
    code, told, hint = machine.run(DOCKER_HOST="tcp://engine:2375")
    assert (code, told) == (1, "No container engine answers at DOCKER_HOST=tcp://engine:2375.")
    assert hint == ["Start that engine, or unset the variable."]
    assert machine.calls == []


def test_who_is_not_root_and_cannot_become_it_is_told_so(machine: Machine) -> None:
    machine.user = 1000
    code, told, hint = machine.run()
    assert (code, told) == (1, "No container engine answers, and installing one takes root.")
    assert hint == ["Run as root: make engine"]
    assert machine.calls == []


def test_an_engine_whose_socket_one_may_not_use_is_left_alone(machine: Machine) -> None:
    machine.user = 1000
    machine.put("proc/net/unix", LISTENING.format(socket=machine.root / "run/docker.sock"))
    code, told, hint = machine.run()
    assert (code, told) == (1, "clerk may not use the container engine's socket, /var/run/docker.sock.")
    assert hint[0].startswith("Run: sudo usermod -aG docker clerk, then log in again.")
    assert machine.calls == []


def test_one_that_answers_is_neither_configured_nor_restarted(machine: Machine) -> None:
    machine.put("answers")
    machine.put("info", '{"runc":{}}')
    machine.without("etc/debian_version")
    code, told, said = machine.run()
    assert (code, told) == (0, "It answers.")
    assert said[0] == "Not installed, which takes Debian and root: mmdebstrap runsc."
    assert said[1].startswith("It has no runtime runsc: to seal with gVisor, name it in the engine's daemon.json")
    assert machine.calls == []
    assert not (machine.root / "etc/docker").exists()


def test_beside_one_that_answers_only_what_is_missing_is_installed(machine: Machine) -> None:
    machine.put("answers")
    machine.program("runsc")
    assert machine.run()[:2] == (0, "It answers.")
    assert machine.calls == ["apt-get update -qq", "apt-get install -y -qq --no-install-recommends mmdebstrap"]
    assert not (machine.root / "etc/docker").exists()


@pytest.mark.parametrize("init", ["systemd", "none"])
def test_on_debian_an_engine_is_configured_installed_and_started(machine: Machine, init: str) -> None:
    machine.program(
        "apt-get", f'[ -e {machine.root}/etc/docker/daemon.json ] || echo "apt-get before its configuration"'
    )
    if init == "systemd":
        machine.put("run/systemd/system/here")
    assert machine.run() == (0, "It answers.", [])
    update, install, start = machine.calls
    assert (update, install.split()[-4:]) == ("apt-get update -qq", ["docker.io", "iptables", "mmdebstrap", "runsc"])
    assert start.startswith(
        "systemctl enable --quiet --now docker" if init == "systemd" else "setsid --fork sh -c exec"
    )
    assert "runsc" in json.loads((machine.root / "etc/docker/daemon.json").read_text())["runtimes"]


def test_who_can_become_root_does_so_for_each_step(machine: Machine) -> None:
    machine.user = 1000
    machine.program("sudo", 'exec "$@"')
    assert machine.run()[0] == 0
    as_root = [call.removeprefix("sudo ") for call in machine.calls if call.startswith("sudo ")]
    assert [call for call in machine.calls if not call.startswith("sudo ") and call not in " ".join(as_root)] == []
    assert [call.split()[0] for call in as_root] == ["mkdir", "tee", "apt-get", "env", "setsid"]


def test_a_configuration_that_is_there_stays(machine: Machine) -> None:
    there = machine.put("etc/docker/daemon.json", "{}")
    assert machine.run()[0] == 0
    assert there.read_text() == "{}"


def test_one_that_does_not_answer_in_time_is_said_with_where_to_look(machine: Machine) -> None:
    machine.seconds = 0
    machine.program("setsid")
    code, told, hint = machine.run()
    assert (code, told) == (1, "The container engine did not answer within 0 seconds.")
    assert hint == ["Look at what it says: /var/log/dockerd.log"]
