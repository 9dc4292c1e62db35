"""Role `client`: one party's side of joint training, in a worker that sees this party's rows alone.

Where the rows lie at the bank nobody else has checked them: the commitment, their number, features and time are checked
here, before anything is answered.
"""

import hashlib
from pathlib import Path

from contracts.canonical import commitment
from contracts.errors import EscrowError
from models.federated.door import Door
from models.jobs import ClientJob, Place, Tell


def run(job: ClientJob, place: Place, tell: Tell) -> None:
    """Check the rows, then answer what is asked until the aggregator is done."""
    with Door.dial(place.door) as door:  # the escrow waits for it; what follows takes seconds to load
        from models.families.base import make_federated  # noqa: PLC0415 - as above
        from models.federated.client import own_app, party_app, serve  # noqa: PLC0415 - as above
        from models.roles.check import check_training  # noqa: PLC0415 - as above
        from models.roles.rows import read_rows  # noqa: PLC0415 - as above

        if job.commitment is not None:
            check_commitment(place.inputs / job.party, job.commitment, job.party)
        table = read_rows(place.inputs, job.party, job.rows)
        if job.commitment is not None:
            check_training(table, job.data_schema, job.rows, job.party)
        one_way = job.method.get("name") == "ensemble"

        def own() -> dict[str, bytes]:
            from models.roles.party import own_model  # noqa: PLC0415 - only who is asked for its own model needs more

            return own_model(
                party=job.party,
                train=table,
                schema=job.data_schema,
                models=job.models,
                select_days=job.select_days,
                seed=job.seed_bytes,
                contract=job.contract,
                tell=tell,
                validate=one_way,
            )

        if one_way:
            app = own_app(len(table), own)
        else:
            family, seed = make_federated(job.model), job.seed_bytes
            X, y = table.features, table.labels
            app = party_app(family, X, y, party=job.party, seed=seed, method=job.method, own=own)
        serve(app, door)


def check_commitment(folder: Path, committed: str, party: str) -> None:
    """The training rows' file is the one that its party committed to.

    Args:
        folder: holds `train.parquet` and `train.salt`.
        committed: as the contract states it.
        party: whose rows these are.

    Raises:
        EscrowError: `commitment-mismatch`; `file-unreadable` if the rows or their salt are not there.
    """
    try:
        salt = (folder / "train.salt").read_bytes()
        with (folder / "train.parquet").open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise EscrowError("file-unreadable", "The training rows or their salt cannot be read.", party=party) from None
    if commitment(salt, f"sha256:{content}") != committed:
        raise EscrowError("commitment-mismatch", "The training rows are not those that were committed.", party=party)
