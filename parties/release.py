"""A released model at the bank: fetched, decrypted and verified step by step; `parties.scoring` uses it.

What is fetched is one directory that needs nothing else to be verified, today or in ten years:
`package.age` (what the escrow encrypted to this party), `receipt.json` (the statements it rests on, each with its proof
of standing on the ledger) and the package's own files. The escrow's key is the one that the bank has pinned.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyrage

from contracts import package
from contracts import statements as st
from contracts.archive import unpack
from contracts.canonical import canonical, digest, parse
from contracts.clauses import Outcome
from contracts.computation import CapsuleRun
from contracts.consequences import Standing, standing
from contracts.contract import Contract
from contracts.entries import Leaf
from contracts.errors import EscrowError
from contracts.gate import measured_clauses
from contracts.package import Opening, ReleasedOutputs, bound, findings_digest, outputs_bound, shows_findings
from contracts.statements import Statement
from models.bundle import Bundle, load
from parties.client import Client
from parties.identity import Identity, Pinned
from parties.receipt import gathered, proven, read_receipt

PACKAGE: Final = "package.age"
RECEIPT: Final = "receipt.json"

Step = tuple[int, str]
Told = Callable[[Step], None]


@dataclass(frozen=True)
class Verified:
    """What a verified release holds."""

    contract: Contract
    opening: Opening
    bundle: Bundle | None  # None for a party that receives no model
    outputs: ReleasedOutputs | None = None  # of a capsule, for a party that receives them

    @property
    def standing(self) -> Standing:
        """`development` if the contract that all signed seals nothing; no word of the escrow or a card counts."""
        return standing(self.contract)


def unheard(step: Step) -> None:
    """Nobody listens."""


def fetch(client: Client, contract: str, into: Path) -> Path:
    """Collect, decrypt and lay out this party's package of a released contract, with its receipt; not verified yet.

    Raises:
        EscrowError: `not-released`, `release-invalid` if the package is not encrypted to this party, or
            `ledger-tampered`, and nothing is kept; `file-unwritable`.
    """
    blob = b"".join(client.escrow.collect(contract))
    files = _opened(blob, client.identity)
    receipt = canonical(gathered(client, contract).model_dump(mode="json", by_alias=True))
    try:
        for name, content in {PACKAGE: blob, **files, RECEIPT: receipt}.items():
            (into / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (into / name).write_bytes(content)
    except OSError as error:
        raise EscrowError("file-unwritable", f"{error.filename} cannot be written: {error.strerror}.") from None
    return into


def _opened(blob: bytes, identity: Identity) -> dict[str, bytes]:
    try:
        return unpack(pyrage.decrypt(blob, [identity.age]), package.most)
    except pyrage.DecryptError:
        raise EscrowError("release-invalid", "The package is damaged or not encrypted to this party.") from None


def verify_release(folder: Path, identity: Identity, escrow: Pinned, told: Told = unheard) -> Verified:
    """Verify a fetched release, offline, step by step.

    1. The receipt's checkpoint is signed by the pinned escrow.
    2. Every statement of the receipt stands on the ledger under that checkpoint, signed by whom it must be, and the law
       permits it after those before it: `contracts.rules` decides here as it did at the escrow.
    3. The contract in the package is the one that was proposed.
    4. Every party of the contract approved these exact bytes with the key the contract names (this party's own is the
       one it holds), or with that of a standing rule that covers the contract.
    5. The verdict on the ledger is `released`, and the release followed it.
    6. The package is the one the release names for this party, and its files are what it holds.
    7. The party's own findings, if the contract shows them to it, are those bound by the verdict: one for its every
       clause, each of which holds.
    8. The model is the one bound by the release, for this contract, and opens safely; or a capsule's outputs are those
       bound by the release, from the two runs that the ledger names: exactly the declared ones, each within its size,
       and what the second run was stated to have made.

    Raises:
        EscrowError: of the first step that fails, with a code of its own kind; the release must not be used.
    """
    receipt = read_receipt(_read(folder / RECEIPT))
    head = escrow.checkpoint(receipt.head)
    told((1, f"checkpoint of {head.origin}, {head.size} entries, signed by the pinned escrow"))
    statements = list(proven(receipt, head, escrow))
    told((2, f"{len(statements)} statements stand on the ledger, signed by whom they must be, and are lawful"))
    files = _files(folder)
    contract = _the_contract(statements, files)
    told((3, f"contract {contract.digest()}"))
    _approved_by_all(contract, statements, identity)
    told((4, f"approved by {', '.join(contract.names())}"))
    decided, released = _decision(contract, statements)
    told((5, "verdict released"))
    _package(folder, files, identity, released)
    told((6, f"package of {identity.name} is the released one"))
    opening = _opening(files, identity.name, contract, decided)
    told((7, _own_words(opening)))
    bundle, outputs = None, None
    if all(recipient.party != identity.name for recipient in contract.recipients):
        told((8, f"no {'model' if contract.training else 'outputs'} for this party"))
    elif isinstance(contract.computation, CapsuleRun):
        outputs = _outputs(files, opening, statements, released)
        _require_declared(files, outputs, contract.digest(), contract.computation)
        told((8, f"{len(outputs.outputs)} outputs {released.product}"))
    else:
        bundle = _model(folder, opening, contract, released)
        told((8, f"model {released.product}"))
    return Verified(contract, opening, bundle, outputs)


def _invalid(sentence: str) -> EscrowError:
    return EscrowError("release-invalid", sentence)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise EscrowError("file-unreadable", f"{path} cannot be read.") from None


def _files(folder: Path) -> dict[str, bytes]:
    names = [name for name in package.LIMITS if (folder / name).exists()]
    outputs = [path.relative_to(folder).as_posix() for path in (folder / package.FOLDER).rglob("*") if path.is_file()]
    return {name: _read(folder / name) for name in (*names, *outputs)}


def _the_contract(statements: list[tuple[Leaf, Statement]], files: dict[str, bytes]) -> Contract:
    proposed = [s.contract for _, s in statements if isinstance(s, st.ContractProposed)]
    if len(proposed) != 1 or files.get(package.CONTRACT) != proposed[0].canonical():
        raise _invalid("The contract in the package is not the one that was proposed.")
    return proposed[0]


def _approved_by_all(contract: Contract, statements: list[tuple[Leaf, Statement]], identity: Identity) -> None:
    if any(ref.name == identity.name and ref.key != identity.signer.key_id for ref in contract.parties):
        raise _invalid("The contract names another key for this party than its own.")
    digest_ = contract.digest()
    approved = {s.party for _, s in statements if isinstance(s, st.ContractApproved) and s.contract == digest_}
    for name in contract.names():
        if name not in approved:
            raise EscrowError("approval-missing", f"The receipt holds no approval of {name}.")


def _decision(contract: Contract, statements: list[tuple[Leaf, Statement]]) -> tuple[st.RunDecided, st.RunReleased]:
    decided = [s for _, s in statements if isinstance(s, st.RunDecided) and s.contract == contract.digest()]
    released = [s for _, s in statements if isinstance(s, st.RunReleased) and s.contract == contract.digest()]
    if len(released) != 1 or not decided or decided[-1].verdict != "released" or decided[-1].run != released[0].run:
        raise EscrowError("not-released", "The ledger holds no release of this contract that follows its verdict.")
    return decided[-1], released[0]


def _package(folder: Path, files: dict[str, bytes], identity: Identity, released: st.RunReleased) -> None:
    blob = _read(folder / PACKAGE)
    if digest(blob) != released.packages.get(identity.name):
        raise _invalid("The package is not the one that the release names for this party.")
    if _opened(blob, identity) != files:
        raise _invalid("The files beside the package are not the ones in it.")


def _opening(files: dict[str, bytes], party: str, contract: Contract, decided: st.RunDecided) -> Opening:
    try:
        opening = Opening.model_validate(parse(files.get(package.OPENING, b"")))
    except ValueError:
        raise _invalid("The package's opening is malformed.") from None
    shown = shows_findings(contract, party)
    due = [number for number, clause in measured_clauses(contract).items() if shown and clause.party == party]
    if (opening.findings_salt is not None) != shown or [str(finding.clause) for finding in opening.findings] != due:
        raise _invalid("The package does not hold one finding for each condition of this party.")
    if opening.findings_salt is None:
        return opening
    content = findings_digest(opening.findings, party)
    if bound(bytes.fromhex(opening.findings_salt), content) != decided.findings.get(party):
        raise _invalid("The findings are not those that the verdict binds.")
    for finding in opening.findings:
        clause = contract.release[finding.clause]
        if finding.party != party or clause.judge(finding.measurement) is not Outcome.HOLDS:
            raise _invalid(f"Condition {finding.clause} does not hold on the findings.")
    return opening


def _own_words(opening: Opening) -> str:
    if opening.findings_salt is None:
        return "no findings are disclosed to this party"
    return f"{len(opening.findings)} conditions of this party hold on its own findings"


def _require_product(opening: Opening, manifest: bytes, released: st.RunReleased) -> None:
    if opening.product_salt is None:
        raise _invalid("The package holds no opening of what was released.")
    if bound(bytes.fromhex(opening.product_salt), digest(manifest)) != released.product:
        raise _invalid("What is in the package is not what was released.")


def _outputs(
    files: dict[str, bytes],
    opening: Opening,
    statements: list[tuple[Leaf, Statement]],
    released: st.RunReleased,
) -> ReleasedOutputs:
    """The manifest of a capsule's outputs: of what was released, from the runs that the ledger names."""
    manifest = files.get(package.OUTPUTS, b"")
    _require_product(opening, manifest, released)
    try:
        found = ReleasedOutputs.model_validate(parse(manifest))
    except ValueError:
        raise _invalid("The outputs' manifest is malformed.") from None
    runs = {
        s.stage: s.outputs
        for _, s in statements
        if isinstance(s, st.StageCompleted) and (s.contract, s.run) == (released.contract, released.run)
    }
    if runs != {"synthetic": found.synthetic, "confidential": found.confidential}:
        raise _invalid("The outputs do not come from the two runs that the ledger names.")
    if opening.outputs_salt is None or found.confidential != outputs_bound(
        bytes.fromhex(opening.outputs_salt), found.outputs
    ):
        raise _invalid("The outputs are not those that the run on confidential rows was stated to have made.")
    return found


