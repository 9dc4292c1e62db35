"""What a run has made so far, encrypted to its run key: a dead coordinator resumes, an erased key ends it all.

Each output is one age file under `ROOT/CONTRACT/RUN/STAGE/`, written whole or not at all. Salts of commitments follow
from the run key: once that is erased, the commitments on the ledger can neither be opened nor guessed.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyrage
from pyrage import x25519

from contracts.canonical import canonical, commitment, derive, digest
from contracts.errors import EscrowError
from escrow.vault import sync, unseal_bytes

_NOTED: Final = ".package"


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
        recipient = x25519.Identity.from_str(self.identity).to_public()
        for name, content in files.items():
            _write(folder / _file_name(name), pyrage.encrypt(content, [recipient]))
        sync(folder)
        return self._commitment(stage, files)

    def get(self, stage: str, stated: str) -> dict[str, bytes]:
        """A completed stage's outputs by name.

        Raises:
            EscrowError: `evidence-mismatch` if they are not what the ledger's commitment `stated` binds.
        """
        folder = self.root / stage
        try:
            files = {_output_name(path): unseal_bytes(path.read_bytes(), self.identity) for path in folder.iterdir()}
        except FileNotFoundError:  # lost, or being destroyed because the contract has ended
            files = {}
        if self._commitment(stage, files) != stated:
            raise EscrowError("evidence-mismatch", f"The outputs of stage {stage} are not those on the ledger.")
        return files

    def note(self, blob: str) -> None:
        """Remember a package that is about to go into the vault, so that one that is never released can be removed."""
        self.root.mkdir(parents=True, mode=0o700, exist_ok=True)
        _write(self.root / f"{blob.removeprefix('sha256:')}{_NOTED}", b"")

    def salt(self, *purpose: str) -> bytes:
        """32 bytes for one commitment, secret while the run key is."""
        parts = (self.identity, self.root.name, *purpose)
        return derive("run salt", *(part.encode() for part in parts))

    def _commitment(self, stage: str, files: Mapping[str, bytes]) -> str:
        listed = canonical({name: digest(content) for name, content in files.items()})
        return commitment(self.salt("stage", stage), digest(listed))


def contract_folder(root: Path, contract: str) -> Path:
    """Where the runs of a contract keep their outputs."""
    return root / contract.removeprefix("sha256:")


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
