"""What a sealed worker gets, as the engine's API reads it: pure data, no engine. Rules:

1. No network; a root that is read-only; no capabilities and no way to new privileges; `escrow.runtime.syscalls`; an
   init; nothing of the host's processes, users, keys or names.
2. A user of its own for each party, and for each job of no party, in a range in which no host account lies.
3. Limits on memory with no swap, processors, processes, open files, core dumps, temporary files and results; the last
   two are kept by the kernel's own file systems in memory.
4. It reads what the escrow laid into memory, and writes `/tmp` and `/results`. Nothing of it reaches a disk: no log, no
   volume that an image asks for, no file of its root.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contracts.terms import Digest
from escrow.runtime import doors, syscalls
from escrow.runtime.children import environment
from escrow.runtime.job import MIB, Job
from escrow.runtime.supervisor import NO_CORE

RUNTIME: Final = "org.model-escrow.runtime"
"""Label of all that one runtime made in the engine: a digest of its directory."""
LIFE: Final = "org.model-escrow.life"
"""Label: random for each object of a runtime. Its guard clears away what has it, and nothing that a next one made."""
JOB: Final = "org.model-escrow.job"
"""Label: the job's id, which names contract, run, stage and party."""

LIMITED: Final = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "processors"}
"""What an engine must be able to limit: its own name for that → ours."""

RESULTS: Final = "/results"
FILES_AT_MOST: Final = 10_000
GVISOR: Final = "runsc"
"""The engine's name for gVisor."""
_STARTING: Final = 32  # threads that what starts a container needs for a moment, and so the least limit
_GVISOR_THREADS: Final = 128  # of its own, without which it does not start; a worker can use what is left of them
_KEEPER: Final = ("python3", "-I", "-S", "-c", "import signal; signal.pause()")
_KEEPER_MIB: Final = 64
_SHARED_MEMORY_MIB: Final = 1  # for semaphores
_FIRST_USER: Final = 0x70000000  # above what systemd gives to containers, below what programs read as negative
_USERS: Final = 0x10000000

_PROC: Final = """
acpi asound buddyinfo bus cmdline config.gz consoles crypto devices diskstats dma driver execdomains fb fs interrupts
iomem ioports irq kallsyms kcore key-users keys kmsg kpagecgroup kpagecount kpageflags latency_stats loadavg locks misc
modules mtrr pagetypeinfo partitions pressure sched_debug schedstat scsi slabinfo softirqs stat swaps sysrq-trigger
sysvipc timer_list timer_stats tty vmallocinfo vmstat zoneinfo
"""
_SYS: Final = "block bus class dev devices/virtual firmware fs hypervisor kernel module power"
_MASKED: Final = [*(f"/proc/{name}" for name in _PROC.split()), *(f"/sys/{name}" for name in _SYS.split())]
"""Files that tell of the machine, and so of other jobs, and that no library here needs.

What the processors are stays, and so does what cannot be masked: how loaded the machine and how full its memory is
(sysinfo(2), and how long things take), and whether a page of the image is in the machine's cache.
"""


def unlimited(info: Mapping[str, object]) -> list[str]:
    """What an engine, by what it tells of itself, would let a worker use without a limit."""
    return [words for name, words in LIMITED.items() if not info.get(name)]


@dataclass(frozen=True)
class Names:
    """What one job's things are called in the engine; `life` matters to what is made, not to what is found."""

    runtime: str
    job: str
    life: str = ""

    @property
    def keeper(self) -> str:
        """The container that holds the volume of results."""
        return f"escrow-{self.runtime}-{self.job}-keeper"

    @property
    def worker(self) -> str:
        """The container that runs the job."""
        return f"escrow-{self.runtime}-{self.job}"

    @property
    def volume(self) -> str:
        """The volume of results."""
        return f"escrow-{self.runtime}-{self.job}-results"

    @property
    def labels(self) -> dict[str, str]:
        """Labels of all three."""
        return {RUNTIME: self.runtime, LIFE: self.life, JOB: self.job}


def user_of(job: Job) -> int:
    """The numeric user and group of a job's worker: its party's, or the job's own."""
    name = f"job {job.id}" if job.party is None else f"party {job.party}"
    return _user(name)


def _user(name: str) -> int:
    return _FIRST_USER + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % _USERS


def keeper(job: Job, names: Names, *, image: Digest) -> dict[str, object]:
    """The container that keeps the job's results in memory until they are read: it does nothing and may do nothing."""
    host = {
        **_host(memory_mib=_KEEPER_MIB, processes=_STARTING, open_files=64, results_mib=1),
        "Mounts": [_results(job, names, read_only=True)],
        "IpcMode": "none",
    }
    return {**_container(names, image, _user("keeper"), _KEEPER), "WorkingDir": "/", "HostConfig": host}


