"""Every probe of the escape suite, and what must come of it: the tests take their parameters from here, the table too.

A probe is an attempt (many of them in one job), a deed (a job of its own), an odd output, an exit, a bomb or a kill.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

OWN_KERNEL: Final = "its own kernel has them; what they give there, the last attempt of this theme tries"


@dataclass(frozen=True)
class Probe:
    """One probe.

    Attributes:
        name: what its code is called.
        tries: what the hostile side tries, for the table.
        must: what must come of it, for the table.
        gvisor: why it is not asked of gVisor; empty if it is.
    """

    name: str
    tries: str
    must: str
    gvisor: str = ""


@dataclass(frozen=True)
class Attempt(Probe):
    """Something that a program tries among other attempts.

    Attributes:
        control: whether the same attempt gets somewhere in a container with nothing of the sealing, on any Linux.
    """

    control: bool = True


@dataclass(frozen=True)
class Deed(Probe):
    """A program that takes more than its share, alone in a job.

    Attributes:
        codes: how the job may end; None is well.
        most: what it may get, by its own count, if it ends well: a number, or the name of a limit.
        limits: of the job, where they differ from `SMALL`.
        gvisor_codes: how it may end under gVisor, where that differs.
    """

    codes: tuple[str | None, ...] = (None,)
    most: int | str = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    gvisor_codes: tuple[str | None, ...] = ()

    def ends(self, sealing: str) -> tuple[str | None, ...]:
        """How the job may end."""
        return self.gvisor_codes if sealing == "gvisor" and self.gvisor_codes else self.codes


@dataclass(frozen=True)
class OddOutput(Probe):
    """Something else than a file where an output is declared.

    Attributes:
        path: of the output.
    """

    path: str = ""


@dataclass(frozen=True)
class Kill(Probe):
    """A kill of what keeps a job.

    Attributes:
        moment: where the job stands.
    """

    moment: str = ""


SMALL: Final[Mapping[str, int]] = {
    "seconds": 60,
    "memory_mib": 128,
    "results_mib": 8,
    "scratch_mib": 4,
    "processes": 48,
    "open_files": 64,
    "cpus": 1,
}
"""Limits of a job that probes limits."""

GVISORS_OWN: Final = 129
"""Processes that gVisor is allowed for itself; a worker can use what it leaves of them."""

NETWORK: Final = (
    Attempt(
        "host-loopback-tcp", "reach a TCP port on the host's loopback interface", "refused; the listener hears nothing"
    ),
    Attempt("host-loopback-udp", "send a datagram there", "no answer; the listener hears nothing"),
    Attempt("public-addresses", "reach public and private addresses, IPv4 and IPv6", "no way to any"),
    Attempt(
        "metadata-address",
        "reach the link-local addresses where clouds hand out credentials",
        "no way to any",
        control=False,
    ),
    Attempt("broadcast", "reach broadcast and multicast addresses", "no way to any", control=False),
    Attempt("raw-sockets", "open raw and packet sockets", "refused"),
    Attempt(
        "odd-families",
        "open sockets of eleven families besides Unix and internet (netlink, vsock, XDP, …)",
        "refused",
        gvisor="it has netlink sockets of its own, behind which stands its own network, which has no interface",
    ),
    Attempt("resolve-names", "resolve public names and the host's", "no address", control=False),
    Attempt("name-servers", "learn the host's name and its name servers", "its files name neither"),
    Attempt("interfaces", "find a network interface", "none but loopback"),
    Attempt("change-network", "give an interface an address, make a tunnel", "refused"),
    Attempt("host-abstract-socket", "dial an abstract Unix socket of the host", "refused; it hears nothing"),
    Attempt("engine-socket", "dial the container engine, by its path and by climbing to it", "no such socket"),
)
WORKERS: Final = (
    Attempt("worker-tcp", "reach a TCP port of a worker of the same party that runs now", "refused; it hears nothing"),
    Attempt("worker-udp", "send a datagram to it", "no answer; it hears nothing"),
    Attempt("worker-abstract-socket", "dial its abstract Unix socket", "refused; it hears nothing"),
    Attempt("worker-path-socket", "dial its sockets in /tmp, /dev/shm and /results", "no such socket"),
    Attempt("shared-memory", "open its System V memory, message queue, and files in shared memory", "none is there"),
)
READING: Final = (
    Attempt("vault", "read a file of the vault, by its path and by climbing to it", "not found"),
    Attempt("other-inputs", "read another running job's inputs by guessing their path", "not found"),
    Attempt("other-results", "read its results where the engine keeps them", "not found", control=False),
    Attempt("environment", "find a secret of the escrow's environment, in any process in sight", "not found"),
    Attempt("host-processes", "find the escrow's processes in /proc", "not found"),
    Attempt("other-processes", "see any process but its own", "none in sight"),
    Attempt("signal-host-processes", "signal the escrow's processes", "no such process"),
    Attempt("memory-of-others", "read the escrow's memory", "refused"),
    Attempt("descriptors-of-others", "take an open file out of the escrow", "refused"),
    Attempt(
        "inherited-descriptors",
        "use a descriptor that the engine or the escrow left open",
        "there is none",
        control=False,
    ),
    Attempt(
        "search-everything",
        "search every readable file of /proc, /sys, /dev, /etc, … for a secret of the host's",
        "not found",
    ),
    Attempt(
        "machine-files", "read the kernel's memory, keys, symbols, messages and boot parameters", "masked or empty"
    ),
    Attempt("kernel-log", "read the kernel's log by system call", "refused or empty"),
    Attempt("disks", "read block devices", "none there, none can be made", control=False),
    Attempt("file-handles", "open a file by its number, past the mounts", "refused"),
)
WRITING: Final = (
    Attempt("write-root", "make files in /, /usr, /etc, /var, /home, /dev, …", "refused"),
    Attempt("write-system-files", "open /etc/passwd, /etc/hosts, … for writing", "refused"),
    Attempt("write-anywhere", "find any writable file or directory outside /results, /tmp and shared memory", "none"),
    Attempt(
        "change-inputs",
        "change content, mode, owner, times, name or attributes of inputs and of its program",
        "refused; on the host they are as they were",
    ),
    Attempt("link-inputs", "give an input a second name", "refused"),
    Attempt("own-image", "write the interpreter, its library, its own executable", "refused"),
    Attempt(
        "engines-programs",
        "write the init that the engine lends it, a file of the host",
        "refused; on the host it is as it was",
        control=False,
    ),
    Attempt(
        "kernel-settings", "open settings of the kernel for writing (core pattern, module loader, sysrq, …)", "refused"
    ),
    Attempt("control-groups", "open its own limits and the release agent for writing", "refused"),
    Attempt(
        "system-devices", "open power, debug, disk and virtual-machine devices for writing", "refused", control=False
    ),
    Attempt("mounts", "mount, remount writable, bind, unmount, by the old calls and the new", "refused"),
    Attempt("change-root", "chroot, pivot_root", "refused"),
    Attempt(
        "device-nodes", "make and open devices: memory, messages, disk, virtual machines", "refused", control=False
    ),
    Attempt("run-from-scratch", "run a set-uid file written into /tmp, /results or shared memory", "refused"),
)
PRIVILEGES: Final = (
    Attempt("capabilities", "hold any capability, in any set", "none"),
    Attempt("grow-capabilities", "ask for capabilities", "refused", control=False),
    Attempt("become-root", "become root, another group or another party's user", "refused"),
    Attempt("new-privileges", "gain by a set-uid program", "there is none, and the kernel's flag forbids it"),
    Attempt("trace", "trace its parent, its init, the escrow", "refused"),
    Attempt("namespaces", "make namespaces of its own, by unshare and clone", "refused", gvisor=OWN_KERNEL),
    Attempt("enter-namespaces", "enter another process's namespaces", "refused"),
    Attempt("kernel-modules", "load or unload kernel modules, or another kernel", "refused", control=False),
    Attempt("bpf", "make a BPF map", "refused", control=False),
    Attempt("performance-counters", "open performance counters", "refused", control=False),
    Attempt("key-rings", "use the kernel's key rings", "refused", control=False),
    Attempt("page-faults", "handle page faults (userfaultfd)", "refused", control=False),
    Attempt(
        "io-uring",
        "open an io_uring",
        "refused",
        gvisor="its own kernel has one that reaches no host call",
        control=False,
    ),
    Attempt("priority", "raise its priority: niceness, real time, deadline, disk", "refused"),
    Attempt(
        "survive-others",
        "be spared when the host runs out of memory",
        "refused",
        gvisor="the number that it may change is its own kernel's",
        control=False,
    ),
    Attempt("set-clock", "set the clock", "refused", control=False),
    Attempt("rename-machine", "rename the machine", "refused"),
    Attempt("stop-machine", "reboot, swap, accounting, hang-up", "refused", control=False),
    Attempt("raise-limits", "raise its own limits on files", "refused"),
    Attempt(
        "other-system-calls", "use the 32-bit and x32 system calls that a filter may forget", "refused", control=False
    ),
    Attempt("hardware", "open ports of devices", "refused", control=False),
    Attempt("terminal", "type into the operator's terminal", "there is none"),
    Attempt(
        "root-of-own-namespace",
        "become root in a user namespace of its own and make 14 of the other attempts again",
        "refused, or nothing got by it",
    ),
)
ATTEMPTS: Final = (*NETWORK, *WORKERS, *READING, *WRITING, *PRIVILEGES)

DOOR: Final = (
    Probe("door-again", "dial the escrow's door a second time", "nobody listens"),
    Probe("door-taken", "remove the door, or bind another socket beside it", "refused"),
)

OF_MEMORY: Final = ("limit-memory", "capsule-failed")
"""gVisor may end before the kernel has told the engine why it must."""

DEEDS: Final = (
    Deed(
        "fill_memory",
        "fill memory",
        "ended, `limit-memory`; gVisor: or `capsule-failed`",
        codes=("limit-memory",),
        gvisor_codes=OF_MEMORY,
        limits={"memory_mib": 64},
    ),
    Deed(
        "fill_memory_together",
        "fill memory with eight processes, each below the limit",
        "ended, `limit-memory`; gVisor: or `capsule-failed`",
        codes=("limit-memory",),
        gvisor_codes=OF_MEMORY,
        limits={"memory_mib": 96},
    ),
    Deed(
        "fill_memory_with_files",
        "fill memory with temporary files",
        "ended, `limit-memory`; gVisor: or `capsule-failed`",
        codes=("limit-memory",),
        gvisor_codes=OF_MEMORY,
        limits={"memory_mib": 64, "scratch_mib": 512},
    ),
    Deed("fill_scratch", "fill /tmp", "full at its limit", most="scratch_mib"),
    Deed("fill_shared_memory", "fill /dev/shm", "full at 1 MiB", most=1),
    Deed("fill_results", "fill /results with files of the greatest size", "full at its limit", most="results_mib"),
    Deed("fill_results_and_fail", "fill /results and fail", "`limit-results`", codes=("limit-results",)),
    Deed("many_files", "make a million files in /results", "full at 10,000", most=10_000),
    Deed(
        "many_temporary_files",
        "make a million files in /tmp",
        "full at 10,000; gVisor: `limit-memory`",
        most=10_000,
        gvisor_codes=(None, "limit-memory"),
    ),
    Deed("many_links", "make a million names for one file", "full at 10,000", most=10_000),
    Deed("sparse_file", "make a file of a tebibyte that takes no room", "refused", most=0),
    Deed(
        "fork_bomb",
        "fork without end",
        "refused at its limit; gVisor: the sandbox ends",
        most="processes",
        gvisor_codes=(None, "limit-memory", "capsule-failed"),
    ),
    Deed(
        "thread_bomb",
        "start threads without end",
        "refused at its limit; gVisor: the sandbox ends",
        most="processes",
        gvisor_codes=(None, "limit-memory", "capsule-failed"),
    ),
    Deed("open_files", "open files without end", "refused at its limit", most="open_files"),
    Deed(
        "files_in_flight",
        "keep files open in messages that nobody reads",
        "refused, or full within its memory",
        most=1 << 24,
    ),
    Deed("flood_log", "print 64 MiB without a line end", "at most 4 MiB are kept; it is never kept waiting", most=64),
    Deed("flood_progress", "print 200,000 lines of progress", "none is passed on", most=200_000),
    Deed("take_processors", "compute with four processes", "together no more than its processors", limits={"cpus": 1}),
    Deed(
        "ignore_all_signals",
        "ignore every signal and compute for ever",
        "killed, `limit-time`",
        codes=("limit-time",),
        limits={"seconds": 4},
    ),
    Deed(
        "stop_itself",
        "stop, so that it never ends",
        "killed, `limit-time`",
        codes=("limit-time",),
        limits={"seconds": 4},
    ),
    Deed("outlive", "leave a daemon behind that holds the output open", "it ends with the job"),
    Deed("outlive_and_write", "let a daemon change the output after the program's end", "it ends with the job"),
    Deed(
        "end_init", "kill its init and all it can signal", "the job ends, `capsule-failed`", codes=("capsule-failed",)
    ),
)

ODD_OUTPUTS: Final = (
    OddOutput("absolute link", "an absolute link to an input", "refused", path="absolute-link"),
    OddOutput("relative link", "a relative link that leaves /results", "refused", path="relative-link"),
    OddOutput("dangling link", "a link to nothing", "refused", path="dangling-link"),
    OddOutput("process link", "a link into /proc/self", "refused", path="process-link"),
    OddOutput("climbing link", "a link through /proc/1/root", "refused", path="climbing-link"),
    OddOutput("linked folder", "a file below a linked directory", "refused", path="linked-folder/file"),
    OddOutput("linked inputs", "a file below a link to the inputs", "refused", path="linked-inputs/rows.csv"),
    OddOutput("link below", "a link below a real directory", "refused", path="inside/folder/file"),
    OddOutput("first name", "a file with a second name", "refused", path="first-name"),
    OddOutput("second name", "the second name", "refused", path="second-name"),
    OddOutput("linked input", "a hard link to an input", "cannot be made, not collected", path="linked-input"),
    OddOutput("pipe", "a FIFO", "refused; gVisor: never leaves the sandbox", path="pipe"),
    OddOutput("socket", "a socket", "refused; gVisor: never leaves the sandbox", path="socket"),
    OddOutput("device", "a device, or a link to one", "refused", path="device"),
    OddOutput("whiteout", "the one device that anybody may make (0:0)", "refused", path="whiteout"),
    OddOutput("folder", "a directory", "refused", path="folder"),
)
AMID: Final = (
    Probe("undeclared files", "leave files under other names: secrets, look-alikes, 255 bytes long", "never leave"),
    Probe(
        "odd names",
        "name files with newlines, control characters, bytes that are no text, `*`, `-rf`",
        "never leave, disturb nothing",
    ),
    Probe("deep directories", "nest 1,500 directories", "disturb nothing, are removed"),
    Probe("closed directories", "close directories and outputs with mode 000", "outputs are collected, all is removed"),
    Probe(
        "archive in an output",
        "an output that is itself an archive with members called `../../…`",
        "collected as bytes, nothing unpacked",
    ),
    Probe("marks on a file", "set-uid bits, attributes, nanoseconds, dates 300 years off", "mode 0600, one fixed time"),
)
SPARSE: Final = Probe(
    "sparse files",
    "3,000 files of 4 MiB that take no room (12 GiB to read)",
    "`limit-results`, read no further than its room",
)
ENDINGS: Final = (
    Probe("exit_with_row", "tell a number by exit status 17", "the same code as any failure"),
    Probe("exit_with_label", "tell a number by exit status 1", "the same code as any failure"),
    Probe("die_of_signal", "tell a number by a signal", "the same code as any failure"),
    Probe("crash", "tell something by a crash of the interpreter", "the same code as any failure, no core dump"),
    Probe(
        "explain_at_length",
        "tell rows in an exception and an invented code",
        "the same code as any failure; the words stay in the log",
    ),
    Probe("explain_by_link", "tell an input by a link called failure.json", "the same code as any failure"),
)
ORDER: Final = Probe(
    "order and times", "tell something by the order and the times of its outputs", "the same listing whatever it does"
)
BOMBS: Final = (
    Probe("deep JSON", "evidence nested 100,000 deep", "refused, within 64 MiB"),
    Probe("large JSON", "evidence of 40 MiB", "refused, within 64 MiB besides its own bytes"),
    Probe("long number", "evidence with a number of four million digits", "refused, within 64 MiB"),
    Probe("many keys", "evidence with a million members", "refused, within 512 MiB"),
    Probe("two readings", "evidence with a key that stands twice", "refused"),
    Probe("not a number", "evidence that measured NaN", "refused"),
    Probe("outer file", "a model that names a file of the machine as its weights", "refused before a runtime sees it"),
    Probe("loop", "a model with a loop without end", "refused before a runtime sees it"),
    Probe("endless tensor", "a model with a tensor of 2^60 numbers", "refused, within 64 MiB"),
    Probe("large model", "a model of 65 MiB", "refused, read no further than its limit"),
    Probe("packed twice", "a packed bundle that unfolds to more than it may", "refused, within 64 MiB"),
)
LOST: Final = "a failure with a code, never an empty success; nothing left"
ESCROW_KILLS: Final = tuple(
    Kill(
        f"escrow {moment}",
        f"kill the escrow, {job}",
        "the engine is cleared without it; the run goes on",
        moment=moment,
    )
    for moment, job in (
        ("prepared", "when a job is prepared"),
        ("started", "when it has just been started"),
        ("running", "in mid-run"),
        ("finished", "when it has finished"),
        ("collecting", "while its output is read"),
    )
)
CONTAINER_KILLS: Final = (
    Probe("worker killed", "kill the worker's container from outside", LOST),
    Probe("worker removed", "remove the worker's container from outside", LOST),
    Probe("keeper killed", "kill the container that keeps the results", LOST),
    Probe("keeper removed", "remove the container that keeps the results", LOST),
    Probe(
        "worker paused",
        "pause the worker's container for ever",
        LOST,
        gvisor="the engine cannot remove a paused container of gVisor without leaving a process of its own",
    ),
)
ENGINE_KILLS: Final = tuple(
    Kill(f"engine {moment}", f"kill the engine, {job}", f"{must}; nothing left when it is back", moment=moment)
    for moment, job, must in (
        ("prepared", "when a job is prepared", "`engine-missing`, and the run goes on later"),
        ("running", "in mid-run", "the job has failed, `engine-missing`"),
        ("finished", "when it has finished", "its outputs are there all the same"),
    )
)

THEMES: Final[Mapping[str, tuple[Probe, ...]]] = {
    "Reach anything": NETWORK,
    "Talk to another worker": (*WORKERS, *DOOR),
    "Read what belongs to others": READING,
    "Write outside /results": WRITING,
    "Become more": PRIVILEGES,
    "Take more than its share": DEEDS,
    "Leave an output that is none": ODD_OUTPUTS,
    "Leave more than outputs": (*AMID, SPARSE),
    "Tell more than outputs may": (*ENDINGS, ORDER),
    "Harm whoever reads the outputs": BOMBS,
    "Kill what keeps it": (*ESCROW_KILLS, *CONTAINER_KILLS, *ENGINE_KILLS),
}

PROBES: Final = tuple(chain.from_iterable(THEMES.values()))


def asked(probe: Probe, sealing: str) -> bool:
    """Whether the probe is asked of that sealing."""
    return sealing == "container" or not probe.gvisor
