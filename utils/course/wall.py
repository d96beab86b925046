"""The wall around a student's code: on Linux a process shuts itself in for good, by the kernel's own means.

Three layers, none of which needs a package or rights of an administrator:

- namespaces: a file system of its own that holds nothing but what is listed, its folder in memory and of limited size;
  no network, no other processes. Some systems allow no one but root to make them (Ubuntu 24.04, most containers).
- Landlock (Linux 5.13): no file can be opened but those listed.
- seccomp: system calls that are not on a list are refused, among them those that start programs or processes, open
  sockets, send signals to others, and change the owner, mode or times of files.

seccomp and one of the other two make a wall. Limits of memory, processor time and size of files come on top. Nothing
here imports more than the standard library, because the wall must stand before anything else is loaded.
"""

import contextlib
import ctypes
import errno
import os
import platform
import signal
import struct
import sysconfig
from pathlib import Path

with contextlib.suppress(ImportError):  # Windows has none, and no wall
    import resource

SIZE = 64 * 2**20  # bytes of a file, and with namespaces of all files together
SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/fonts",
          "/etc/localtime", "/etc/mime.types", "/etc/alternatives", "/dev/null", "/dev/zero", "/dev/urandom",
          "/dev/random", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu",
          "/sys/devices/system/node")

CLONE = {"fs": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
         "net": 0x40000000}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
AT_FDCWD, AT_RECURSIVE, MNT_DETACH, O_PATH = -100, 0x8000, 2, 0o10000000
LANDLOCK_READ, LANDLOCK_WRITE = 0b1100, 0b10  # READ_FILE, READ_DIR; WRITE_FILE
LANDLOCK_FILE = 0b1100000000000111  # the rights that a file can have: execute, write, read, truncate, ioctl
LANDLOCK_OWN = 0b110_0101_1011_1110  # of the folder: all but execute, devices, sockets, ioctl
# System calls as (x86_64, aarch64); None where one has no such call.
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
PIVOT_ROOT, SECCOMP, CAPSET = (155, 41), (317, 277), (126, 91)
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT, MOUNT_SETATTR = 444, 445, 446, 442
ALLOWED = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "poll": (7, None), "ppoll": (271, 73),
    "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread64": (17, 67),
    "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "preadv": (295, 69), "pwritev": (296, 70),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "pipe": (22, None), "pipe2": (293, 59),
    "select": (23, None), "pselect6": (270, 72), "sched_yield": (24, 124), "mremap": (25, 216), "msync": (26, 227),
    "mincore": (27, 232), "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "getitimer": (36, 102), "setitimer": (38, 103),
    "alarm": (37, None), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "sendfile": (40, 71),
    "shutdown": (48, 210), "getsockopt": (55, 209), "recvfrom": (45, 207), "exit": (60, 93), "exit_group": (231, 94),
    "uname": (63, 160), "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46),
    "getdents": (78, None), "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "creat": (85, None), "unlink": (87, None), "unlinkat": (263, 35), "readlink": (89, None),
    "readlinkat": (267, 78), "symlink": (88, None), "symlinkat": (266, 36), "openat": (257, 56), "umask": (95, 166),
    "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177),
    "getpgrp": (111, None),
    "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150), "sigaltstack": (131, 132),
    "statfs": (137, 43), "fstatfs": (138, 44), "arch_prctl": (158, None), "futex": (202, 98),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "set_tid_address": (218, 96),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "epoll_create": (213, None), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22), "eventfd2": (290, 19),
    "set_robust_list": (273, 99), "getcpu": (309, 168), "getrandom": (318, 278), "membarrier": (324, 283),
    "rseq": (334, 293), "restart_syscall": (219, 128), "copy_file_range": (326, 285), "close_range": (436, 436),
    "time": (201, None), "fadvise64": (221, 223), "readahead": (187, 213)}
LISTED = {  # allowed where these arguments, under a mask, have one of these values: {argument: (mask, values)}
    "clone": ((56, 220), {0: (0x10000, [0x10000])}),  # threads, no processes
    "fcntl": ((72, 25), {1: (~0, [0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032])}),  # no signals to whoever is named
    "ioctl": ((16, 29), {1: (~0, [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451])}),  # is it a terminal, what waits
    "prctl": ((157, 167), {0: (~0, [15, 16, 0x53564D41])}),  # names of threads
    "prlimit64": ((302, 261), {0: (~0, [0])}),  # its own limits
    "socketpair": ((53, 199), {0: (~0, [1]), 1: (0xF, [1])}),  # two ends of a stream, both its own
    "sendto": ((44, 206), {4: (~0, [0])}),  # to the other end alone
    "kill": ((62, 129), {0: (~0, "own")}), "tgkill": ((234, 131), {0: (~0, "own")})}  # to itself
