"""Checkpoints: trainable weights as safetensors, the optimiser as tensors read with weights_only=True, the position."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rosepo_ray.errors import RosepoError
from rosepo_ray.training.loop import State


def trainable(module: nn.Module) -> dict[str, torch.Tensor]:
    """Trainable parameters by name; a tied weight stands once."""
    return {name: p.detach().contiguous() for name, p in module.named_parameters() if p.requires_grad}


def save(state: State, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(trainable(state.module), folder / "weights.safetensors")
    torch.save(state.optimiser.state_dict(), folder / "optimiser.pt")
    (folder / "position.json").write_text(json.dumps({"step": state.step}))


def load(state: State, folder: Path) -> None:
    """Put the checkpoint in `folder` into `state`. Raises RosepoError when it belongs to another model."""
    load_weights(state.module, folder / "weights.safetensors")
    state.optimiser.load_state_dict(torch.load(folder / "optimiser.pt", map_location="cpu", weights_only=True))
    position = json.loads((folder / "position.json").read_text())
    state.step = position["step"]


def load_weights(module: nn.Module, file: Path) -> None:
    """Copy stored trainable weights into `module`. Raises RosepoError when the names differ."""
    stored, own = load_file(file), trainable(module)
    if stored.keys() != own.keys():
        raise RosepoError(f"{file} holds the weights of another model: {sorted(stored.keys() ^ own.keys())[:4]} differ")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored[name])
