"""Faults that can happen to a run: one short function for each kind, with its own random moment, file or byte.

A fault is done to a `Subject`: it starts the run's command, disturbs it, and returns when the process has ended; or it
takes a copy of a run that was interrupted, and damages that.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
UNFINISHED = ".orbax-checkpoint-tmp"
PATIENCE_SECONDS = 240
"""After which a process hangs, on two slow cores."""

RECORDS = ("config.json", "data.json", "metrics.jsonl", "spikes.json")
UNWRITTEN = ("could not be saved", "could not be written", "cannot be written", "cannot be read")

# Imported by Python before the program: its clock jumps at the n-th look at it.
CLOCK = """
import time

def jumping(honest, after, by):
    looks = 0
    def clock():
        nonlocal looks
        looks += 1
        return honest() + (by if looks > after else 0)
    return clock

time.time = jumping(time.time, {after}, {seconds})
time.time_ns = jumping(time.time_ns, {after}, {seconds} * 10**9)
"""


class Attempt(NamedTuple):
    """The end of one launch of the command: the exit code, or the highest of several, and all that was printed."""

    code: int
    output: str


class Subject(NamedTuple):
    """A run to disturb.

    Attributes:
      directory: everything of it is below this one.
      command: what its user types, but for the flags of one of several processes.
      environment: of its processes.
      interrupted: runs of this command that were interrupted, to copy.
      num_processes: how many processes it has.
    """

    directory: Path
    command: list[str]
    environment: dict[str, str]
    interrupted: list[Path]
    num_processes: int = 1

    @property
    def workdir(self) -> Path:
        """The work directory."""
        return self.directory / "run"

    @property
    def checkpoints(self) -> Path:
        """Those of the run."""
        return self.workdir / "checkpoints"


class Launched(NamedTuple):
    """Processes that were started, and the files that they print to."""

    processes: list[subprocess.Popen]
    printed: list[Path]

    def output(self) -> str:
        """Returns the output of all processes so far."""
        return "".join(path.read_text(errors="replace") for path in self.printed)

    def running(self) -> bool:
        """Returns whether all processes are running."""
        return all(process.poll() is None for process in self.processes)

    def end(self) -> Attempt:
        """Waits until they have ended; kills those that hang, with code 124."""
        codes = []
        for process in self.processes:
            try:
                codes.append(process.wait(PATIENCE_SECONDS))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(124)
        return Attempt(max(codes, key=abs), self.output())


def launch(subject: Subject, **environment: str) -> Launched:
    """Starts the command of a run, as all of its processes."""
    number = len(list(subject.directory.glob("printed-*")))
    place = f"--coordinator=localhost:{_free_port()}"
    processes, printed = [], []
    for i in range(subject.num_processes):
        own = (
            [place, f"--num_processes={subject.num_processes}", f"--process_id={i}"]
            if subject.num_processes > 1
            else []
        )
        path = subject.directory / f"printed-{number:02d}-{i}.txt"
        with path.open("w") as file:
            command = [*subject.command, *own, f"--workdir={subject.workdir}"]
            variables = {**subject.environment, **environment}
            processes.append(subprocess.Popen(command, cwd=ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT))
        printed.append(path)
    return Launched(processes, printed)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class Disturbed(NamedTuple):
    """The outcome of a fault.

    Attributes:
      attempts: how the launches that it disturbed have ended.
      words: one of these must be on the output for the fault to count as named.
    """

    attempts: list[Attempt]
    words: tuple[str, ...]


Fault = Callable[[Subject, random.Random], Disturbed]


# Signals to a process that trains.


def kill(subject: Subject, rng: random.Random) -> Disturbed:
    """SIGKILL at any moment, from the start to the end of the process."""
    return Disturbed([_signalled(subject, rng, signal.SIGKILL)], ("Removed",))


def kill_in_save(subject: Subject, rng: random.Random) -> Disturbed:
    """SIGKILL when a checkpoint is being written."""
    launched = launch(subject)
    await_save(launched, subject, rng.randint(1, 8))
    time.sleep(rng.uniform(0, 0.15))
    launched.processes[0].kill()
    return Disturbed([launched.end()], ("Removed",))


def terminate(subject: Subject, rng: random.Random) -> Disturbed:
    """SIGTERM, as a cluster gives it before it takes the machine."""
    return Disturbed([_signalled(subject, rng, signal.SIGTERM)], ("Stopped and saved",))


def interrupt(subject: Subject, rng: random.Random) -> Disturbed:
    """Ctrl-C."""
    return Disturbed([_signalled(subject, rng, signal.SIGINT)], ("Stopped and saved", "Interrupted"))


def kill_one_of_two(subject: Subject, rng: random.Random) -> Disturbed:
    """SIGKILL to one of two processes; the other one must end by itself."""
    launched = launch(subject)
    await_moment(launched, rng)
    victim = rng.randrange(2)
    launched.processes[victim].kill()
    launched.processes[victim].wait()
    return Disturbed(
        [launched.end()],
        ("another one of the run has died", "another process of the run has died", "did not come together"),
    )


def _signalled(subject: Subject, rng: random.Random, number: signal.Signals) -> Attempt:
    launched = launch(subject)
    await_moment(launched, rng)
    launched.processes[0].send_signal(number)
    return launched.end()


def await_moment(launched: Launched, rng: random.Random) -> None:
    """Waits for a random moment: of the start in one of four cases, else of the steps, the saves and the end."""
    if rng.random() < 0.25:
        time.sleep(rng.uniform(0.5, 6))  # Python itself starts before that, which shows Ctrl-C in its own way
        return
    lines = rng.randint(1, 20)
    _await(launched, lambda: launched.output().count("\nstep ") >= lines)
    time.sleep(rng.uniform(0, 0.3))


def await_save(launched: Launched, subject: Subject, count: int) -> None:
    """Waits until that many saves have begun, each known by the directory that it writes to."""
    seen: set[str] = set()

    def begun() -> bool:
        with contextlib.suppress(FileNotFoundError):
            seen.update(name for name in os.listdir(subject.checkpoints) if UNFINISHED in name)
        return len(seen) >= count

    _await(launched, begun)


def _await(launched: Launched, happened: Callable[[], bool]) -> None:
    while launched.running() and not happened():
        time.sleep(0.002)


# Damage to the files of a run that was interrupted.


def flip_array(subject: Subject, rng: random.Random) -> Disturbed:
    """One bit of the array data of the newest checkpoint."""
    return _damage(subject, rng, [path for path in newest_files(_copy(subject, rng)) if path.parent.name == "d"], flip)


def flip_metadata(subject: Subject, rng: random.Random) -> Disturbed:
    """One bit of what describes the arrays of the newest checkpoint."""
    files = [path for path in newest_files(_copy(subject, rng)) if path.parent.name != "d" and not _is_manifest(path)]
    return _damage(subject, rng, files, flip)


def flip_manifest(subject: Subject, rng: random.Random) -> Disturbed:
    """One bit of a manifest of the newest checkpoint: the list of digests, or one of the array store's."""
    return _damage(subject, rng, [path for path in newest_files(_copy(subject, rng)) if _is_manifest(path)], flip)


