"""Checkpoints: trainable weights as safetensors, the optimiser as tensors read with weights_only=True, the position.

A checkpoint is a folder `step-N` that counts once its marker is written, last of all, with the hash of each file. The
newest two are kept, so that a damaged one costs no more than one interval.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rosepo_ray import storage
from rosepo_ray.errors import RosepoError
from rosepo_ray.storage import disk_space, done
from rosepo_ray.training.loop import State

LOGGER = logging.getLogger(__name__)


def trainable(module: nn.Module) -> dict[str, torch.Tensor]:
    """Trainable parameters by name; a tied weight stands once."""
    return {name: p.detach().contiguous() for name, p in module.named_parameters() if p.requires_grad}


KEPT = 2
_WEIGHTS = "weights.safetensors"


def store(state: State, checkpoints: str) -> None:
    """Write `checkpoints/step-N`, then remove what is void or too old: by now every rank has loaded."""
    _put(checkpoints, state.step, lambda folder: save(state, folder))
    whole = [name for name in _stored(checkpoints) if storage.exists(storage.join(checkpoints, name, done.NAME))]
    kept = [name for name in whole if name <= _name(state.step)][-KEPT:]  # later ones were damaged, else they counted
    for name in set(_stored(checkpoints)) - set(kept):
        storage.remove_folder(storage.join(checkpoints, name))


def store_best(state: State, folder: str) -> None:
    """Write the weights of the best look so far as `folder/step-N`. Those of the best before stay until a checkpoint
    knows this one (:func:`forget_others`): a killed run may go on from before it."""
    _put(folder, state.step, lambda local: save_file(trainable(state.module), local / _WEIGHTS))


def _put(folder: str, step: int, write: Callable[[Path], None]) -> None:
    """Store as `folder/step-N` what `write` leaves in a local folder; its marker last."""
    place = storage.join(folder, _name(step))
    storage.remove_folder(place)  # the rest of a killed write, or a damaged one
    with tempfile.TemporaryDirectory(prefix="rosepo-") as temporary:
        with disk_space.guarded(temporary):
            write(Path(temporary))
        storage.upload_folder(Path(temporary), place)
    done.write(place, {"step": step}, 0.0)


def load_best(module: nn.Module, folder: str, step: int) -> None:
    """Put the weights of the look after `step` steps into `module`. Raises RosepoError where they are damaged."""
    place = storage.join(folder, _name(step))
    if (wrong := done.damage(place)) is not None:
        raise RosepoError(f"the weights of the best step, {place}, are damaged ({wrong}); remove them and train again")
    with storage.local_copy(place) as local:
        load_weights(module, local / _WEIGHTS)


def forget_others(folder: str, step: int) -> None:
    """Remove the weights of all looks but the one after `step` steps."""
    for name in set(_stored(folder)) - {_name(step)}:
        storage.remove_folder(storage.join(folder, name))


def _name(step: int) -> str:
    return f"step-{step:08d}"


def load_newest(state: State, checkpoints: str, warn: bool) -> None:
    """Put the newest whole checkpoint into `state`; nothing happens where there is none.

    A damaged one is passed over; with `warn` (one rank is enough) a warning says so.
    """
    for name in reversed(_stored(checkpoints)):
        folder = storage.join(checkpoints, name)
        wrong = done.damage(folder)
        if wrong is None:
            with storage.local_copy(folder) as local:
                load(state, local)
            return
        if warn:
            LOGGER.warning("checkpoint %s is damaged (%s); going on from the one before", folder, wrong)


def _stored(checkpoints: str) -> list[str]:
    """Names of the checkpoint folders, oldest first."""
    return sorted({name.split("/")[0] for name in storage.list_files(checkpoints)})


def save(state: State, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(trainable(state.module), folder / _WEIGHTS)
    save_file(state.kept.state_dict(), folder / "state.safetensors")
    with (folder / "optimiser.pt").open("wb") as file:  # given a path, torch hides that the disk is full
        torch.save(state.optimiser.state_dict(), file)
    (folder / "position.json").write_text(json.dumps({"step": state.step}))


def load(state: State, folder: Path) -> None:
    """Put the checkpoint in `folder` into `state`. Raises RosepoError when it belongs to another model or program."""
    load_weights(state.module, folder / _WEIGHTS)
    load_kept(state.kept, folder / "state.safetensors")
    state.optimiser.load_state_dict(torch.load(folder / "optimiser.pt", map_location="cpu", weights_only=True))
    position = json.loads((folder / "position.json").read_text())
    state.step = position["step"]


def load_kept(kept: nn.Module, file: Path) -> None:
    stored, own = load_file(file), kept.state_dict()
    if stored.keys() != own.keys():
        raise RosepoError(
            f"{file} holds {sorted(stored)} of what is kept between steps, and there are {sorted(own)} now; start anew "
            "after a change of an objective's buffers"
        )
    kept.load_state_dict(stored)


def load_weights(module: nn.Module, file: Path) -> None:
    """Copy stored trainable weights into `module`. Raises RosepoError when the names differ."""
    stored, own = load_file(file), trainable(module)
    if stored.keys() != own.keys():
        raise RosepoError(f"{file} holds the weights of another model: {sorted(stored.keys() ^ own.keys())[:4]} differ")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored[name])
