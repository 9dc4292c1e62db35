"""Write a capsule, check it, run it as the escrow will, build its image, and offer it under a contract.

A capsule is code for rows that its author never sees. What it breaks, prints and writes on its author's machine is
shown in full here; what the escrow would tell others is shown beside it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import typer

from contracts.answers import Answer
from contracts.capsule import Capsule
from contracts.errors import CODES, EscrowError, Exit
from contracts.pages import Line, Section, warned
from escrow.runtime.base import Sealing
from escrow.runtime.capsulefolder import RESULTS, capsule_in, capsule_of, find
from parties.capsules.trial import Trial, private_root, tables_in, try_out
from parties.cli import EPILOG, application, capsule_offer
from parties.cli.desk import tell
from parties.cli.screen import page, progress

LINES_SHOWN: Final = 200  # of what a capsule printed

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The capsule's directory.")]

app = application()


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Write a capsule, check it, run it as the escrow will, build its image, and offer it under a contract.

    A capsule is your code for somebody else's rows: it runs at the escrow, without network, and only the outputs
    that it declares may leave.
    First steps: new, check, run, build, deposit, contract.

    Example: party capsule new fraud-by-hour --template python
    """


@app.command("new", epilog=EPILOG)
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that does not exist yet.")],
    template: Annotated[str, typer.Option(metavar="python|r", help="The language of its code.")] = "python",
) -> Answer:
    """Write a whole small capsule that works: code, packages, declared outputs, and rows drawn by chance.

    Its README.md says what each file is for. Change what you like.

    Example: party capsule new fraud-by-hour --template python
    """
    from parties.capsules.templates import new_capsule  # noqa: PLC0415 - no other command needs them

    files = new_capsule(folder, template)
    first = Section("", (Line(f"A {template} capsule is in {folder}; its README.md says what each file is for."),))
    then = Section("Next", (Line(f"party capsule run {folder}, then party capsule check {folder}"),))
    return Answer({"directory": str(folder), "template": template, "files": list(files)}, page([first, then]))


@app.command("check", epilog=EPILOG)
def check(folder: Folder) -> Answer:
    """Name every rule that a capsule breaks; if it breaks none, show what the escrow will see, and what may go wrong.

    What may go wrong is guessed from its text: absolute paths, use of the network, outputs that nothing wrote.
    Needs no escrow.

    Example: party capsule check fraud-by-hour
    """
    from parties.capsules import checks  # noqa: PLC0415 - reading the environment needs the engine's library

    found = find(folder)
    capsule = capsule_of(found)
    warnings = checks.warnings(capsule, left_out=found.left_out, results=folder / RESULTS)
    data = {
        "digest": capsule.digest,
        "environment": capsule.environment,
        **capsule.declaration.model_dump(mode="json", by_alias=True, exclude={"capsule"}),
        "files": len(capsule.files),
        "left-out": found.left_out,
        "warnings": list(warnings),
    }
    doubts = [Section("Look at", tuple(warned(warnings)))] if warnings else []
    return Answer(data, page([*_seen(capsule), *doubts]))


def _seen(capsule: Capsule) -> list[Section]:
    declared = capsule.declaration
    what = (
        Line(capsule.digest, "capsule"),
        Line(capsule.environment, "environment"),
        Line(declared.family, "family"),
        Line(", ".join(declared.data), "reads"),
        Line(f"{declared.limits.seconds} s, {declared.limits.memory_mib} MiB of memory", "limits"),
    )
    outputs = tuple(
        Line(f"{each.kind}, at most {each.size_kib} KiB, vetting: {each.vetting}", each.path)
        for each in declared.outputs
    )
    return [Section("What the escrow will see", what), Section("What may leave", outputs)]


@app.command("digest", epilog=EPILOG)
def digest(folder: Folder) -> Answer:
    """Print the digest of code, environment and escrow.yml: what a contract names, the same on every machine.

    Other synthetic rows do not change it.

    Example: party capsule digest fraud-by-hour
    """
    capsule = capsule_in(folder)
    return Answer({"digest": capsule.digest, "environment": capsule.environment}, capsule.digest)


