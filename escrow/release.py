"""What leaves when a contract releases: for each party one package, and in it what the contract names and no more."""

from collections.abc import Mapping

from contracts import package
from contracts.archive import pack
from contracts.canonical import commitment, digest
from contracts.consequences import card
from contracts.contract import Contract
from contracts.gate import Decision
from contracts.package import Opening, findings_digest, shows_findings
from escrow.runstore import RunStore


def findings(contract: Contract, decision: Decision, store: RunStore) -> dict[str, str]:
    """The commitment to each contributor's findings."""
    return {
        c.party: commitment(store.salt("findings", c.party), findings_digest(decision, c.party))
        for c in contract.contributions
    }


def model_commitment(model: Mapping[str, bytes], store: RunStore) -> str:
    """The commitment to the joint model's manifest, which names the digest of the model itself."""
    return commitment(store.salt("model"), digest(model[package.MANIFEST]))


def packages(contract: Contract, decision: Decision, model: Mapping[str, bytes], store: RunStore) -> dict[str, bytes]:
    """The plain packages by party: the model for its recipients, own findings for those the contract shows them to."""
    receive = {recipient.party for recipient in contract.recipients}
    made = {}
    for name in contract.names():
        own = shows_findings(contract, name)
        opening = Opening(
            findings=decision.of(name) if own else (),
            findings_salt=store.salt("findings", name).hex() if own else None,
            model_salt=store.salt("model").hex() if name in receive else None,
        )
        files = {package.CONTRACT: contract.canonical(), package.OPENING: opening.payload()}
        if name in receive:
            files |= {package.CARD: card(contract).encode(), **model}
        made[name] = pack(files)
    return made