def worker(
    job: Job, names: Names, *, top: Path, image: Digest, command: Sequence[str], runtime: str, cpus: int
) -> dict[str, object]:
    """The container that runs the job.

    Args:
        job: what runs.
        names: what it is called.
        top: directory of what it is given, on the host.
        image: of the escrow's own worker.
        command: the escrow's own worker, to which the directories of job and results are added.
        runtime: what the engine starts it with.
        cpus: processors of the machine.
    """
    limits = job.limits
    host = {
        **_host(
            memory_mib=limits.memory_mib,
            processes=max(_STARTING, limits.processes + 1)
            + (_GVISOR_THREADS if runtime == GVISOR else 0),  # 1: the init
            open_files=limits.open_files,
            results_mib=limits.results_mib,
        ),
        "Runtime": runtime,
        "Init": True,
        "NanoCpus": min(limits.cpus, cpus) * 10**9,
        "ShmSize": _SHARED_MEMORY_MIB * MIB,
        "IpcMode": "private",
        "OomScoreAdj": 1000,  # if the machine runs out of memory, this goes first
        "Tmpfs": {
            "/tmp": f"rw,noexec,nosuid,nodev,mode=1777,size={limits.scratch_mib}m,nr_inodes={FILES_AT_MOST}"  # noqa: S108 - its own
        },
        "Mounts": [_results(job, names, read_only=False), *_inputs(job, top)],
    }
    if job.program is None:
        line, place = (*command, "/job", RESULTS), "/job"
    else:
        image, (first, *rest) = job.program.image, job.program.command
        line, place = (f"/{first}", *rest), f"/{first.rpartition('/')[0]}"
    environ = [f"{name}={value}" for name, value in environment(job, "/tmp").items()]  # noqa: S108 - its own
    about = _container(names, image, user_of(job), line)
    return {**about, "Env": environ, "WorkingDir": place, "HostConfig": host}


def _container(names: Names, image: Digest, user: int, command: Sequence[str]) -> dict[str, object]:
    return {
        "Image": image,
        "User": f"{user}:{user}",
        "Entrypoint": list(command),
        "Cmd": [],
        "Hostname": "worker",
        "Labels": names.labels,
        "Healthcheck": {"Test": ["NONE"]},
        "Tty": False,
        "OpenStdin": False,
    }


def _host(*, memory_mib: int, processes: int, open_files: int, results_mib: int) -> dict[str, object]:
    bounds = {"core": NO_CORE, "msgqueue": 0, "nofile": open_files, "fsize": results_mib * MIB}
    return {
        "NetworkMode": "none",
        "Dns": ["127.0.0.1"],  # else the host's resolvers stand in its files
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={syscalls.profile()}"],
        "MaskedPaths": _MASKED,
        "CgroupnsMode": "private",
        "Memory": memory_mib * MIB,
        "MemorySwap": memory_mib * MIB,
        "MemorySwappiness": 0,
        "PidsLimit": processes,
        "Ulimits": [{"Name": name, "Soft": most, "Hard": most} for name, most in bounds.items()],
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
    }


def _results(job: Job, names: Names, *, read_only: bool) -> dict[str, object]:
    user = user_of(job)
    options = f"size={job.limits.results_mib}m,nr_inodes={FILES_AT_MOST},mode=0700,uid={user},gid={user}"
    return {
        "Type": "volume",
        "Source": names.volume,
        "Target": RESULTS,
        "ReadOnly": read_only,
        "VolumeOptions": {
            "NoCopy": True,
            "Labels": names.labels,
            "DriverConfig": {
                "Name": "local",
                "Options": {"type": "tmpfs", "device": "tmpfs", "o": f"{options},noexec,nosuid,nodev"},
            },
        },
    }


def _inputs(job: Job, top: Path) -> list[dict[str, object]]:
    if job.program is None:
        return [_given(top, "/job")]
    names = sorted({path.partition("/")[0] for path in job.inputs} | ({doors.FOLDER} if job.door else set()))
    own = [_given(top / name, f"/{name}") for name in names]
    return [*own, *(_given(top / name, target) for name, target in sorted(job.program.mounts.items()))]


def _given(source: Path, target: str) -> dict[str, object]:
    return {
        "Type": "bind",
        "Source": str(source),
        "Target": target,
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate"},
    }
