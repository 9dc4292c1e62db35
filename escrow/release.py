"""What leaves when a contract releases: for each party one package, and in it what the contract names and no more."""

from collections.abc import Mapping

from contracts import package
from contracts.archive import pack
from contracts.canonical import commitment, digest
from contracts.computation import CapsuleRun
from contracts.consequences import card
from contracts.contract import Contract
from contracts.gate import Decision
from contracts.package import Opening, findings_digest, shows_findings
from contracts.records import CaseRecord
from escrow.jobs import MODEL_FILES
from escrow.runstore import RunStore


def findings(contract: Contract, decision: Decision, store: RunStore) -> dict[str, str]:
    """The commitment to each contributor's findings."""
    return {
        c.party: commitment(store.salt("findings", c.party), findings_digest(decision, c.party))
        for c in contract.training
    }


def product(case: CaseRecord, store: RunStore) -> dict[str, bytes]:
    """The files that all recipients get: the joint model, or a capsule's outputs with the runs they come from."""
    computation = case.contract.computation
    if not isinstance(computation, CapsuleRun):
        made = store.get("train", case.stages["train"])
        return {name: made[name] for name in MODEL_FILES}
    outputs = store.get("confidential", case.stages["confidential"])
    manifest = package.ReleasedOutputs(
        contract=case.digest,
        capsule=computation.capsule,
        image=computation.image,
        synthetic=case.stages["synthetic"],
        confidential=case.stages["confidential"],
        outputs={path: digest(content) for path, content in outputs.items()},
    )
    files = {f"{package.FOLDER}{path}": content for path, content in outputs.items()}
    return {package.OUTPUTS: manifest.payload(), **files}


def product_commitment(files: Mapping[str, bytes], store: RunStore) -> str:
    """The commitment to the manifest of what is released, which names the digests of the rest."""
    manifest = files.get(package.OUTPUTS) or files[package.MANIFEST]
    return commitment(store.salt("product"), digest(manifest))


def packages(contract: Contract, decision: Decision, files: Mapping[str, bytes], store: RunStore) -> dict[str, bytes]:
    """The plain packages by party: the product for its recipients, own findings for whom the contract shows them to."""
    receive = {recipient.party for recipient in contract.recipients}
    made = {}
    for name in contract.names():
        own = shows_findings(contract, name)
        opening = Opening(
            findings=decision.of(name) if own else (),
            findings_salt=store.salt("findings", name).hex() if own else None,
            product_salt=store.salt("product").hex() if name in receive else None,
            outputs_salt=store.stage_salt("confidential").hex() if name in receive and not contract.training else None,
        )
        own_files = {package.CONTRACT: contract.canonical(), package.OPENING: opening.payload()}
        if name in receive:
            own_files |= {package.CARD: card(contract).encode(), **files}
        made[name] = pack(own_files)
    return made
