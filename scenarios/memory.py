"""How much memory a process has had."""

from pathlib import Path


def peak_mib() -> float:
    """The most that this process ever held, in MiB.

    From /proc, for `getrusage` begins a process's account with what the one that started it held.
    """
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


__all__ = ["peak_mib"]
