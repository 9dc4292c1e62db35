"""A release is altered, exchanged, forged, or made against the verdict; the bank's own verification tells."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyrage
import pytest

from contracts import package
from contracts import statements as st
from contracts.archive import pack, unpack
from contracts.canonical import canonical, decode_base64, parse
from contracts.clauses import Outcome
from contracts.entries import read_leaf
from contracts.errors import EscrowError
from contracts.gate import decide
from contracts.notes import Checkpoint, sign_note
from contracts.signing import Ed25519Signer
from contracts.statements import read
from escrow import home
from escrow.release import packages
from parties.identity import Identity, pinned
from parties.receipt import gathered
from parties.release import Verified, fetch, verify_release
from scenarios import hostile, tiny

FILES = ("package.age", "receipt.json", "contract.json", "opening.json", "card.md", "model.onnx", "model.json")


def verified(played: Any, folder: Path | None = None, *, bank: str = "north") -> Verified:
    where = played.bank(bank)
    return verify_release(folder or played.releases / "north", Identity.open(where), pinned(where))


def receipt(played: Any) -> dict[str, Any]:
    found = parse((played.releases / "north" / "receipt.json").read_bytes())
    assert isinstance(found, dict)
    return found


def kind(entry: dict[str, Any]) -> str:
    return str(read(read_leaf(_bytes(entry)).envelope.payload).kind)  # type: ignore[attr-defined]


def _bytes(entry: dict[str, Any]) -> bytes:
    return decode_base64(entry["leaf"])


def write(played: Any, document: dict[str, Any]) -> None:
    (played.releases / "north" / "receipt.json").write_bytes(canonical(document))


def refuses(played: Any, *, bank: str = "north") -> str:
    """The code with which the bank refuses what lies in north's folder."""
    with pytest.raises(EscrowError) as caught:
        verified(played, bank=bank)
    return caught.value.code


def test_an_honest_release_passes_every_step(played: Any) -> None:
    heard: list[tuple[int, str]] = []
    where = played.bank("north")
    found = verify_release(played.releases / "north", Identity.open(where), pinned(where), heard.append)
    assert [number for number, _ in heard] == list(range(1, 9))
    assert found.contract.digest() == played.released
    assert {path.name for path in (played.releases / "north").iterdir()} == set(FILES)


@pytest.mark.parametrize("how", ["flipped", "cut", "longer", "empty", "gone"])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused(played: Any, name: str, how: str) -> None:
    path = played.releases / "north" / name
    data = path.read_bytes()
    middle = len(data) // 2
    changed = {
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:-1],
        "longer": data + b"\n",
        "empty": b"",
    }
    path.unlink() if how == "gone" else path.write_bytes(changed[how])
    assert refuses(played)


def test_another_escrow_than_the_pinned_one_is_refused(played: Any) -> None:
    where = played.bank("north")
    stranger = Ed25519Signer.from_seed(bytes(32)).public
    about = json.loads((where / "escrow.json").read_text())
    (where / "escrow.json").write_text(json.dumps({**about, "public-key": stranger}))
    assert refuses(played) == "signature-invalid"
    (where / "escrow.json").write_text(json.dumps({**about, "ledger": "other.example/ledger"}))
    assert refuses(played)


def test_another_banks_package_is_refused(played: Any) -> None:
    assert refuses(played, bank="harbour") == "release-invalid"
    for name in FILES[2:]:  # even with all of harbour's own plain files beside north's ciphertext
        (played.releases / "north" / name).write_bytes((played.releases / "harbour" / name).read_bytes())
    assert refuses(played) == "release-invalid"


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ("contract-approved", "approval-missing"),
        ("contract-proposed", None),
        ("party-admitted", None),
        ("run-decided", None),
        ("run-released", None),
    ],
)
def test_a_receipt_without_a_statement_is_refused(played: Any, missing: str, code: str | None) -> None:
    document = receipt(played)
    entries = document["entries"]
    entries.remove(next(entry for entry in entries if kind(entry) == missing))
    write(played, document)
    assert refuses(played) == code if code else refuses(played)


def test_a_statement_that_stands_on_no_ledger_is_refused(played: Any) -> None:
    document = receipt(played)
    approvals = [entry for entry in document["entries"] if kind(entry) == "contract-approved"]
    approvals[0]["leaf"] = approvals[1]["leaf"]
    write(played, document)
    assert refuses(played) == "proof-invalid"


def test_a_checkpoint_of_another_root_or_key_is_refused(played: Any) -> None:
    document = receipt(played)
    honest = document["head"]
    origin, _ = home.about(played.escrow)
    for signer in (home.open_key(played.escrow)[0], Ed25519Signer.from_seed(bytes(32))):
        document["head"] = sign_note(Checkpoint(origin, 40, bytes(32)), origin, signer)
        write(played, document)
        assert refuses(played) in ("proof-invalid", "signature-invalid")
    document["head"] = honest
    write(played, document)
    verified(played)


def test_the_operator_cannot_release_what_was_withheld(played: Any, replayed: Any, refused: Any) -> None:
    """It has the model, its key and the disk; what it lacks is a verdict that says so."""
    north = replayed.banks["north"]
    core = replayed.core
    files = {name: (played.releases / "north" / name).read_bytes() for name in FILES[2:]}
    files[package.CONTRACT] = north.view(played.withheld).contract.canonical()
    blob = pyrage.encrypt(pack(files), [north.identity.age.to_public()])
    packages = dict.fromkeys(("north", "harbour"), core.vault.put([blob], limit=len(blob)))
    statement = st.RunReleased(
        ledger=core.origin,
        contract=played.withheld,
        run=1,
        product="sha256-salted:" + 64 * "0",
        packages=packages,
    )
    with refused("state-refused"):
        core.state(statement)
    hostile.Operator(core.directory).force(statement, tiny.START)
    with refused("not-released"):
        fetch(north, played.withheld, played.folder / "forged")
    forged = _fetched(north, played.withheld, blob, played.folder / "forged")
    with refused("not-released"):
        verify_release(forged, north.identity, pinned(north.home))