def flip_record(subject: Subject, rng: random.Random) -> Disturbed:
    """One bit of the config, the facts of the data, the metrics or the statistics of the losses."""
    workdir = _copy(subject, rng)
    return _damage(subject, rng, [workdir / name for name in RECORDS], flip)


def truncate(subject: Subject, rng: random.Random) -> Disturbed:
    """A random file loses its end, or all that it holds."""
    return _damage(subject, rng, important_files(_copy(subject, rng), rng), cut)


def delete(subject: Subject, rng: random.Random) -> Disturbed:
    """A random file is gone."""
    return _damage(subject, rng, important_files(_copy(subject, rng), rng), lambda path, rng: path.unlink())


def _copy(subject: Subject, rng: random.Random) -> Path:
    shutil.copytree(rng.choice(subject.interrupted), subject.workdir)
    return subject.workdir


def _damage(
    subject: Subject, rng: random.Random, files: list[Path], do: Callable[[Path, random.Random], object]
) -> Disturbed:
    path = rng.choice(files)
    do(path, rng)
    (subject.directory / "damaged.txt").write_text(f"{path.relative_to(subject.workdir)}\n")
    inside = path.is_relative_to(subject.checkpoints)
    return Disturbed(
        [], (f"Checkpoint {path.relative_to(subject.checkpoints).parts[0]} is damaged" if inside else path.name,)
    )


