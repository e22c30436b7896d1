"""How settings name an objective: by its type, or a user's own by import path."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rosepo_ray.config.align import AlignSettings
from rosepo_ray.losses import Conservative, DrDpo, Objective, ObjectiveSettings
from rosepo_ray.oracle.constant import Constant


class Mine(ObjectiveSettings):
    type: str
    strength: float = 1.0

    def build(self) -> Objective:
        return Objective(self)


def test_no_type_is_the_conservative_one_and_settings_follow_the_type() -> None:
    assert AlignSettings().objective == Conservative()
    assert AlignSettings(objective={"beta": 0.2}).objective == Conservative(beta=0.2)
    assert AlignSettings(objective={"type": "dr_dpo", "beta_prime": 2}).objective == DrDpo(beta_prime=2.0)


def test_a_users_own_is_found_by_import_path() -> None:
    name = f"{__name__}:Mine"
    assert AlignSettings(objective={"type": name, "strength": 2}).objective == Mine(type=name, strength=2)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"type": "dpo"}, "'dpo' is none of conservative, dr_dpo, robust, simpo"),
        ({"type": "no.such.module:Mine"}, r"cannot be imported \(ModuleNotFoundError"),
        ({"type": f"{__name__}:Yours"}, r"cannot be imported \(AttributeError"),
        ({"type": f"{__name__}:pytest"}, "no settings class of a preference objective"),
        ({"type": "rosepo_ray.oracle.constant:Constant"}, "no settings class of a preference objective"),
        (Constant(), "name a setting below it"),
        ({"type": "simpo", "beta_prime": 1}, "beta_prime"),
        ({"type": f"{__name__}:Mine", "beta": 1}, "beta"),
    ],
)
def test_what_is_no_objective_is_refused(given: object, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        AlignSettings.model_validate({"objective": given})