def _fetched(bank: Any, contract: str, blob: bytes, folder: Path) -> Path:
    """What a bank would have fetched from an escrow whose read tables lie too."""
    folder.mkdir()
    (folder / "package.age").write_bytes(blob)
    for name, content in unpack(pyrage.decrypt(blob, [bank.identity.age]), package.LIMITS).items():
        (folder / name).write_bytes(content)
    document = gathered(bank, contract).model_dump(mode="json", by_alias=True)
    (folder / "receipt.json").write_bytes(canonical(document))
    return folder


@pytest.mark.wires
def test_a_verdict_against_the_findings_is_seen_by_the_bank_it_is_about(
    consortium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    """An operator that turns the verdict and leaves the findings as they are."""

    def lenient(*arguments: Any, **named: Any) -> Any:
        return decide(*arguments, **named).model_copy(update={"verdict": "released"})

    monkeypatch.setattr("escrow.runs.decide", lenient)
    beyond = {"kind": "floor", "party": "north", "metric": "average-precision", "at-least": 0.999}
    contract = tiny.approved(consortium, release=[beyond])
    assert consortium.core.run(contract).state == "released"
    north, harbour = consortium.banks.values()
    with refused("release-invalid"):
        verify_release(fetch(north, contract, tmp_path / "north"), north.identity, pinned(north.home))
    verify_release(fetch(harbour, contract, tmp_path / "harbour"), harbour.identity, pinned(harbour.home))


@pytest.mark.parametrize("how", ["dropped", "closed"])
def test_an_operator_that_hides_the_failed_finding_is_seen_too(
    consortium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any, how: str
) -> None:
    """The operator turns the verdict, and binds only what holds (dropped) or opens nothing to the bank (closed)."""

    def lenient(*arguments: Any, **named: Any) -> Any:
        honest = decide(*arguments, **named)
        holding = tuple(each for each in honest.findings if each.outcome is Outcome.HOLDS)
        return honest.model_copy(update={"verdict": "released", "findings": holding})

    def closed(contract: Any, *arguments: Any) -> dict[str, bytes]:
        silent = contract.model_copy(
            update={"disclosure": contract.disclosure.model_copy(update={"released": ("verdict",)})}
        )
        made = packages(silent, *arguments)
        for name, packed in made.items():
            files = unpack(packed, package.LIMITS)
            made[name] = pack({**files, package.CONTRACT: contract.canonical()})
        return made

    monkeypatch.setattr("escrow.runs.decide", lenient)
    if how == "closed":
        monkeypatch.setattr("escrow.runs.packages", closed)
    beyond = {"kind": "floor", "party": "north", "metric": "average-precision", "at-least": 0.999}
    contract = tiny.approved(consortium, release=[beyond, {**beyond, "at-least": 0.0}])
    assert consortium.core.run(contract).state == "released"
    north = consortium.banks["north"]
    with refused("release-invalid"):
        verify_release(fetch(north, contract, tmp_path / "north"), north.identity, pinned(north.home))


def test_an_approval_with_a_key_that_the_bank_does_not_hold_is_refused(played: Any, refused: Any) -> None:
    """An operator admitted a key of its own under the bank's name."""
    where = played.bank("north")
    held = replace(Identity.open(where), signer=Ed25519Signer.from_seed(bytes(32)))
    with refused("release-invalid"):
        verify_release(played.releases / "north", held, pinned(where))


@dataclass(frozen=True)
class Hiding:
    """An escrow that does not show the ledger's last entry, or shows another in its place."""

    session: Any
    instead: int | None

    def entries(self, start: int, stop: int) -> tuple[bytes, ...]:
        shown = self.session.entries(start, stop)
        return shown[:-1] if self.instead is None else (*shown[:-1], shown[self.instead])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


@pytest.mark.parametrize("instead", [None, 0])
def test_an_escrow_that_hides_an_entry_is_seen_when_the_release_is_fetched(
    replayed: Any, played: Any, refused: Any, instead: int | None
) -> None:
    north = replayed.banks["north"]
    with refused("ledger-tampered"):
        fetch(replace(north, escrow=Hiding(north.escrow, instead)), played.released, played.folder / "hidden")
    assert not (played.folder / "hidden").exists()


def test_a_release_is_fetched_from_the_ledger_that_the_bank_remembers_only(
    replayed: Any, played: Any, refused: Any
) -> None:
    north, core = replayed.banks["north"], replayed.core
    north.head()
    size = core.ledger.size() - 1
    older = sign_note(Checkpoint(core.origin, size, core.ledger.root(size)), core.origin, core.signer)
    (north.home / "head.note").write_text(core.head())

    class Older(Hiding):
        def head(self) -> str:
            return older

    with refused("ledger-tampered"):
        fetch(replace(north, escrow=Older(north.escrow, None)), played.released, played.folder / "older")


def test_a_model_exchanged_in_the_package_is_refused(played: Any) -> None:
    """Whoever can write the folder and encrypt to the bank still cannot exchange what the ledger binds."""
    folder = played.releases / "north"
    identity = Identity.open(played.bank("north"))
    files = unpack(pyrage.decrypt((folder / "package.age").read_bytes(), [identity.age]), package.LIMITS)
    files[package.CARD] = b"# another card\n"
    (folder / "package.age").write_bytes(pyrage.encrypt(pack(files), [identity.age.to_public()]))
    (folder / package.CARD).write_bytes(files[package.CARD])
    assert refuses(played) == "release-invalid"