@app.command("run", epilog=EPILOG)
def run(
    folder: Folder,
    *,
    data: Annotated[
        str, typer.Option(metavar="synthetic|DIR", help="Its own rows, or files of a directory as if confidential.")
    ] = "synthetic",
    sealing: Annotated[
        str, typer.Option(metavar="none|container|gvisor", help="A container if there is an image, if left out.")
    ] = "",
    image: Annotated[str, typer.Option(metavar="REF", help="Its image; the one built last, if left out.")] = "",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="For its outputs; DIR/results if left out.")] = None,
) -> Answer:
    """Run a capsule exactly as the escrow will, show what it wrote, and what others would be told if it failed.

    With `--data DIR` the files of that directory stand for the confidential rows: CONFIDENTIAL is yes.
    What the capsule printed is shown, for it is your own machine; the escrow shows it to nobody.

    Example: party capsule run fraud-by-hour --data synthetic
    """
    from parties.capsules.runtimes import NO_IMAGE, runtime_for  # noqa: PLC0415 - the engine's library is slow to import

    capsule = capsule_in(folder)
    tables = None if data == "synthetic" else tables_in(Path(data), capsule)
    results = out or folder / RESULTS
    with private_root(folder) as root, runtime_for(capsule, root, sealing=_sealing(sealing), image=image) as chosen:
        tell(chosen.why)
        with progress("Running") as told:
            trial = try_out(capsule, chosen.runtime, image=chosen.image, tables=tables, out=results, told=told)
    _tell_printed(trial.log)
    shown = _trial_data(capsule, trial) | {
        "image": None if chosen.image == NO_IMAGE else chosen.image,
        "results": str(results),
    }
    return Answer(shown, page(_trial_page(capsule, trial, results)), Exit.REFUSED if trial.code else Exit.OK)


def _sealing(text: str) -> Sealing | None:
    """What `--sealing` asks for; None if it asks for nothing."""
    if not text:
        return None
    for each in get_args(Sealing):
        if each == text:
            return each  # type: ignore[no-any-return]
    raise EscrowError("usage", f"--sealing is none, container or gvisor, not {text!r}.")


def _tell_printed(log: bytes) -> None:
    lines = log.decode(errors="replace").splitlines()
    if len(lines) > LINES_SHOWN:
        tell(f"… {len(lines) - LINES_SHOWN} lines before these")
    for line in lines[-LINES_SHOWN:]:
        tell(f"| {line}")


def _trial_data(capsule: Capsule, trial: Trial) -> dict[str, Any]:
    return {
        "digest": capsule.digest,
        "sealing": trial.sealing,
        "confidential": trial.confidential,
        "seconds": round(trial.seconds, 2),
        "outputs": [
            {"path": each.path, "bytes": trial.written.get(each.path), "at-most": each.size_kib << 10}
            for each in capsule.declaration.outputs
        ],
        "missing": list(trial.missing),
        "failed": None if trial.code is None else {"code": trial.code, "place": _place(trial)},
    }


def _place(trial: Trial) -> dict[str, Any] | None:
    return trial.place.model_dump(mode="json", by_alias=True) if trial.place else None


def _trial_page(capsule: Capsule, trial: Trial, results: Path) -> Iterator[Section]:
    rows = "rows that stand for confidential ones" if trial.confidential else "its synthetic rows"
    if trial.code is None:
        yield Section("", (Line(f"It ran to its end in {trial.seconds:.1f} s on {rows}.", text_style="green"),))
        yield _written(capsule, trial, results)
        return
    missing = (f"{path} is declared and was not written." for path in trial.missing)
    yield Section("", (Line(f"It failed after {trial.seconds:.1f} s on {rows}.", text_style="red"), *warned(missing)))
    if trial.written:
        yield _written(capsule, trial, results)
    told = [Line(f"{trial.code}: {CODES[trial.code].hint}", "code")]
    if trial.place:
        at = f"{trial.place.exception} in {trial.place.file}, line {trial.place.line}"
        told.append(Line(f"{at}; only if the contract discloses error-place", "place"))
    yield Section("What the escrow would tell others, and you", tuple(told))


def _written(capsule: Capsule, trial: Trial, results: Path) -> Section:
    sizes = [(each.path, trial.written.get(each.path), each.size_kib << 10) for each in capsule.declaration.outputs]
    lines = (Line(f"{size} of at most {most} bytes", path) for path, size, most in sizes if size is not None)
    return Section(f"Written to {results}", tuple(lines))


app.command("build", epilog=EPILOG)(capsule_offer.build)
app.command("deposit", epilog=EPILOG)(capsule_offer.deposit)
app.command("contract", epilog=EPILOG)(capsule_offer.contract)
