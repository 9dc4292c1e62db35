"""The table of probes in `escrow/README.md`: `python -m tests.attacks.escapes.table --write` renews it."""

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.attacks.escapes.catalogue import THEMES

README = Path(__file__).parents[3] / "escrow" / "README.md"
BEGIN, END = "<!-- escapes:begin -->", "<!-- escapes:end -->"

BEFORE = """## What a sealed worker tried, and what came of it
Each line is a probe of `tests/attacks/escapes`: a hostile program in a real job, or a kill of what keeps
it, and a look at the host afterwards for what it left. Most attempts are also made in a container without
the sealing, where they must succeed: a probe that fails everywhere proves nothing. What harms whoever reads
outputs is tried on the escrow's and a bank's own readers, which are the same for every sealing."""

AFTER = """**Not prevented.** Whoever finds a hole in the kernel gets out of `container`; `gvisor` puts a kernel of its
own between, which may have holes too. The operator, and whoever else may command the engine, can read what
a worker reads. A declared output carries whatever the program writes into it, within its declared size: its
content, its exact size and whether it is there at all are for the release rules and the vetting. So is the
choice among the codes by which a job can end (finished, a limit, an output refused, failed). When a job
ends, and how much it loads the machine, can be seen by whoever can measure the machine; two jobs that run
at once can signal to each other by that load, and learn from caches what processors do not hide. A worker
may use all of what its limits give it, for as long as they give it."""


def table() -> str:
    """The section, from its heading to its last word."""
    return "\n".join([BEGIN, BEFORE, "", *_rows(), "", AFTER, END])


def _rows() -> Iterator[str]:
    yield "| | what it tries | what must come of it | container | gVisor |"
    yield "|--:|---|---|---|---|"
    number = 0
    for theme, probes in THEMES.items():
        yield f"| | **{theme}** | | | |"
        for probe in probes:
            number += 1
            gvisor = f"not applicable: {probe.gvisor}" if probe.gvisor else "passed"
            yield f"| {number} | {probe.tries} | {probe.must} | passed | {gvisor} |"


def renewed(text: str) -> str:
    """The README with the section as it is now; it stands at the end until it has a place."""
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n{table()}\n"
    before, _, rest = text.partition(BEGIN)
    return f"{before}{table()}{rest.partition(END)[2]}"


def main(arguments: list[str]) -> int:
    text = README.read_text(encoding="utf-8")
    if "--write" in arguments:
        README.write_text(renewed(text), encoding="utf-8")
    elif renewed(text) != text:
        print("The table of probes in escrow/README.md is not what the probes are; --write renews it.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