# Modes and times of files, which Landlock leaves to whoever owns them: such a call does nothing and says that all is
# well, because copying a file needs it.
IGNORED = {"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
           "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88)}
MISSING = (435, 435)  # clone3, whose flags cannot be seen: the C library then takes clone

libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None


def call(name: str, *arguments) -> int:
    """Calls a function of the C library. Raises OSError."""
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = getattr(libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def architecture() -> int:
    """The column of the tables above. Raises OSError on another processor."""
    if platform.machine() not in ARCHITECTURES or struct.calcsize("P") != 8:
        raise OSError(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    return ARCHITECTURES[platform.machine()][1]


def readable(*more) -> list[str]:
    """What a student's code may read: Python, its packages, the system's libraries, `more`; links also by their aim."""
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    libraries = [sysconfig.get_config_var("LIBDIR"), str(Path(sysconfig.get_path("stdlib")).parent)]
    libraries += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    paths = [str(p) for p in (*SYSTEM, *python, *libraries, *more) if p and os.path.exists(p)]
    return list(dict.fromkeys(path for p in paths for path in (os.path.abspath(p), os.path.realpath(p))))


def enter(read: list[str], folder: str, *, memory: int, cpu: int, without: tuple[str, ...] = ()) -> list[str]:
    """Shuts this process, which has one thread, in: from here on it reads `read` and writes `folder` alone.

    Returns the layers that stand. With namespaces the caller goes on in a new process, whose end is its own. Raises
    OSError where no wall can be had. `without` names layers to leave out, to try the others.
    """
    architecture()
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    layers = [name for name, layer in (("namespaces", namespaces), ("Landlock", landlock))
              if name not in without and stands(layer, read, folder)]
    if not layers:
        raise OSError(errno.ENOSYS, "neither namespaces nor Landlock can be had")
    limit(memory, cpu)
    call("syscall", CAPSET[architecture()], struct.pack("II", 0x20080522, 0), bytes(24))
    if "seccomp" not in without:
        seccomp()
    return [*layers, "seccomp"]


def stands(layer, read, folder) -> bool:
    """Puts a layer up; False where the kernel does not allow it."""
    try:
        layer(read, folder)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSPC, errno.EACCES):
            return False
        raise
    return True


def limit(memory: int, cpu: int) -> None:
    """Limits of the kernel: address space, processor seconds, size of a file, open files, no memory dumps."""
    for name, most in (("AS", memory), ("CPU", cpu), ("FSIZE", SIZE), ("NOFILE", 256), ("CORE", 0), ("MEMLOCK", 0),
                       ("MSGQUEUE", 0)):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


# Namespaces


def namespaces(read: list[str], folder: str) -> None:
    """A file system with `read` alone, a folder in memory, no network; goes on as the one process in sight."""
    uid, gid, root = os.getuid(), os.getgid(), f"{os.path.dirname(folder)}/root"
    trial = os.fork()  # what fails half-way leaves nothing behind, if it is a child that fails
    if not trial:
        with contextlib.suppress(BaseException):
            separate(uid, gid)
            if not os.fork():
                build(root, read, folder)
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.wait()[1]) & 0xFF)
        os._exit(1)
    if os.waitpid(trial, 0)[1]:
        raise OSError(errno.EPERM, "no namespaces")
    separate(uid, gid)
    child = os.fork()
    if child:  # waits for its child's end, and holds none of the ends of its pipes
        for descriptor in (0, 1):
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(code if code >= 0 else 1)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    build(root, read, folder)


def separate(uid: int, gid: int) -> None:
    """Leaves the system's namespaces. The next child is the first process of its own."""
    call("unshare", sum(CLONE.values()))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)


