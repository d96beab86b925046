"""The wall: each attack works without it, which shows that it is one, and fails behind it, whatever layers it has."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from utils.course import sandbox, wall
from utils.course.sandbox import Ended, Session

ROOT = Path(__file__).resolve().parent.parent
LAYERS = {"namespaces and Landlock": (), "Landlock alone": ("namespaces",), "namespaces alone": ("Landlock",)}
linux = pytest.mark.skipif(sys.platform != "linux", reason="the wall is Linux's")

# Each leaves in `gained` what it gained. VICTIM is a file elsewhere, LAB a lab with its solutions.
PREPARE = """
import ctypes, os, signal, socket, subprocess, sys, threading
gained = None
VICTIM, LAB, libc = {victim!r}, {lab!r}, ctypes.CDLL(None, use_errno=True)
"""
READS = {
    "solutions": "gained = open(LAB).read()",
    "a subclass of str": "class Path(str):\n    def startswith(self, *_):\n        return True\n"
                         "gained = open(Path(LAB)).read()",
    "a descriptor of a folder": "top = os.open('/', os.O_RDONLY | os.O_DIRECTORY)\n"
                                "gained = os.read(os.open(LAB[1:], os.O_RDONLY, dir_fd=top), 9)",
    "a native reader": "place = libc.open(LAB.encode(), 0)\ngained = os.read(place, 9) if place >= 0 else None",
    "a link": "os.symlink(LAB, 'link')\ngained = open('link').read()",
    "a list of folders": "gained = [n for n in os.listdir(os.path.dirname(LAB)) if n.endswith('ipynb')]",
    "history": "gained = open(os.path.join(os.path.dirname(LAB), '..', 'pyproject.toml')).read()",
    "the parent's environment": "gained = open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "other processes": "gained = [n for n in os.listdir('/proc') if n.isdigit() and n != str(os.getpid())]"}
WRITES = {
    "a file elsewhere": "gained = open(VICTIM, 'w').write('gone')",
    "a native writer": "place = libc.open(VICTIM.encode(), 1)\ngained = place >= 0 and os.write(place, b'gone')",
    "a file's mode": "old = os.stat(VICTIM).st_mode\nos.chmod(VICTIM, 0o640)\n"
                     "gained = os.stat(VICTIM).st_mode != old",
    "a file's times": "os.utime(VICTIM, (5, 5))\ngained = os.stat(VICTIM).st_mtime == 5",
    "a file cut off": "os.truncate(VICTIM, 0)\ngained = True",
    "a file removed": "os.remove(VICTIM + '-too')\ngained = True",
    "a folder elsewhere": "os.mkdir(VICTIM + '-folder')\ngained = True",
    "a file moved out": "open('own', 'w').close()\nos.rename('own', VICTIM + '-moved')\ngained = True"}
PROCESSES = {
    "a program": f"gained = subprocess.run([{sys.executable!r}, '-c', 'print(1)'], capture_output=True).stdout",
    "a shell": "gained = os.system('exit 7') >> 8 == 7",
    "a spawned program": f"gained = os.posix_spawn({sys.executable!r}, ['python', '-c', '1'], dict(os.environ))",
    "a process that detaches": "child = os.fork()\nif not child:\n    os.setsid()\n    os._exit(0)\ngained = child",
    "signals to others": "os.kill(os.getppid() or -1, 0)\ngained = True",
    "signals by a descriptor": "import fcntl\nfcntl.fcntl(0, fcntl.F_SETOWN, os.getppid() or 1)\ngained = True",
    "limits of others": "import resource\ngained = resource.prlimit(os.getppid() or 99999, resource.RLIMIT_CORE)",
    "a socket": "gained = socket.socket().fileno()",
    "a datagram": "gained = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "a datagram of this machine": "gained = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].fileno()",
    "a look-up of a name": "gained = socket.getaddrinfo('localhost', 80)[0][0].name if "
                           "socket.socket(socket.AF_INET, socket.SOCK_DGRAM) else None"}
ATTACKS = READS | WRITES | PROCESSES | {
    "a guard's functions bound anew": "os.path.realpath = os.fspath = lambda path: '/tmp'\n"
                                      "isinstance = lambda *_: True\ngained = open(LAB).read()"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return sandbox.write_stage(tmp_path_factory.mktemp("stage"))


@pytest.fixture
def victim(tmp_path):
    """A file of somebody else."""
    path = tmp_path / "victim.txt"
    path.write_text("mine")
    Path(f"{path}-too").write_text("mine")
    return path


def gains(stage, victim, **options) -> dict:
    """{attack: did it gain something} of all attacks, in one process."""
    setup = PREPARE.format(victim=str(victim), lab=str(ROOT / "labs" / "02_fine_tuning.ipynb"))
    session, gained = Session(stage, [setup], **options), {}
    try:
        for name, source in ATTACKS.items():
            session.restart_clock()
            session.run("gained = None\n" + source)
            session.run("gained = bool(gained)")
            gained[name] = session.look("gained")
        assert session.run("open('own.txt', 'w').write('x')")[0] == ""
        return gained
    finally:
        session.close()


@linux
def test_each_attack_gains_something_where_there_is_no_wall(stage, victim):
    gained = gains(stage, victim, wall=False)
    assert [name for name, found in gained.items() if not found] == []


@linux
@pytest.mark.parametrize("layers", LAYERS)
def test_no_attack_gains_anything_behind_the_wall(stage, victim, layers):
    try:
        gained = gains(stage, victim, without=LAYERS[layers])
    except sandbox.WallError:
        pytest.skip(f"{layers} cannot be had here")
    assert [name for name, found in gained.items() if found] == []
    assert victim.read_text() == "mine" and Path(f"{victim}-too").exists()
    assert sorted(p.name for p in victim.parent.iterdir()) == ["victim.txt", "victim.txt-too"]


@linux
@pytest.mark.parametrize("layers", LAYERS)
def test_memory_files_and_their_number_are_limited(stage, layers):
    try:
        session = Session(stage, ["import os"], without=LAYERS[layers], memory=700 * 2**20)
    except sandbox.WallError:
        pytest.skip(f"{layers} cannot be had here")
    try:
        session.restart_clock()
        assert "MemoryError" in session.run("hog = bytearray(2**30)")[0]
        big = f"with open('big', 'wb') as file:\n    file.truncate({sandbox.FOLDER_LIMIT + 1})"
        assert "OSError" in session.run(big)[0]
        many = ("for i in range(6000):\n    open(f'f{i}', 'w').close()\nimport time\ntime.sleep(5)\nraise SystemError")
        try:
            assert "OSError" in session.run(many)[0]
        except Ended as end:
            assert end.args[0] == "disk"
    finally:
        session.close()
    assert not os.path.exists(session.place)


@linux
@pytest.mark.parametrize("layers", LAYERS)
def test_a_full_folder_ends_a_submission_or_its_cell(stage, layers):
    try:
        session = Session(stage, [], without=LAYERS[layers])
    except sandbox.WallError:
        pytest.skip(f"{layers} cannot be had here")
    fill = ("import time\nfor i in range(100):\n    with open(f'f{i}', 'wb') as file:\n"
            "        file.write(bytes(2**20))\n    time.sleep(0.02)\n")
    session.restart_clock()
    try:
        assert "No space left" in session.run(fill)[0]
    except Ended as end:
        assert end.args[0] == "disk"
    session.close()


def alive(process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@linux
def test_the_process_goes_with_the_one_that_started_it(stage):
    session = Session(stage, [])
    family = session.family()
    session.close()
    for _ in range(100):  # the kernel may take a moment to end what was killed
        if not any(map(alive, family)):
            break
        time.sleep(0.1)
    assert family and not any(map(alive, family))
    assert not os.path.exists(session.place)


@linux
@pytest.mark.slow
def test_a_folder_however_deep_is_removed(tmp_path):
    place, here = tmp_path / "deep", os.getcwd()
    place.mkdir()
    try:
        os.chdir(place)
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    assert sandbox.over_limit(place)
    sandbox.remove(str(place))
    assert not place.exists()


@linux
def test_a_hole_in_the_wall_stops_the_grading(stage):
    with pytest.raises(sandbox.SandboxError, match="could read /etc/ld.so.cache"):
        Session(stage, [], hidden=("/etc/ld.so.cache",))


@linux
def test_without_seccomp_the_process_itself_finds_the_holes(stage):
    with pytest.raises(sandbox.SandboxError, match="could start a process, open a socket"):
        Session(stage, [], without=("seccomp", "namespaces"))


def test_where_no_layer_can_be_had_there_is_no_wall(stage):
    reason = "neither namespaces nor Landlock" if sys.platform == "linux" else sys.platform
    with pytest.raises(sandbox.WallError, match=reason):
        Session(stage, [], without=("namespaces", "Landlock"))


def test_the_lists_of_system_calls_hold_no_number_twice():
    for column in (0, 1):
        calls = [*wall.ALLOWED.values(), *wall.IGNORED.values(), *(n for n, _ in wall.LISTED.values()), wall.MISSING]
        numbers = [call[column] for call in calls if call[column] is not None]
        assert len(numbers) == len(set(numbers)) > 80


def test_a_copy_of_utils_has_no_answers(stage):
    for module, names in sandbox.ANSWERS.items():
        text = (stage / "utils" / f"{module}.py").read_text("utf-8")
        for name in names:
            assert f"def {name}(" in (ROOT / "utils" / f"{module}.py").read_text("utf-8"), "it has gone elsewhere"
            assert f"utils.{module}.{name} is what an exercise asks for" in text
    checks = sorted(p.name for p in (stage / "utils" / "exercises").iterdir())
    assert checks == ["__init__.py", "drivers.py", "values.py"]
    assert not list(stage.rglob("*.ipynb")) and not (stage / "utils" / "course" / "grade.py").exists()
    assert sorted(p.name for p in stage.iterdir()) == ["data", "labs", "pyproject.toml", "utils"]
