"""Starts a program that ends when we do: `python -m models.federated.child PARENT PROGRAM [ARGUMENT...]`.

The kernel kills it when the process PARENT is gone, however that ended (`PR_SET_PDEATHSIG`, kept over exec). What the
program itself starts has to see to that in the same way; Flower's and Ray's processes do.
"""

import ctypes
import os
import signal
import sys
from typing import Final

SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Become the program; does not return."""
    parent, *command = arguments
    if ctypes.CDLL(None).prctl(SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError("this process cannot be tied to its parent")
    if os.getppid() != int(parent):
        raise SystemExit(1)  # the parent was gone before the kernel was asked
    os.execvp(command[0], command)  # noqa: S606 - a list, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
