"""Moving the alias `champion` between registered versions, with the evidence in tags, and back again."""

from __future__ import annotations

import getpass
import json
import socket
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rosepo_ray.config.promotion import PromotionSettings
from rosepo_ray.errors import BadInput, Refused
from rosepo_ray.registry import gates
from rosepo_ray.registry.packaging import EVIDENCE
from rosepo_ray.storage import tables

CHAMPION, PREVIOUS = "champion", "previous"
_PROTOCOL, _DATASET = "rosepo.protocol", "rosepo.dataset"


@dataclass(frozen=True)
class Decision:
    """What was decided about one version. `outcome`: promoted | already | refused | rolled_back."""

    outcome: str
    model: str
    version: str
    champion: str | None
    """The champion's version before; None where there was none."""
    reason: str
    gates: list[gates.Gate] = field(default_factory=list)


def promote(client: Any, model: str, version: str, settings: PromotionSettings, *, dry_run: bool) -> Decision:
    """Judge `version` of `model` against the champion and, if it passes, move the aliases; `dry_run` writes nothing.

    A refusal of the gates is an answer (outcome `refused`), as is a champion that is the version itself. The order of
    writes is: evidence, `previous`, `champion`; a broken-off promotion can be repeated.

    Raises:
        BadInput: there is no such version.
        Refused: the two cannot be compared (another protocol, log, or rows; no stored evaluation).
    """
    challenger = get_version(client, model, version)
    current = by_alias(client, model, CHAMPION)
    if current is not None and str(current.version) == version:
        return Decision("already", model, version, version, "it is the champion already; nothing to do")
    _refuse_unrecorded(challenger)
    evidence = load_evidence(client, challenger)
    if current is None:
        # Its own evaluation must be whole: the same check that a comparison makes.
        gates.judge(evidence, evidence, settings, draws=100)
        decision = Decision(
            "promoted",
            model,
            version,
            None,
            "there is no champion to compare with; its protocol and its evaluation are recorded",
        )
    else:
        _refuse_incomparable(current, challenger)
        judged = gates.judge(load_evidence(client, current), evidence, settings)
        failed = [gate.name for gate in judged if not gate.passed]
        decision = Decision(
            "refused" if failed else "promoted",
            model,
            version,
            str(current.version),
            f"outside its margin: {', '.join(failed)}" if failed else "all gates passed",
            judged,
        )
    if not dry_run:
        _record(client, decision, settings)
        if decision.outcome == "promoted":
            if decision.champion is not None:
                client.set_registered_model_alias(model, PREVIOUS, decision.champion)
            client.set_registered_model_alias(model, CHAMPION, version)
    return decision


def rollback(client: Any, model: str, *, dry_run: bool) -> Decision:
    """`champion` moves to the version called `previous`, and that alias goes: one step back, never forth again.

    Raises Refused where there is no previous version.
    """
    current, before = by_alias(client, model, CHAMPION), by_alias(client, model, PREVIOUS)
    if before is None:
        raise Refused(
            f"model '{model}' has no version with the alias '{PREVIOUS}' to go back to; promote a version instead"
        )
    left = None if current is None else str(current.version)
    decision = Decision("rolled_back", model, str(before.version), left, f"version {left} was taken back")
    if not dry_run:
        if left is not None and left != decision.version:
            stamp = json.dumps({"to": decision.version, **_stamp()})
            client.set_model_version_tag(model, left, "rosepo.rolled_back", stamp)
        client.set_registered_model_alias(model, CHAMPION, decision.version)
        client.delete_registered_model_alias(model, PREVIOUS)
    return decision


def get_version(client: Any, model: str, version: str) -> Any:
    """The registered version. Raises BadInput where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(model, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise BadInput(
            f"MLflow has no version {version} of the model '{model}'; check mlflow.tracking_uri and mlflow.model"
        ) from error


def by_alias(client: Any, model: str, alias: str) -> Any | None:
    """The version with that alias, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def load_evidence(client: Any, version: Any) -> gates.Evidence:
    """The evaluation tables that the version's run keeps. Raises Refused where they are not there."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="rosepo-") as temporary:
        try:
            local = client.download_artifacts(version.run_id, EVIDENCE, temporary)
        except (MlflowException, OSError) as error:
            raise Refused(
                f"version {version.version} of '{version.name}' has no stored evaluation ({error}); run the job that "
                "made it again, so that it can be judged"
            ) from error
        return gates.Evidence(*(tables.read(str(Path(local)), name) for name in ("predictions", "examples", "items")))


def _refuse_unrecorded(version: Any) -> None:
    missing = [tag for tag in (_PROTOCOL, _DATASET) if not version.tags.get(tag)]
    if missing:
        raise Refused(
            f"version {version.version} of '{version.name}' has no tag {' or '.join(missing)}, so nobody can tell on "
            "which rows it was judged; register it through jobs/align.py"
        )


def _refuse_incomparable(champion: Any, challenger: Any) -> None:
    for tag, word in ((_PROTOCOL, "protocol"), (_DATASET, "log")):
        first, second = champion.tags.get(tag), challenger.tags.get(tag)
        if first != second:
            raise Refused(
                f"version {challenger.version} was judged under the {word} {str(second)[:12]} and the champion "
                f"(version {champion.version}) under {str(first)[:12]}; figures of different test rows say nothing "
                f"about each other, so train both on the same log, split and data.seed"
            )


def _record(client: Any, decision: Decision, settings: PromotionSettings) -> None:
    """The evidence as tags of the judged version: one readable JSON, and the outcome on its own for searching."""
    evidence = {
        "outcome": decision.outcome,
        "reason": decision.reason,
        "champion": decision.champion,
        "gates": [gate.as_dict() for gate in decision.gates],
        "thresholds": settings.model_dump(),
        **_stamp(),
    }
    client.set_model_version_tag(decision.model, decision.version, "rosepo.promotion", json.dumps(evidence))
    client.set_model_version_tag(decision.model, decision.version, "rosepo.promotion.outcome", decision.outcome)


def _stamp() -> dict[str, str]:
    """When and by whom."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "who": f"{user}@{socket.gethostname()}"}
