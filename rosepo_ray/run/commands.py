"""The commands `rosepo align`, `rosepo stage NAME`, `rosepo promote` and `rosepo sync`; the files in jobs/ are the same
ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from rosepo_ray import __version__
from rosepo_ray.errors import RosepoError
from rosepo_ray.storage import disk_space

Command = Callable[[Sequence[str], str], int]


def align(argv: Sequence[str], prog: str) -> int:
    """The whole pipeline."""
    from rosepo_ray.run import job

    return job.main(argv, prog, "Align an LLM-based recommender with what its users value (RosePO).")


def stage(argv: Sequence[str], prog: str) -> int:
    """One stage, whose inputs are finished in the same run directory."""
    from rosepo_ray.config.stage import kind_of
    from rosepo_ray.run import job, pipeline

    stages = {stage.name: stage.description for stage in pipeline.STAGES}
    rounds = "those of an earlier round of alignment have its number: reject_1, calibrate_1, align_1, …"
    lines = [f"  {name:12}{text}" for name, text in stages.items()]
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Run one stage of the pipeline in a run directory.",
        epilog="\n".join(["stages:", *lines, rounds, "", f"`{prog} NAME --help` lists every setting."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="the stage")
    name = parser.parse_args(argv[:1]).name
    kind = kind_of(name)
    if kind not in stages:
        parser.error(f"there is no stage '{name}'; take one of {', '.join(stages)}")
    return job.main(argv[1:], f"{prog} {name}", stages[kind], only=name)


def promote(argv: Sequence[str], prog: str) -> int:
    """The challenger against the champion."""
    from rosepo_ray.run import promote

    return promote.main(argv, prog)


def stages(argv: Sequence[str], prog: str) -> int:
    """What the stage store holds, who uses it, how large it is; --prune removes what no run names."""
    from rosepo_ray.run import stage_store

    parser = argparse.ArgumentParser(prog=prog, description="List the stages that runs share.")
    parser.add_argument("store", nargs="?", default="runs/stages", help="path or URI (default: %(default)s)")
    parser.add_argument("--prune", action="store_true", help="remove what no run names")
    given = parser.parse_args(argv)
    removed = stage_store.prune(given.store) if given.prune else []
    print(stage_store.table(removed if given.prune else stage_store.listed(given.store)))
    if given.prune:
        print(f"removed {len(removed)} folder(s), {disk_space.amount(sum(one.bytes for one in removed))}")
    return 0


def sync(argv: Sequence[str], prog: str) -> int:
    """Send MLflow what it could not be told while a run was going."""
    from rosepo_ray.run import sync

    return sync.main(argv, prog)


COMMANDS: dict[str, Command] = {"align": align, "stage": stage, "promote": promote, "stages": stages, "sync": sync}


def main(argv: Sequence[str] | None = None) -> int:
    """The command `rosepo`."""
    lines = [f"  {name:12}{command.__doc__}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="rosepo",
        description="Align an LLM-based recommender with what its users value.",
        epilog="\n".join(["commands:", *lines, "", "`rosepo COMMAND --help` tells more."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rosepo {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    given = list(sys.argv[1:] if argv is None else argv)
    name = parser.parse_args(given[:1]).command
    try:
        return COMMANDS[name](given[1:], f"rosepo {name}")
    except RosepoError as error:  # before a command minds its own, as where an extra is missing
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