def build(root: str, read: list[str], folder: str) -> None:
    """Makes a new root at the empty folder `root` and moves into it."""
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    mount("tmpfs", root, "size=1m,mode=755")
    os.mkdir(f"{root}/proc")
    with contextlib.suppress(OSError):  # in a container it cannot be had anew: its files below are then the system's
        mount("proc", f"{root}/proc", None, MS_RDONLY | MS_NOEXEC)
    for path in sorted(read):
        target = root + path
        if os.path.lexists(target):  # below one that is there already
            continue
        if os.path.islink(path):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.readlink(path), target)
            continue
        os.makedirs(target if os.path.isdir(path) else os.path.dirname(target), exist_ok=True)
        if not os.path.isdir(path):
            os.close(os.open(target, os.O_CREAT))
        call("mount", path.encode(), target.encode(), None, MS_BIND | MS_REC, None)
        read_only(target, AT_RECURSIVE)
    os.makedirs(root + folder)
    mount("tmpfs", root + folder, f"size={SIZE},nr_inodes=4096,mode=700")
    read_only(root)
    os.chdir(root)
    call("syscall", PIVOT_ROOT[architecture()], b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir(folder)


def mount(kind: str, target: str, options: str | None, flags: int = 0) -> None:
    call("mount", kind.encode(), target.encode(), kind.encode(), flags | MS_NOSUID | MS_NODEV,
         options and options.encode())


def read_only(path: str, flags: int = 0) -> None:
    """Mounts that are there already become read-only, without programs of another user's rights."""
    attributes = struct.pack("4Q", MS_RDONLY | MS_NOSUID, 0, 0, 0)
    call("syscall", MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, attributes, len(attributes))


# Landlock


def landlock(read: list[str], folder: str) -> None:
    """No file is opened but those below `read`, and those below `folder` for writing, too."""
    version = call("syscall", LANDLOCK_CREATE, None, 0, 1)
    known = (1 << {1: 13, 2: 14}.get(version, 15 if version < 5 else 16)) - 1  # rights of files
    attributes = struct.pack("3Q", known, 3, 3)  # TCP: bind, connect; abstract sockets and signals
    rules = call("syscall", LANDLOCK_CREATE, attributes, 8 if version < 4 else 16 if version < 6 else 24, 0)
    allowed = {**dict.fromkeys([*read, "/proc/self"], LANDLOCK_READ), "/dev/null": LANDLOCK_READ | LANDLOCK_WRITE}
    for path, rights in {**allowed, folder: LANDLOCK_OWN}.items():
        if not os.path.exists(path):
            continue
        rights &= known if os.path.isdir(path) else known & LANDLOCK_FILE
        place = os.open(path, O_PATH | os.O_CLOEXEC)
        call("syscall", LANDLOCK_ADD, rules, 1, struct.pack("=Qi", rights, place), 0)
        os.close(place)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("syscall", LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


# seccomp


def program() -> bytes:
    """The filter, in the instructions of classic BPF (linux/filter.h): a list of system calls and their arguments."""
    audit, column = ARCHITECTURES[platform.machine()]
    load, equal, both, end = 0x20, 0x15, 0x54, 0x06  # load a word, jump if equal, and, return
    allow, kill, ignore = 0x7FFF0000, 0x80000000, 0x50000
    refuse, missing = ignore | errno.EPERM, ignore | errno.ENOSYS
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (end, 0, 0, kill), (load, 0, 0, 0)]
    for calls, action in ((ALLOWED, allow), (IGNORED, ignore), ({"clone3": MISSING}, missing)):
        for numbers in calls.values():
            if numbers[column] is not None:
                code += [(equal, 0, 1, numbers[column]), (end, 0, 0, action)]
    for numbers, conditions in LISTED.values():
        test = []
        for argument, (mask, values) in conditions.items():
            values = [os.getpid()] if values == "own" else values
            words = [(16 + 8 * argument, mask, values)]
            if argument == 4:  # an address, of which both halves are 0
                words.append((20 + 8 * argument, mask, values))
            for place, bits, wanted in words:
                test += [(load, 0, 0, place), (both, 0, 0, bits & 0xFFFFFFFF)]
                test += [(equal, len(wanted) - i, 0, value) for i, value in enumerate(wanted)]
                test += [(end, 0, 0, refuse)]
        test += [(end, 0, 0, allow)]
        code += [(equal, 0, len(test), numbers[column]), *test]
    code += [(end, 0, 0, refuse)]
    return b"".join(struct.pack("HBBI", *line) for line in code)


def seccomp() -> None:
    """From here on, for every thread, only the system calls of the lists."""
    text = ctypes.create_string_buffer(lines := program())
    head = struct.pack("HxxxxxxQ", len(lines) // 8, ctypes.addressof(text))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("syscall", SECCOMP[architecture()], 1, 1, head)  # SECCOMP_SET_MODE_FILTER, with all threads


def holes(hidden: list[str]) -> list[str]:
    """What this process can read or do though it should not: nothing, where the wall stands."""
    import socket

    tries = {"start a process": lambda: os.fork() or os._exit(0), "open a socket": socket.socket,
             "send signals": lambda: os.kill(os.getppid(), 0), "write elsewhere": lambda: os.mkdir("../elsewhere"),
             **{f"read {path}": lambda path=path: os.open(path, os.O_RDONLY) for path in hidden}}
    seen = []
    for name, attempt in tries.items():
        with contextlib.suppress(OSError):
            attempt()
            seen.append(name)
    return seen
