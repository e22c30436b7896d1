"""Every cluster file parses, fits the schema of what reads it, and starts a command that the project understands."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rosepo_ray.run import sources

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCHEMAS = ROOT.parent / "shared" / "kuberay"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))

# Ray's own preparation and check of cluster YAMLs, in another process: this folder does not import ray.
PREPARE = """
import json, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config

def judge(text):
    try:
        config = prepare_config(yaml.safe_load(text))
        validate_config(config)
    except Exception as error:
        return {"error": str(error)}
    types = config["available_node_types"].items()
    return {"max_workers": config["max_workers"],
            "types": {name: [node["min_workers"], node["max_workers"]] for name, node in types}}

print(json.dumps([judge(text) for text in json.load(sys.stdin)]))
"""


def _clusters() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        spec = yaml.safe_load(path.read_text())["spec"]
        yield path.name, spec.get("rayClusterSpec", spec)


def clusters() -> list[tuple[str, dict[str, Any]]]:
    return list(_clusters())


@pytest.fixture(scope="module")
def aws() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    return content


def test_aws_passes_rays_own_check_which_can_fail() -> None:
    text = (CLUSTER / "aws.yaml").read_text()
    given = json.dumps([text, text + "\nidle_timeout: 3\n"])
    done = subprocess.run(
        [sys.executable, "-c", PREPARE], input=given, capture_output=True, text=True, timeout=120, check=True
    )
    good, bad = json.loads(done.stdout.splitlines()[-1])
    assert good == {"max_workers": 6, "types": {"head": [0, 0], "cpu_worker": [1, 4], "gpu_worker": [0, 2]}}
    assert "idle_timeout" in bad["error"]


def test_aws_scales_between_sane_bounds(aws: dict[str, Any]) -> None:
    types = aws["available_node_types"]
    workers = {name: node for name, node in types.items() if name != aws["head_node_type"]}
    assert aws["head_node_type"] in types
    assert types[aws["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    for node in workers.values():
        assert 0 <= node["min_workers"] <= node["max_workers"]
    assert sum(n["min_workers"] for n in workers.values()) <= aws["max_workers"]
    assert aws["max_workers"] <= sum(n["max_workers"] for n in workers.values())
    assert any(node["resources"].get("GPU") for node in workers.values())
    assert any(not node["resources"].get("GPU") for node in workers.values())
    assert 0 < aws["idle_timeout_minutes"] <= 60


def test_aws_guards_rays_ports(aws: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in aws["docker"]["run_options"]
    path = next(option.split("=", 1)[1] for option in aws["docker"]["run_options"] if "RAY_AUTH_TOKEN_PATH" in option)
    assert path in aws["file_mounts"]
    start = " ".join(aws["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_fit_kuberays_schema(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    schema = SCHEMAS / f"{manifest['kind']}.schema.json"
    if not schema.is_file():
        pytest.skip(f"KubeRay's schemas are not at hand ({schema})")
    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text()))
    assert [error.message for error in validator.iter_errors(manifest)] == []
    manifest["spec"]["bogus"] = 1
    assert any("bogus" in error.message for error in validator.iter_errors(manifest))


def test_both_kinds_of_manifest_are_there() -> None:
    kinds = {path.name: yaml.safe_load(path.read_text())["kind"] for path in MANIFESTS}
    assert kinds == {"raycluster.yaml": "RayCluster", "rayjob.yaml": "RayJob"}


@pytest.mark.parametrize(("name", "spec"), clusters(), ids=lambda value: value if isinstance(value, str) else "")
def test_kubernetes_clusters_scale_and_keep_the_head_free(name: str, spec: dict[str, Any]) -> None:
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["authOptions"]["mode"] == "token"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert groups.keys() == {"cpu", "gpu"}
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in [spec["headGroupSpec"], *groups.values()]:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        mounted = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounted
    gpu = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert gpu["nvidia.com/gpu"] == "1"


def test_both_manifests_describe_the_same_cluster() -> None:
    first, second = (spec for _, spec in clusters())
    assert first == second


def test_the_ray_job_ends_and_cleans_up() -> None:
    spec = yaml.safe_load((CLUSTER / "kuberay" / "rayjob.yaml").read_text())["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0


def commands() -> list[str]:
    """Every align command that a cluster file or the cluster page tells a person to run."""
    job = yaml.safe_load((CLUSTER / "kuberay" / "rayjob.yaml").read_text())["spec"]["entrypoint"]
    page = (CLUSTER / "README.md").read_text().replace("\\\n", " ")
    return [job, *re.findall(r"-- (python jobs/align\.py.*)", page)]


@pytest.mark.parametrize("command", commands())
def test_entry_commands_parse(command: str) -> None:
    interpreter, job, *arguments = shlex.split(command)
    assert interpreter == "python"
    settings = sources.parse(arguments, job, "").settings
    assert settings.run.dir is not None
    assert settings.run.dir.startswith(("s3://", "$PWD/")), "a job's working directory does not last"


def test_ray_in_the_manifests_is_the_locked_one() -> None:
    locked = re.search(r"^ray==(.*)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert {spec["rayVersion"] for _, spec in clusters()} == {locked[1]}


def test_the_image_is_built_from_the_lock_and_runs_as_its_user() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert "-r requirements.lock" in text
    assert text.index("-r requirements.lock") < text.index("COPY . .")
    uid = re.search(r"--uid (\d+)", text)
    assert uid is not None
    assert {spec["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsUser"] for _, spec in clusters()} == {
        int(uid[1])
    }
    assert text.rindex("USER rosepo") > text.rindex("RUN ")