def _require_declared(files: dict[str, bytes], manifest: ReleasedOutputs, contract: str, terms: CapsuleRun) -> None:
    """The files are those of the manifest, which is this contract's, and those declared, no larger than declared."""
    if (manifest.contract, manifest.capsule, manifest.image) != (contract, terms.capsule, terms.image):
        raise _invalid("The outputs are those of another contract, capsule or image.")
    held = {name.removeprefix(package.FOLDER): files[name] for name in files if name.startswith(package.FOLDER)}
    if {path: digest(content) for path, content in held.items()} != manifest.outputs:
        raise _invalid("The outputs are not those of their manifest.")
    most = {declared.path: declared.size_kib << 10 for declared in terms.outputs}
    if held.keys() != most.keys() or any(len(content) > most[path] for path, content in held.items()):
        raise _invalid("The outputs are not those that the contract declares.")


def _model(folder: Path, opening: Opening, contract: Contract, released: st.RunReleased) -> Bundle:
    _require_product(opening, _read(folder / package.MANIFEST), released)
    bundle = load(folder)
    if bundle.manifest.trained_for != contract.digest():
        raise _invalid("The model was trained for another contract.")
    return bundle


def summary(verified: Verified) -> dict[str, object]:
    """What a person or program wants to know of a verified release."""
    return {
        "contract": verified.contract.digest(),
        "title": verified.contract.title,
        "verdict": "released",
        "standing": verified.standing,
        "findings": [json.loads(finding.model_dump_json(by_alias=True)) for finding in verified.opening.findings],
        "model": verified.bundle.digest if verified.bundle else None,
        "outputs": verified.outputs.model_dump(mode="json", by_alias=True) if verified.outputs else None,
    }
