"""What an author should know of a capsule that breaks no rule: where it may fail or say less than its author expects.

These are guesses from the text of the code; only a run tells. None of them keeps a capsule from being deposited.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from contracts.capsule import CONFIDENTIAL_CONFIG, Capsule
from contracts.errors import EscrowError
from escrow.runtime.images import dockerfile

_ABSOLUTE: Final = re.compile(r"(?<![\w.])/(?:data|results|code|confidential)\b")
_NETWORK: Final = re.compile(
    r"^\s*(?:import|from)\s+(?:aiohttp|boto3|ftplib|http|httpx|requests|smtplib|socket|urllib|urllib3|websockets)\b"
    r"|\b(?:library|require|requireNamespace)\(\s*[\"']?(?:curl|httr2?|RCurl)\b"
    r"|\bdownload\.file\(|\binstall\.packages\(|^\s*(?:curl|wget|pip3?\s+install|git\s+clone)\s"
)


def warnings(capsule: Capsule, *, left_out: Iterable[str], results: Path) -> tuple[str, ...]:
    """A sentence for each thing that an author should look at.

    Args:
        capsule: which keeps the rules.
        left_out: what lies in its directory and is no part of it.
        results: where its last run wrote, if it ran.
    """
    checks: tuple[Callable[[Capsule], Iterator[str]], ...] = (
        _environment,
        _absolute_paths,
        _network,
        _unread_configuration,
        _undeclared_rows,
        _held_outputs,
        lambda found: _unwritten(found, results),
    )
    found = [sentence for check in checks for sentence in check(capsule)]
    return (*found, *_left_out(left_out))


def _lines(capsule: Capsule, pattern: re.Pattern[str]) -> Iterator[str]:
    """The places in the code where a pattern stands outside a comment."""
    for path, content in capsule.code(confidential=True).items():
        for number, line in enumerate(content.decode().splitlines(), 1):
            if pattern.search(line.partition("#")[0]):
                yield f"{path}:{number}"


def _environment(capsule: Capsule) -> Iterator[str]:
    try:
        dockerfile.read(capsule)
    except EscrowError as error:
        yield from error.details


def _absolute_paths(capsule: Capsule) -> Iterator[str]:
    for where in _lines(capsule, _ABSOLUTE):
        yield f"{where} names an absolute path, which works in a container only; ../data and ../results work anywhere."


def _network(capsule: Capsule) -> Iterator[str]:
    for where in _lines(capsule, _NETWORK):
        yield f"{where} may use the network; a sealed run has none."


def _unread_configuration(capsule: Capsule) -> Iterator[str]:
    code = capsule.code(confidential=True)
    switching = [path for path in code if CONFIDENTIAL_CONFIG.fullmatch(path)]
    named = any(word in content for content in code.values() for word in (b"CONFIDENTIAL", b"config-confidential"))
    if switching and not named:
        yield f"{switching[0]} is there, but no code reads CONFIDENTIAL or looks for that file."


def _undeclared_rows(capsule: Capsule) -> Iterator[str]:
    for path in capsule.files.keys() - capsule.synthetic().keys():
        if path.startswith("data/"):
            yield f"{path} is not declared under `data` in escrow.yml: no run sees it."


def _held_outputs(capsule: Capsule) -> Iterator[str]:
    for output in capsule.declaration.outputs:
        if output.vetting != "none":
            yield f"{output.path} asks for {output.vetting}: all outputs are held until an escrow can vet it."


def _unwritten(capsule: Capsule, results: Path) -> Iterator[str]:
    if not results.is_dir():
        yield "It has not run here yet, so nothing tells whether it writes what it declares."
        return
    for output in capsule.declaration.outputs:
        if not (results / output.path).is_file():
            yield f"{output.path} is declared, and the last run here did not write it."


def _left_out(paths: Iterable[str]) -> Iterator[str]:
    odd = [path for path in paths if path not in {"results", ".git", ".gitignore"} and "__pycache__" not in path]
    if odd:
        yield f"Left out, since their names begin with a dot: {', '.join(odd)}."
