"""Promote the version that a run registered, or take the last promotion back.

    rosepo promote --run runs/NAME [--dry-run] [--promotion.hr_margin 0.01] [--promotion.gap_margin 5]
    rosepo promote --rollback [--run runs/NAME | --mlflow.tracking_uri URI]

Exit codes: 0 promoted, rolled back or nothing to do; 2 wrong use; 3 refused.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rosepo_ray import storage
from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.config.promotion import PromotionSettings
from rosepo_ray.config.section import Section
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.registry import server
from rosepo_ray.run import sources
from rosepo_ray.run.settings import Settings

if TYPE_CHECKING:
    from rosepo_ray.registry.promotion import Decision

_SECTIONS: dict[str, type[Section]] = {"mlflow": MlflowSettings, "promotion": PromotionSettings}
_UNUSED = {"mlflow.experiment"}  # a registered version is found by its name, not by its experiment


def arguments(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, list[str]]:
    """The job's own options and the settings given beside them, as arguments for `sources.parse`."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", metavar="DIR", help="run directory (path or URI) whose registered version is judged")
    parser.add_argument("--dry-run", action="store_true", help="judge and print, change nothing")
    parser.add_argument("--rollback", action="store_true", help="the alias champion goes back to the previous version")
    names = [f"{section}.{field}" for section, model in _SECTIONS.items() for field in model.model_fields]
    names = [name for name in names if name not in _UNUSED]
    for name in names:
        section, field = name.split(".")
        text = _SECTIONS[section].model_fields[field].description or ""
        parser.add_argument(f"--{name}", metavar="VALUE", help=text.replace("%", "%%"))
    options = parser.parse_args(argv)
    given = [(name, getattr(options, name)) for name in names if getattr(options, name) is not None]
    if not options.rollback and options.run is None:
        parser.error("give --run DIR, the run directory whose version is to be judged, or --rollback")
    useless = [name for name, _ in given if name.startswith("promotion.")]
    if options.rollback and useless:
        parser.error(f"--{useless[0]} has no effect with --rollback; leave it out")
    return options, [part for name, value in given for part in (f"--{name}", value)]


def settings_of(run: str | None, given: Sequence[str], prog: str) -> Settings:
    """The run's mlflow and promotion settings, under environment and command line."""
    values: dict[str, Any] = {}
    if run is not None:
        file = storage.join(run, "settings.yaml")
        if not storage.exists(file):
            raise BadInput(
                f"'{run}' is no run directory (settings.yaml is missing); give the one that align.py printed"
            )
        whole = yaml.safe_load(storage.read_bytes(file)) or {}
        values = {section: whole[section] for section in _SECTIONS if section in whole}
    with tempfile.TemporaryDirectory(prefix="rosepo-") as temporary:
        recipe = Path(temporary, "promotion.yaml")
        recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
        return sources.parse(["--recipe", str(recipe), *given], prog, "").settings


def decide(options: argparse.Namespace, settings: Settings) -> Decision:
    """Ask MLflow and decide. Raises BadInput where run or tracking server do not lead to a version."""
    from rosepo_ray.registry import promotion, tracking

    state = None if options.run is None else tracking.read_state(options.run)
    uri = server.recorded_uri(settings.mlflow, (state or {}).get("tracking_uri"))
    if options.rollback:
        return promotion.rollback(_registry(uri), settings.mlflow.model, dry_run=options.dry_run)
    model = (state or {}).get("model")
    if model is None:
        raise BadInput(
            f"the run '{options.run}' registered no model (its {tracking.STATE} names none); let jobs/align.py finish "
            "there first"
        )
    if model["name"] != settings.mlflow.model:
        raise BadInput(
            f"the run registered the model '{model['name']}', but mlflow.model is '{settings.mlflow.model}'; leave "
            "mlflow.model out"
        )
    return promotion.promote(
        _registry(uri), model["name"], model["version"], settings.promotion, dry_run=options.dry_run
    )


def _registry(uri: str) -> Any:
    """The client, once the registry has answered; which one is said: a champion is one in its registry alone."""
    client = server.reach(uri, lambda client: client.search_registered_models(max_results=1), create=False)
    print(f"model registry {server.registry_uri()}")
    return client


def report(decision: Decision, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    words = {
        "promoted": f"{would}promoted",
        "refused": f"{would}refused",
        "already": "is the champion",
        "rolled_back": f"{would}champion again",
    }
    print(f"{decision.model} version {decision.version}: {words[decision.outcome]} ({decision.reason})")
    for gate in decision.gates:
        print(f"  {gate.sentence()}")


def main(argv: Sequence[str], prog: str) -> int:
    options, given = arguments(argv, prog)
    try:
        decision = decide(options, settings_of(options.run, given, prog))
    except RosepoError as error:
        print(f"promote: {error}", file=sys.stderr)
        return error.exit_code
    report(decision, options.dry_run)
    return 3 if decision.outcome == "refused" else 0
