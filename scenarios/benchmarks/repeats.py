"""Whether the same contract gives the same model, whoever is slow and whoever is lost: the bytes of several runs.

Three banks keep their rows. One escrow and its banks are copied as they stand before the run, so that every run is of
the very same contract, with the same commitments and the same seed. In each of three runs other banks are slow, so that
their answers come in another order every time; in the fourth one bank's worker is killed in the middle of a round, and
the run goes on at the last whole round. Workers are plain processes of the product's worker, made slow or killed as
`scenarios.lies` makes any bank misbehave.
"""

import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from hashlib import sha256
from itertools import permutations
from pathlib import Path
from typing import Final

from escrow.runtime.base import Output
from escrow.runtime.job import Job
from escrow.runtime.process import ProcessRuntime
from scenarios import tiny

BANKS: Final = ("north", "harbour", "valley")
ROUNDS: Final = 4
APART_MS: Final = 60
"""Between the answers of two banks: far more than such a round takes."""
HONEST: Final = "honest"


class Noting(ProcessRuntime):
    """A runtime that notes the digest of every joint model."""

    digest = ""

    def collect(self, job: Job) -> Mapping[str, Output]:
        """See `Runtime.collect`."""
        found = super().collect(job)
        if job.spec["role"] == "aggregate":
            self.digest = sha256(found["model/model.onnx"].read() + found["model/model.json"].read()).hexdigest()
        return found


def distinct_models(directory: Path, progress: Callable[[str], None], *, words: str = HONEST) -> int:
    """How many different models come of four runs of one contract.

    Args:
        directory: new, for everything that is made.
        progress: told which run it is.
        words: of `scenarios.lies`, for every worker; `quick` for one that needs no torch.
    """
    before = directory / "before"
    with ProcessRuntime(directory / "none") as runtime:
        consortium = tiny.founded(before, runtime, tiny.Clock(), banks=BANKS, at_home=BANKS)
        model = {"family": "logistic", "epochs": 2}
        method = {"name": "fedavg", "rounds": ROUNDS, "round-seconds": 120}
        document = consortium.draft(model=model, method=method)
        document["limits"]["retries"] = 1
        contract = consortium.propose(consortium.contract(document))
        consortium.approve(contract)
        consortium.close()
    found, marks = set(), directory / "marks"
    marks.mkdir()
    for number, how in enumerate(misbehaviours(words, marks)):
        progress(f"run {number + 1}: {', '.join(f'{bank} {what}' for bank, what in how.items())}")
        copy = directory / f"run-{number}"
        shutil.copytree(before, copy)
        found.add(trained(copy, contract, how, words))
        done, due = {mark.name for mark in marks.iterdir()}, sum(str(marks) in what for what in how.values())
        if len(done) != due:
            raise RuntimeError(f"of {due} banks that were to be slow or lost {len(done)} were")
        shutil.rmtree(marks)
        marks.mkdir()
    return len(found)


def misbehaviours(words: str, marks: Path) -> list[Mapping[str, str]]:
    """What each bank does in each run, in the words of `scenarios.lies`; each leaves a file once it has done it."""
    orders = list(permutations(BANKS))[::2]
    slow = [
        {bank: f"{words},late:{APART_MS * place}:{marks / bank}" for place, bank in enumerate(order)}
        for order in orders
    ]
    return [*slow, dict.fromkeys(BANKS, words) | {"harbour": f"{words},vanish-once:{marks / 'harbour'}"}]


def trained(directory: Path, contract: str, how: Mapping[str, str], words: str) -> str:
    """Run the contract of a copied consortium; the digest of its model.

    Raises:
        RuntimeError: no model came of it.
    """
    with ExitStack() as stack:
        runtime = stack.enter_context(Noting(directory / "jobs", command=worker(words)))
        consortium = tiny.reopened(directory, runtime, tiny.Clock())
        stack.callback(consortium.close)
        for bank, what in how.items():
            home = directory / "banks" / bank
            consortium.workers[bank] = stack.enter_context(ProcessRuntime(home / "jobs", command=worker(what)))
        case = consortium.run(contract)
    if not runtime.digest:
        raise RuntimeError(f"the run ended {case.state}: {case.reason}")
    return runtime.digest


def worker(words: str) -> tuple[str, ...]:
    """The command of a worker that does what the words say."""
    return (sys.executable, "-m", "scenarios.lies", words)
