"""What a sealed worker may ask of the kernel: a filter for seccomp that lists what is allowed, and nothing else is.

It is the same on every engine, and narrower than the engines' own filters. gVisor does not read it unless it is told to
(`--oci-seccomp`): what a worker asks there goes to gVisor's own kernel. Rules:

1. Sockets are Unix or internet ones: a container without a network has nothing to reach by those. Other families are
   not behind its network namespace: by AF_VSOCK a process talks to the machine that runs a virtual machine, which some
   engines' filters allow.
2. Only the processor's own 64-bit calls: the 32-bit ones bundle several calls, and arguments cannot be told apart.
3. No new namespaces, mounts, keyrings, tracing, foreign memory, kernel modules, BPF, performance counters, io_uring,
   System V or POSIX message queues, handles of files, or changes of user or scheduling class; nothing that tells which
   pages of a file are in the machine's cache (what a read takes still tells it).

The names are those of the Linux manual (man 2 syscalls); one that a kernel does not know is ignored.
"""

import json
from typing import Final

_FILES: Final = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr
fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch ioctl lchown lgetxattr link linkat listxattr llistxattr lremovexattr lseek lsetxattr
lstat memfd_create mkdir mkdirat mknod mknodat newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile
setxattr splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat
utime utimensat utimes vmsplice write writev
"""
_MEMORY: Final = """
brk madvise membarrier mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall munmap pkey_alloc
pkey_free pkey_mprotect
"""
_PROCESSES: Final = """
arch_prctl capget capset execve execveat exit exit_group fork get_robust_list getcpu getegid geteuid getgid getgroups
getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get kill
pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_setaffinity sched_yield set_robust_list set_tid_address setpgid setpriority setrlimit setsid sigaltstack signalfd
signalfd4 tgkill tkill vfork wait4 waitid
"""
_TIME: Final = """
alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create
timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times
"""
_WAITING: Final = """
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 futex futex_requeue
futex_wait futex_waitv futex_wake poll ppoll pselect6 select
"""
_SOCKETS: Final = """
accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto
setsockopt shutdown
"""
_MACHINE: Final = "getrandom sysinfo uname"

_FAMILIES: Final = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_PERSONALITIES: Final = (0, 0xFFFFFFFF)  # Linux as it is; tell which
_NAMESPACES: Final = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_ENOSYS: Final = 38


def _allow(names: str, *conditions: dict[str, object]) -> dict[str, object]:
    return {"names": names.split(), "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, **each} for each in conditions]}


def profile() -> str:
    """The filter as engines read it: JSON in the form of Docker's profiles."""
    every = f"{_FILES} {_MEMORY} {_PROCESSES} {_TIME} {_WAITING} {_SOCKETS} {_MACHINE}"
    rules = [
        _allow(every),
        *(_allow("socket socketpair", {"op": "SCMP_CMP_EQ", "value": family}) for family in _FAMILIES),
        *(_allow("personality", {"op": "SCMP_CMP_EQ", "value": value}) for value in _PERSONALITIES),
        _allow("clone", {"op": "SCMP_CMP_MASKED_EQ", "value": _NAMESPACES, "valueTwo": 0}),
        # its flags lie in memory, where no filter can read them; libraries fall back to clone
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
    ]
    architectures = [{"architecture": f"SCMP_ARCH_{name}", "subArchitectures": []} for name in ("X86_64", "AARCH64")]
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "archMap": architectures, "syscalls": rules})
