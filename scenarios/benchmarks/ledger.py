"""What the ledger costs beside bare SQLite, how long a verification takes, and how large proofs are.

`append_ratio` is the ledger's own work (leaf, hashes, index, one durable transaction a statement) against inserting the
same bytes with bare SQLite under the same durability. Verifying the signature and applying the rules come on top when a
party submits: `statements_per_second` counts all of it.
"""

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from contracts import statements as st
from contracts.canonical import encode_base64
from contracts.entries import leaf
from contracts.signing import PAYLOAD_TYPE, Ed25519Signer, Envelope, pae, sign
from contracts.transparency import HASH_BYTES, Tree, leaf_hash, verify_consistency, verify_inclusion
from escrow.audit import audit
from escrow.ledger import Ledger, add_entry
from escrow.runtime.process import memory_root
from scenarios.benchmarks.report import Figures, Target
from scenarios.consortium import ORIGIN

PAIRS, APPENDED, VERIFIED = 7, 1000, 100_000
NORTH, CORE = Ed25519Signer.from_seed(b"n" * 32), Ed25519Signer.from_seed(b"e" * 32)


def run(progress: Callable[[str], None]) -> Figures:
    """Append, submit, verify and prove."""
    statements = [_deposit(number) for number in range(APPENDED)]
    with _folder(None) as folder:
        ratios, rates = [], []
        for pair in range(PAIRS):
            progress(f"append, pair {pair + 1} of {PAIRS}")
            ours = _appended(folder / f"ours-{pair}.db", statements)
            ratios.append(_bare(folder / f"bare-{pair}.db", statements) / ours)
            rates.append(APPENDED / ours)
        progress("submit")
        submitted = _submitted(folder / "submitted.db", statements)
    values = {"append_ratio": median(ratios), "appended_per_second": median(rates), "statements_per_second": submitted}
    values |= _verified(progress)
    targets = (Target("append_ratio", "at_least", 0.5), Target("verify_seconds", "at_most", 30))
    return Figures(values, targets)


@contextmanager
def _folder(root: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="escrow-benchmark-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _deposit(number: int) -> Envelope:
    statement = st.DataDeposited(
        ledger=ORIGIN,
        party="north",
        part="train",
        commitment=f"sha256-salted:{number:064x}",
        data_schema="sha256:" + "0" * 64,
        rows=5,
        blob="sha256:" + "1" * 64,
        size=100,
    )
    return sign(statement.payload(), NORTH)


def _appended(path: Path, statements: Sequence[Envelope]) -> float:
    """Seconds to append, each in a transaction of its own."""
    ledger, tree = Ledger(f"sqlite:///{path}"), Tree()
    begin = time.perf_counter()
    for envelope in statements:
        with ledger.writing() as connection:
            tree, _ = add_entry(connection, tree, envelope, 0)
    passed = time.perf_counter() - begin
    ledger.close()
    return passed


def _bare(path: Path, statements: Sequence[Envelope]) -> float:
    """Seconds to insert the same bytes, each in a transaction of its own, as durable."""
    leaves = [leaf(envelope, 0) for envelope in statements]
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE entries (position INTEGER PRIMARY KEY, leaf BLOB NOT NULL)")
    begin = time.perf_counter()
    for data in leaves:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO entries (leaf) VALUES (?)", (data,))
        connection.execute("COMMIT")
    passed = time.perf_counter() - begin
    connection.close()
    return passed


def _opened(path: Path) -> Ledger:
    """A ledger with one admitted party."""
    ledger = Ledger(f"sqlite:///{path}")
    ledger.append(sign(st.LedgerOpened(ledger=ORIGIN, public_key=CORE.public).payload(), CORE), 0)
    request = st.EnrolmentRequest(
        ledger=ORIGIN, name="north", role="party", public_key=NORTH.public, recipient="age1" + "q" * 58
    )
    signature = encode_base64(NORTH.sign(pae(PAYLOAD_TYPE, request.payload())))
    admitted = st.PartyAdmitted(ledger=ORIGIN, request=request, signature=signature)
    ledger.append(sign(admitted.payload(), CORE), 0)
    return ledger


def _submitted(path: Path, statements: Sequence[Envelope]) -> float:
    """Statements a second with everything: signature, rules, read tables."""
    ledger = _opened(path)
    begin = time.perf_counter()
    for envelope in statements:
        ledger.append(envelope, 0)
    passed = time.perf_counter() - begin
    ledger.close()
    return len(statements) / passed


def _verified(progress: Callable[[str], None]) -> dict[str, float]:
    """Build a long ledger in memory where the machine allows, then audit it as anyone would."""
    with _folder(memory_root(Path.cwd()).parent) as folder:
        (folder / "escrow.json").write_text(f'{{"origin": "{ORIGIN}", "public-key": "{CORE.public}"}}')
        ledger = _opened(folder / "ledger.db")
        size = ledger.size()
        while size < VERIFIED:
            if size % 5000 == 0:
                progress(f"build the long ledger, {size:,} of {VERIFIED:,} entries")
            ledger.append(_deposit(size), 0)
            size += 1
        proofs = _proof_sizes(ledger, size)
        head = ledger.head(ORIGIN, CORE)
        ledger.close()
        progress(f"verify {size:,} entries")
        begin = time.perf_counter()
        audit(folder, {"north": head})
        return {"verify_seconds": time.perf_counter() - begin, "entries": float(size), **proofs}


def _proof_sizes(ledger: Ledger, size: int) -> dict[str, float]:
    """Bytes of an inclusion proof from the middle and of a consistency proof from an odd size, both checked."""
    head = ledger.checkpoint(ORIGIN)
    middle, before = size // 2, size * 7 // 9
    included = ledger.inclusion(middle, size)
    [data] = ledger.leaves(middle, middle + 1)
    verify_inclusion(leaf_hash(data), middle, size, included, head.root)
    consistent = ledger.consistency(before, size)
    verify_consistency(before, ledger.root(before), size, head.root, consistent)
    return {"inclusion_bytes": len(included) * HASH_BYTES, "consistency_bytes": len(consistent) * HASH_BYTES}
