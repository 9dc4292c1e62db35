"""Joint training over Flower's own SuperLink and SuperNodes, for those who already run a Flower federation.

The ClientApp and the round loop are those of every other engine. All of it runs on this machine, started and ended by
`run_superlink`. Rules:

1. Every port is bound to 127.0.0.1 and only while the job runs: whoever reaches the SuperLink may start runs there,
   since the open-source one does not authenticate its operators. So any user of this machine could, while it runs.
2. Everything speaks TLS with certificates made for the run. A SuperNode is admitted by its key alone, and the keys
   that are registered are exactly those of the roster, one for each party of the job.
3. Apps run in processes of their own (`--isolation process`); only who knows the run's secret may take tasks.
4. No telemetry, no look for updates, nothing is installed at run time; Flower's home is a private directory.
5. However it ends, its processes have ended and keys, secrets and Flower's files are gone afterwards. If this process
   is killed the kernel ends them too; its private directory then stays, in memory where that can be had, with keys that
   open nothing any more.

Each message starts a fresh process at its SuperNode, which imports Flower and the framework (6 s of a core), and a
SuperNode that finds no message sleeps 3 s, so a round takes seconds, whatever is trained. What Flower lets one set is
set: how often a SuperExec looks for tasks. The rest is waiting of our own grid (`models.federated.hostgrid`).
"""

import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from contracts.errors import EscrowError
from models.federated.hosted import Journal, Started, Timing, begun, environment, finished, job_in, quiet, watched
from models.federated.superlink_keys import LOOPBACK, write_certificates, write_node_key, write_secret
from models.jobs import Place, Tell
from models.ports import reserved_port

START_SECONDS: Final = 180.0
"""How long a server of Flower's may take until it listens, or a command of Flower's until it is done."""

TASK_POLL_SECONDS: Final = "0.25"
"""How often a SuperExec looks for a task (Flower's default: 1 s)."""

_LOOK_SECONDS: Final = 0.05


def run_superlink(directory: Path, *, tell: Tell = quiet, seconds: float = 3600.0) -> Timing:
    """Train the job of role `federated` in a directory over a SuperLink; its results are that role's.

    Args:
        directory: `job.json` and `inputs/`, as `models.federated.hosted` says.
        tell: hears of each round.
        seconds: how long all of it may take.

    Raises:
        EscrowError: `file-unwritable` if the job has results; what ended the round loop; `worker-lost` if a process of
            Flower's failed or ended by itself; `limit-time`.
    """
    began = time.monotonic()
    directory = directory.resolve()
    job = job_in(directory)
    begun(Place.of(directory))
    with private_directory() as private, Federation.opened(private) as federation:
        for party in sorted(job.parties):
            write_node_key(private / f"{party}.key")
            federation.register(party, private / f"{party}.pub")
        for party in sorted(job.parties):
            federation.join(party, private / f"{party}.key", directory)
        federation.run(directory, tell=tell, until=began + seconds)
        finished(Place.of(directory))
        rounds = Journal(private / "journal.jsonl").rounds()
    return Timing(time.monotonic() - began, rounds)


@contextmanager
def private_directory() -> Iterator[Path]:
    """A new directory that this user alone can enter, in memory where there is any to be had; gone afterwards."""
    memory = Path("/dev/shm")  # noqa: S108 - memory; what is made there is new and private
    parent = memory if os.access(memory, os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="escrow-superlink-", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made)