def flip(path: Path, rng: random.Random) -> None:
    """Changes one bit of a file that is not empty."""
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    """Leaves the beginning of a file only, and in one of three cases nothing."""
    size = path.stat().st_size
    os.truncate(path, 0 if size == 0 or rng.random() < 1 / 3 else rng.randrange(size))


def newest_files(workdir: Path) -> list[Path]:
    """The files of the newest checkpoint that are not empty."""
    newest = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
    return _files(workdir / "checkpoints" / str(newest))


def important_files(workdir: Path, rng: random.Random) -> list[Path]:
    """Those of the newest checkpoint, or in every second case those of the run itself."""
    return newest_files(workdir) if rng.random() < 0.5 else [path for path in _files(workdir) if path.parent == workdir]


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)


def _is_manifest(path: Path) -> bool:
    return path.name in ("sha256.json", "manifest.ocdbt")


# The machine around the run.


def full_disk(subject: Subject, rng: random.Random) -> Disturbed:
    """At a random save a disk of the run's own has no room left but for some kilobytes; room is made afterwards."""
    subject.workdir.mkdir()
    _mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", subject.workdir)
    policy = rng.choice(["stop", "continue"])
    launched = launch(subject._replace(command=[*subject.command, f"--config.train.on_write_error={policy}"]))
    await_save(launched, subject, rng.randint(1, 8))
    ballast = subject.checkpoints / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, max(0, ballast.stat().st_size - rng.randrange(0, 100_000)))
    attempt = launched.end()
    ballast.unlink()
    return Disturbed([attempt], UNWRITTEN)


def unwritable(subject: Subject, rng: random.Random) -> Disturbed:
    """The work directory, or one in it, can only be read: from the start on, or from a random step on."""
    if rng.random() < 0.3:
        _copy(subject, rng)
        with read_only(subject.workdir):
            return Disturbed([launch(subject).end()], UNWRITTEN)
    launched = launch(subject)
    await_save(launched, subject, rng.randint(1, 8))
    time.sleep(rng.uniform(0, 0.1))
    with read_only(rng.choice([subject.workdir, subject.checkpoints])):
        return Disturbed([launched.end()], UNWRITTEN)


def clock_jump(subject: Subject, rng: random.Random) -> Disturbed:
    """The time of all files is wrong by up to a day, and the clock jumps by as much when the run goes on."""
    _copy(subject, rng)
    day = 24 * 60 * 60
    for path in subject.workdir.rglob("*"):
        moment = time.time() + rng.uniform(-day, day)
        os.utime(path, (moment, moment))
    code = CLOCK.format(after=rng.randrange(3_000), seconds=rng.randint(-day, day))
    (subject.directory / "sitecustomize.py").write_text(code)
    return Disturbed([launch(subject, PYTHONPATH=str(subject.directory)).end()], ())


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Has the kernel refuse every write by this path."""
    beside = directory.parent / f".{directory.name}"  # made read-only there, since here the run may just be writing
    beside.mkdir()
    _mount("--bind", directory, beside)
    _mount("-o", "remount,bind,ro", beside)
    _mount("--bind", beside, directory)
    try:
        yield
    finally:
        unmount(directory)
        unmount(beside)
        beside.rmdir()


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def unmount(directory: Path) -> None:
    """Undoes a mount, also when something there is open still."""
    subprocess.run(["umount", "--lazy", str(directory)], check=True, capture_output=True)


def can_mount(directory: Path) -> bool:
    """Returns whether this user may mount file systems, as the faults of disks need it."""
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        _mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", directory)
        unmount(directory)
        return True
    return False
