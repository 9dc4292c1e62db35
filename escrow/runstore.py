"""What a run has made so far, encrypted to its run key: a dead coordinator resumes, an erased key ends it all.

Each output is one age file under `ROOT/CONTRACT/RUN/STAGE/`, written whole or not at all. Salts of commitments follow
from the run key: once that is erased, the commitments on the ledger can neither be opened nor guessed.

Beside them lies how far a training has come (`escrow.checkpoints`): it counts among no stage's outputs. What jobs
printed lies beside them, too, under `logs/`, and stays as long as the run key does: it tells the operator why a
run failed while the contract has another. No party ever sees it.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyrage
from pyrage import x25519

from contracts.canonical import derive, digest
from contracts.errors import EscrowError
from contracts.package import outputs_bound
from escrow.age import Reader, Writer, seal_stream, unseal_bytes, unseal_stream
from escrow.disk import sync

_NOTED: Final = ".package"
_LOGS: Final = "logs"


@dataclass(frozen=True)
class RunStore:
    """The outputs of one run of one contract."""

    root: Path  # the folder of this contract and run
    identity: str = field(repr=False)  # of the run key

    @classmethod
    def of(cls, root: Path, contract: str, run: int, identity: str) -> "RunStore":
        """The store of one run; folders are made as they are needed."""
        return cls(contract_folder(root, contract) / str(run), identity)

    def put(self, stage: str, files: Mapping[str, bytes]) -> str:
        """Keep a stage's outputs, replacing what an attempt that was cut short left.

        Returns:
            The commitment to all of them together, names and contents.
        """
        folder = self.root / stage
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        for name, content in files.items():
            _write(folder / _file_name(name), self.sealed(content))
        sync(folder)
        return self._commitment(stage, files)

    def get(self, stage: str, stated: str) -> dict[str, bytes]:
        """A completed stage's outputs by name.

        Raises:
            EscrowError: `evidence-mismatch` if they are not what the ledger's commitment `stated` binds.
        """
        files = self._opened(self.root / stage)
        if self._commitment(stage, files) != stated:
            raise EscrowError("evidence-mismatch", f"The outputs of stage {stage} are not those on the ledger.")
        return files

    def log(self, stage: str, printed: Mapping[str, bytes]) -> None:
        """Keep what a stage's jobs printed, by the jobs' names, for as long as the run key lives."""
        folder = self.root / _LOGS / stage
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        for name, content in printed.items():
            (folder / _file_name(name)).write_bytes(self.sealed(content))

    def logs(self, stage: str) -> dict[str, bytes]:
        """What a stage's jobs printed, by the jobs' names."""
        return self._opened(self.root / _LOGS / stage)

    def state(self, name: str, content: bytes) -> None:
        """Keep a short plain file about the run itself, with nothing from its data, also through a power cut."""
        self.root.mkdir(parents=True, mode=0o700, exist_ok=True)
        _write(self.root / name, content)
        for folder in (self.root, *self.root.parents[:2]):
            sync(folder)

    def stated(self, name: str) -> bytes | None:
        """What `state` has kept under a name."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def note(self, blob: str) -> None:
        """Remember a package that is about to go into the vault, so that one that is never released can be removed."""
        self.root.mkdir(parents=True, mode=0o700, exist_ok=True)
        _write(self.root / f"{blob.removeprefix('sha256:')}{_NOTED}", b"")

    def salt(self, *purpose: str) -> bytes:
        """32 bytes for one commitment, secret while the run key is."""
        parts = (self.identity, self.root.name, *purpose)
        return derive("run salt", *(part.encode() for part in parts))

    def stage_salt(self, stage: str) -> bytes:
        """The salt of the commitment to a stage's outputs."""
        return self.salt("stage", stage)

    def sealed(self, content: bytes) -> bytes:
        """Some bytes encrypted to the run key."""
        sealed: bytes = pyrage.encrypt(content, [x25519.Identity.from_str(self.identity).to_public()])
        return sealed

    def seal(self, reader: Reader, writer: Writer) -> None:
        """The same for what is large, in memory that does not depend on its size."""
        seal_stream(reader, writer, str(x25519.Identity.from_str(self.identity).to_public()))

    def unseal(self, reader: Reader, writer: Writer) -> None:
        """What `seal` was given; `vault-sealed` or `blob-corrupt` if it cannot be opened."""
        unseal_stream(reader, writer, self.identity)

    def unsealed(self, content: bytes) -> bytes:
        """What `sealed` was given; `vault-sealed` or `blob-corrupt` if it cannot be opened."""
        return unseal_bytes(content, self.identity)

    def _opened(self, folder: Path) -> dict[str, bytes]:
        """Files by name; none if they are lost, or being destroyed because the contract has ended."""
        try:
            return {_output_name(path): self.unsealed(path.read_bytes()) for path in folder.iterdir()}
        except FileNotFoundError:
            return {}

    def _commitment(self, stage: str, files: Mapping[str, bytes]) -> str:
        return outputs_bound(self.stage_salt(stage), {name: digest(content) for name, content in files.items()})


def contract_folder(root: Path, contract: str) -> Path:
    """Where the runs of a contract keep their outputs."""
    return root / contract.removeprefix("sha256:")


def forget(root: Path, contract: str, *, but_logs: bool) -> None:
    """Remove what the runs of a contract have made; logs too, or let them lie until the run key is erased."""
    folder = contract_folder(root, contract)
    if not but_logs:
        shutil.rmtree(folder, ignore_errors=True)
    for path in folder.glob("*/*"):
        if path.is_dir() and path.name != _LOGS:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink(missing_ok=True)


def noted(root: Path, contract: str) -> list[str]:
    """The packages that runs of a contract have made, by digest."""
    return [f"sha256:{path.name.removesuffix(_NOTED)}" for path in contract_folder(root, contract).glob(f"*/*{_NOTED}")]


def _file_name(name: str) -> str:
    return name.replace("/", "=") + ".age"


def _output_name(path: Path) -> str:
    return path.name.removesuffix(".age").replace("=", "/")


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