@dataclass
class Federation:
    """A running SuperLink and the SuperNodes that joined it.

    Attributes:
        private: holds its keys, secrets, logs and Flower's home.
        address: where the SuperLink listens.
        nodes: the SuperLink's id of each registered key → whose it is.
        running: the processes that have to go on while a run does.
    """

    private: Path
    address: str
    _ending: ExitStack
    nodes: dict[int, str] = field(default_factory=dict)
    running: list[Started] = field(default_factory=list)

    @classmethod
    @contextmanager
    def opened(cls, private: Path) -> Iterator["Federation"]:
        """Start a SuperLink without nodes; everything has ended afterwards.

        Raises:
            EscrowError: `worker-lost` if it does not come up.
        """
        write_certificates(private, now=datetime.now(UTC))
        write_secret(private / "secret", secrets.token_bytes(32))
        with ExitStack() as ending:
            port = ending.enter_context(reserved_port())
            federation = cls(private, f"{LOOPBACK}:{port}", ending)
            options = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
            server, executor = federation._serve("superlink", "flower-superlink", port, options)
            federation.running += [server, executor]
            _until(lambda: _listens(port), server)
            (private / "flwr").mkdir(exist_ok=True)
            (private / "flwr" / "config.toml").write_text(
                f'[superlink]\ndefault = "run"\n\n[superlink.run]\naddress = "{federation.address}"\n'
                f'root-certificates = "{private / "ca.pem"}"\n'
            )
            yield federation

    def register(self, party: str, public_key: Path) -> None:
        """Admit the node with this key (OpenSSH form), as this party's."""
        answer = self._command("supernode", "register", str(public_key), "run", "--format", "json")
        self.nodes[int(answer["node-id"])] = party

    def join(self, party: str, private_key: Path, directory: Path) -> Started:
        """Start a SuperNode with this key, over the party's rows in a job's directory; its server.

        Without a registered key it ends by itself, refused.
        """
        options = [
            f"--superlink={self.address}",
            f"--root-certificates={self.private / 'ca.pem'}",
            f"--auth-supernode-private-key={private_key}",
            f"--node-config=party={json.dumps(party)} directory={json.dumps(str(directory))}",
        ]
        port = self._ending.enter_context(reserved_port())
        server, executor = self._serve(party, "flower-supernode", port, options)
        if party in self.nodes.values():
            self.running += [server, executor]
        return server

    def run(self, directory: Path, *, tell: Tell, until: float) -> None:
        """Run the rounds of the job in a directory to their end.

        Raises:
            EscrowError: as `run_superlink`.
        """
        (self.private / "plan.json").write_text(json.dumps({str(node): name for node, name in self.nodes.items()}))
        app = self.private / "app"
        app.mkdir()
        (app / "pyproject.toml").write_text(_APP.format(*(json.dumps(str(path)) for path in (self.private, directory))))
        submitted = self._start("run", ["flwr", "run", str(app), "run", "--stream"])
        watched(submitted, self.running, Journal(self.private / "journal.jsonl"), tell, until=until)

    def _serve(self, name: str, program: str, port: int, options: list[str]) -> tuple[Started, Started]:
        """Start a server of Flower's and the SuperExec that takes its tasks, which waits for it."""
        proof = [f"--superexec-auth-secret-file={self.private / 'secret'}"]
        certificates = [
            f"--ssl-certfile={self.private / 'server.pem'}",
            f"--ssl-keyfile={self.private / 'server.key'}",
            f"--ssl-ca-certfile={self.private / 'ca.pem'}",
        ]
        place = [f"--host={LOOPBACK}", f"--port={port}", "--isolation=process"]
        server = self._start(name, [program, *place, *certificates, *proof, *options])
        address = [f"--runtime-api-address={LOOPBACK}:{port}", f"--root-certificates={self.private / 'ca.pem'}"]
        executor = self._start(f"{name}-exec", ["flower-superexec", *address, *proof, f"--parent-pid={server.pid}"])
        return server, executor

    def _start(self, name: str, command: list[str]) -> Started:
        settings = environment(self.private) | {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": TASK_POLL_SECONDS}
        started = Started(command, environment=settings, log=self.private / f"{name}.log")
        self._ending.callback(started.end)
        return started

    def _command(self, *words: str) -> Mapping[str, Any]:
        """Run a command of Flower's that answers in JSON."""
        out = self.private / f"command-{secrets.token_hex(4)}.log"
        command = self._start(out.stem, ["flwr", *words])
        code = command.wait(START_SECONDS)
        text = out.read_text()
        if code != 0:
            raise EscrowError("worker-lost", f"Flower's command `flwr {' '.join(words[:2])}` failed.")
        answer: Mapping[str, Any] = json.loads(text[text.index("{") :])
        return answer


_APP: Final = """[project]
name = "model-escrow-rounds"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "model-escrow"

[tool.flwr.app.components]
serverapp = "models.federated.superlink_apps:server"
clientapp = "models.federated.superlink_apps:client"

[tool.flwr.app.config]
private = {}
directory = {}
"""


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def _until(there: Callable[[], bool], server: Started) -> None:
    until = time.monotonic() + START_SECONDS
    while not there():
        if server.wait(_LOOK_SECONDS) is not None or time.monotonic() > until:
            raise EscrowError("worker-lost", f"{server.name} did not start.")
