"""Generates the Python of `escrow.proto`, or checks that what is committed is what the compiler makes of it now.

`python -m contracts.protocol.generate` writes; with `--check` it only compares, and ends with 1 where they differ.
"""

import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
PROTO: Final = "contracts/protocol/escrow.proto"


def generated() -> Mapping[str, bytes]:
    """What the compiler makes of the protocol, by file name."""
    from grpc_tools import protoc  # noqa: PLC0415 - only authors of the protocol need the compiler

    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "grpc_python", "pyi")]
        include = [f"-I{HERE.parent.parent}", f"-I{files('grpc_tools') / '_proto'}"]
        if protoc.main(["protoc", *include, *outputs, PROTO]):
            raise SystemExit("the protocol does not compile")
        return {path.name: path.read_bytes() for path in Path(folder, "contracts/protocol").iterdir()}


def main(argv: list[str]) -> int:
    """Write or check; the exit code."""
    stale = [name for name, content in generated().items() if not _same(HERE / name, content)]
    if "--check" in argv:
        for name in stale:
            sys.stderr.write(f"{name} is not what the compiler makes of escrow.proto: run `make protocol`.\n")
        return 1 if stale else 0
    for name, content in generated().items():
        (HERE / name).write_bytes(content)
    return 0


def _same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
