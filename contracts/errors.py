"""One base error for the whole product: a stable code, one sentence, and what to do next.

A code names what happened, never which data made it happen, so it may travel to people who must not see the data.
Each code belongs to one exit code of the commands.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final


class Exit(IntEnum):
    """Exit codes of `escrow` and `party`."""

    OK = 0
    REFUSED = 1  # refused by a rule, or failed
    CONNECTION = 2  # connection or authentication
    TIMEOUT = 3
    USAGE = 4  # the command was called wrongly
    BUG = 5  # our mistake


@dataclass(frozen=True)
class Code:
    """What a code means: the exit code it leads to and the next step when the raiser knows no better one."""

    exit: Exit
    hint: str


CODES: Final[Mapping[str, Code]] = MappingProxyType(
    {
        # input
        "usage": Code(Exit.USAGE, "Run the command with --help."),
        "file-unreadable": Code(Exit.USAGE, "Check the path and that the file may be read."),
        "file-unwritable": Code(Exit.USAGE, "Name a file in a directory that exists and may be written."),
        "confirmation-missing": Code(Exit.USAGE, "Run the command again and type what it asks for."),
        "extra-missing": Code(Exit.USAGE, "Install everything: pip install 'model-escrow[scenarios]'."),
        "interrupted": Code(Exit.REFUSED, "Run the command again when you like."),
        "document-invalid": Code(
            Exit.REFUSED, "Correct the named field; `escrow contract validate` shows every problem."
        ),
        "not-canonical": Code(Exit.REFUSED, "Send the canonical JSON bytes that were signed, unchanged."),
        "table-invalid": Code(Exit.REFUSED, "Correct the named cell or column and try again."),
        "table-empty": Code(Exit.REFUSED, "Choose a table with at least one row."),
        "window-empty": Code(Exit.REFUSED, "Choose the split so that train and holdout each hold rows and frauds."),
        "column-missing": Code(Exit.REFUSED, "Name the table's own columns in the schema."),
        "feature-forbidden": Code(Exit.REFUSED, "Remove the column from the features; the schema forbids it there."),
        # signatures and proofs
        "key-invalid": Code(Exit.REFUSED, "Use the Ed25519 key exactly as it was made, with its own passphrase."),
        "signature-invalid": Code(Exit.REFUSED, "Do not rely on this document; ask its signer for it again."),
        "proof-invalid": Code(Exit.REFUSED, "Do not rely on this ledger; compare checkpoints with the other parties."),
        "checkpoint-invalid": Code(Exit.REFUSED, "Fetch the checkpoint again, unchanged; do not rely on this text."),
        # models
        "model-invalid": Code(Exit.REFUSED, "Use a family, method and parameters that the contract language knows."),
        "bundle-invalid": Code(Exit.REFUSED, "Fetch the release again; do not use these files."),
        "update-invalid": Code(Exit.REFUSED, "A party's update was refused; the run fails closed."),
        "roster-incomplete": Code(Exit.REFUSED, "A party did not answer exactly once; the run fails closed."),
        "node-missing": Code(Exit.TIMEOUT, "Let `party start` run at each bank whose training rows stay there."),
        "node-refused": Code(Exit.REFUSED, "Look at the contract: only a party whose rows stay with it runs a node."),
        "node-busy": Code(Exit.REFUSED, "Let that `party join` or `party start` go on, or end it first."),
        "scores-invalid": Code(Exit.REFUSED, "A model gave no usable score for some row; the run fails closed."),
        "training-failed": Code(
            Exit.REFUSED, "Check that each bank's training rows hold frauds and genuine rows, then propose again."
        ),
        "run-aborted": Code(Exit.REFUSED, "Ask the operator why the run was ended; propose again if no run is left."),
        "counts-differ": Code(Exit.REFUSED, "Deposit the table whose counts the contract states."),
        "holdout-too-early": Code(Exit.REFUSED, "Split every deposit by the schema's rule and propose again."),
        "holdout-in-training": Code(Exit.REFUSED, "Deposit a holdout whose rows stand in nobody's training rows."),
        # jobs and the vault
        "limit-time": Code(Exit.TIMEOUT, "Raise the limit on time or make the computation smaller."),
        "limit-memory": Code(Exit.REFUSED, "Raise the limit on memory or make the computation smaller."),
        "limit-results": Code(Exit.REFUSED, "Raise the limit on results or write less."),
        "limit-processes": Code(Exit.REFUSED, "Raise the limit on processes or start fewer processes and threads."),
        "output-refused": Code(Exit.REFUSED, "Write regular files within the limit, never links or devices."),
        "worker-changed": Code(Exit.REFUSED, "Restart the escrow, then propose a contract that names the new code."),
        "worker-lost": Code(Exit.REFUSED, "Look at what ended the worker from outside, then run again."),
        "worker-silent": Code(Exit.TIMEOUT, "Look at the machine's load and the job's limits, then run again."),
        "engine-missing": Code(
            Exit.CONNECTION, "Start a container engine (`make engine` on Debian), or let this user reach its socket."
        ),
        "image-missing": Code(Exit.REFUSED, "Make the image with `escrow image build`; nothing is pulled by itself."),
        "image-refused": Code(Exit.REFUSED, "Build it from a vetted base and packages that the operator can get."),
        "capsule-invalid": Code(Exit.REFUSED, "Correct the capsule; `party capsule check` names what is wrong."),
        "capsule-changed": Code(Exit.REFUSED, "Propose a contract that names this capsule's digest."),
        "capsule-failed": Code(Exit.REFUSED, "Run it on synthetic rows: `party capsule run --data synthetic`."),
        "tables-differ": Code(Exit.REFUSED, "Give it exactly the files that its escrow.yml declares under `data`."),
        "vetting-unavailable": Code(
            Exit.REFUSED, "Wait: outputs that need vetting are held until this escrow can vet them."
        ),
        "runtime-busy": Code(Exit.REFUSED, "Wait until a running job has ended."),
        "runtime-unfit": Code(Exit.REFUSED, "Give the runtime a directory of its own on a Linux machine."),
        "blob-corrupt": Code(Exit.REFUSED, "Send the bytes again, unchanged; do not rely on these."),
        "vault-sealed": Code(Exit.REFUSED, "Only the holder of the right key can open this."),
        "storage-full": Code(Exit.REFUSED, "Ask the operator for room; the upload goes on where it stopped."),
        "storage-unreachable": Code(
            Exit.CONNECTION, "Try again later; the operator checks the object storage, its address and credentials."
        ),
        "upload-refused": Code(Exit.REFUSED, "Ask how much of the upload has arrived and go on from there."),
        "upload-busy": Code(Exit.REFUSED, "Wait until the other transfer of this upload has ended."),
        "quota-exceeded": Code(Exit.REFUSED, "Wait until what is under way has ended, or ask the operator for more."),
        # the wire
        "escrow-unreachable": Code(Exit.CONNECTION, "Check the address and that the escrow serves there; try again."),
        "escrow-untrusted": Code(
            Exit.CONNECTION, "Do not go on; compare the escrow's fingerprint with the operator once more."
        ),
        "certificate-refused": Code(Exit.CONNECTION, "Get a new certificate with `party enrol`."),
        "certificate-missing": Code(Exit.USAGE, "Get a certificate with `party enrol`."),
        "certificate-expired": Code(Exit.CONNECTION, "Get a new certificate with `party enrol`."),
        "certificate-revoked": Code(Exit.CONNECTION, "Get a certificate for a new TLS key with `party enrol`."),
        "port-taken": Code(Exit.USAGE, "Choose another address or port, or stop the program that listens there."),
        "escrow-slow": Code(Exit.TIMEOUT, "Try again; what was acknowledged stands, and repeating a call is safe."),
        "escrow-crowded": Code(Exit.TIMEOUT, "Try again in a minute; tell the operator if it lasts."),
        "upload-stalled": Code(Exit.TIMEOUT, "Send the file again; it goes on where it was cut off."),
        "message-refused": Code(Exit.REFUSED, "Send one statement of at most 1 MiB; files are sent in chunks."),
        "admission-pending": Code(
            Exit.TIMEOUT, "Read this party's fingerprint to the operator; `party enrol` asks again."
        ),
        "enrolment-refused": Code(Exit.REFUSED, "Make the request again with `party enrol`."),
        # the law
        "statement-refused": Code(
            Exit.REFUSED, "Look at the contract's status; only what its state allows is accepted."
        ),
        "state-refused": Code(Exit.REFUSED, "Look at the contract's status; only what its state allows is accepted."),
        "ledger-unopened": Code(Exit.REFUSED, "Name the directory of an escrow that was started once."),
        "party-unknown": Code(Exit.REFUSED, "Ask the operator to admit the party, or correct its name."),
        "party-exists": Code(Exit.REFUSED, "Choose another name; a name is never given twice."),
        "party-revoked": Code(Exit.REFUSED, "Ask the operator; a revoked party must be admitted under a new name."),
        "key-mismatch": Code(Exit.REFUSED, "Draw the contract up again with the keys of the escrow's directory."),
        "keys-mismatch": Code(Exit.REFUSED, "Approve again with the data keys of exactly your own deposits."),
        "deposit-unknown": Code(Exit.REFUSED, "Deposit the file first, or correct the commitment."),
        "deposit-exists": Code(Exit.REFUSED, "Nothing to do: the file is deposited."),
        "deposit-revoked": Code(Exit.REFUSED, "Deposit the data anew and propose another contract."),
        "deposit-kept": Code(
            Exit.REFUSED, "Add --keep-training to keep them here, or --send-training if they are really to be sent."
        ),
        "deposit-mismatch": Code(Exit.REFUSED, "Draw the contract up again from the deposits as they stand."),
        "blob-missing": Code(Exit.REFUSED, "Send the encrypted file of the deposit, then try again."),
        "blob-refused": Code(Exit.REFUSED, "Send exactly the encrypted file that the deposit statement names."),
        "contract-unknown": Code(Exit.REFUSED, "Correct the digest; list the contracts to see what stands."),
        "contract-exists": Code(Exit.REFUSED, "Look at its status; the contract stands as it was proposed."),
        "contract-expired": Code(Exit.REFUSED, "Propose a contract with a later expiry."),
        "contract-early": Code(Exit.REFUSED, "Wait until the contract's not-before."),
        "runs-exhausted": Code(Exit.REFUSED, "Propose another contract; this one's run budget is spent."),
        "looks-exhausted": Code(Exit.REFUSED, "Deposit a fresh holdout; this one was decided over often enough."),
        "rule-unknown": Code(Exit.REFUSED, "Correct the standing rule's digest."),
        "rule-refused": Code(Exit.REFUSED, "Let the party itself sign, or make a rule that covers the contract."),
        "not-supported": Code(
            Exit.REFUSED, "Remove the term; `escrow contract validate` names every term that is not supported."
        ),
        "not-permitted": Code(Exit.REFUSED, "Ask the party that may; the contract names who receives what."),
        "not-released": Code(Exit.REFUSED, "Look at the contract's status; only a released contract can be collected."),
        "archive-invalid": Code(Exit.REFUSED, "Fetch the release again; do not use this file."),
        "commitment-mismatch": Code(
            Exit.REFUSED, "Deposit the data anew; what was decrypted is not what was committed."
        ),
        "key-refused": Code(Exit.REFUSED, "Approve with the deposit's own data key; propose the contract again."),
        "approval-missing": Code(Exit.REFUSED, "Do not use this model; a party never approved its contract."),
        "release-invalid": Code(Exit.REFUSED, "Do not use this model; fetch the release again or ask the operator."),
        "evidence-mismatch": Code(Exit.REFUSED, "The run's evidence does not fit the contract; the run fails closed."),
        "worker-unknown": Code(Exit.REFUSED, "Draw the contract up with the worker digest that the escrow states."),
        "ledger-tampered": Code(
            Exit.REFUSED, "Keep a copy as evidence and compare checkpoints with the other parties."
        ),
        "home-exists": Code(Exit.USAGE, "Choose an empty directory, or use the keys that are there."),
        "passphrase-missing": Code(Exit.USAGE, "Name its file in PARTY_PASSPHRASE_FILE, or type it when asked."),
        "key-exposed": Code(Exit.USAGE, "Let its owner alone read it (chmod 600), and think about who may have."),
        "policy-invalid": Code(Exit.REFUSED, "Correct the named terms of policy.yml; nothing is approved until then."),
        "policy-refused": Code(Exit.REFUSED, "Do not approve it, or edit policy.yml first if the bank has decided so."),
        "home-missing": Code(Exit.USAGE, "Name the party's home with --home or PARTY_HOME."),
        "escrow-pinned": Code(
            Exit.CONNECTION, "Compare fingerprints with the operator before you trust another escrow."
        ),
        "digest-mismatch": Code(Exit.REFUSED, "Do not sign; compare the contract with the other parties."),
        "escrow-exists": Code(Exit.USAGE, "Choose an empty directory, or use the escrow that is there."),
        "escrow-busy": Code(Exit.REFUSED, "Wait until the other command ends, or stop the escrow that runs there."),
        "database-unsupported": Code(
            Exit.USAGE,
            "Name it as sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME; its password belongs into PGPASSFILE.",
        ),
        "database-unreachable": Code(
            Exit.CONNECTION, "Check that the database is there, lets the escrow in and has room, then try again."
        ),
        "database-older": Code(Exit.REFUSED, "Start this escrow once: it brings its database up to date."),
        "database-newer": Code(Exit.REFUSED, "Install the version of model-escrow that last served this database."),
        "database-in-use": Code(Exit.USAGE, "Name an empty database."),
        "export-invalid": Code(Exit.REFUSED, "Export the ledger again; do not rely on this file."),
        "escrow-missing": Code(Exit.USAGE, "Name the directory of an escrow, the one that holds escrow.json."),
        "bug": Code(Exit.BUG, "Report it with the command you ran; ESCROW_DEBUG=1 shows where it happened."),
    }
)


class EscrowError(Exception):
    """Base of every error a user can meet.

    Attributes:
        code: key of `CODES`.
        message: one sentence that says what happened.
        hint: what to do next.
        details: the single problems, where the message sums up several.
        party: whom it is about, if one party: for the operator and that party alone, never for the others.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str | None = None,
        details: Iterable[str] = (),
        *,
        party: str | None = None,
    ) -> None:
        super().__init__(message)
        self.party = party
        self.code = code
        self.message = message
        self.hint = CODES[code].hint if hint is None else hint
        self.details = tuple(details)

    @property
    def exit(self) -> Exit:
        """The exit code of a command that ends with this error."""
        return CODES[self.code].exit

    def diagnostics(self) -> str:
        """What a person reads: what happened, the code, what to do next."""
        lines = [f"{self.message} [{self.code}]", *(f"  - {each}" for each in self.details), f"  Next: {self.hint}"]
        return "\n".join(lines)
