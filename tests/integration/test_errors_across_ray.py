"""What a user is told of an error that is raised in a Ray Data actor or a task, and what Ray prints meanwhile."""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
import pytest

from rosepo_ray.errors import BadInput, NoSpace, RosepoError, original, short
from rosepo_ray.run.sources import build
from rosepo_ray.storage import disk_space

SENTENCE = "3 titles given, 4 wanted, add one"

pytestmark = pytest.mark.usefixtures("ray_cluster")


def raises() -> type:
    """Made in a function, so that it travels by value: workers cannot import a test module."""

    class Raises:
        """An actor that raises what it was given, in its constructor or when it is called."""

        def __init__(self, error: Exception, early: bool) -> None:
            if early:
                raise error
            self.error = error

        def __call__(self, batch: Any, key: str = "") -> Any:
            raise self.error

    return Raises


def raised_in_an_actor(error: Exception, early: bool = False) -> BaseException:
    import ray

    from rosepo_ray.on_ray import data_context

    with data_context.data_context(slow_tasks=True):
        rows = ray.data.from_items([{"n": n} for n in range(4)], override_num_blocks=4)
        stream = rows.map_batches(
            raises(),
            fn_constructor_args=(error, early),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=2),
            num_cpus=0.5,
        )
        with pytest.raises(Exception) as caught:
            list(stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    return caught.value


@pytest.mark.parametrize("kind", [BadInput, NoSpace, RosepoError])
def test_an_error_of_a_ray_data_actor_keeps_type_sentence_and_exit_code(
    kind: type[RosepoError], capfd: pytest.CaptureFixture[str]
):
    error = raised_in_an_actor(kind(SENTENCE))
    found = original(error)
    assert type(found) is kind
    assert (str(found), found.exit_code, short(error)) == (SENTENCE, kind.exit_code, SENTENCE)
    assert type(disk_space.told(error, "/tmp")) is kind
    printed = "".join(capfd.readouterr())
    for words in ("Traceback", "ERROR", SENTENCE, "ray-project/ray/issues/new"):
        assert words not in printed


def test_any_other_error_keeps_its_name_and_the_terminal_quiet(capfd: pytest.CaptureFixture[str]):
    error = raised_in_an_actor(KeyError("boom"))
    assert original(error) is None
    assert short(error).startswith("KeyError: ")
    assert "boom" in short(error)
    assert "Traceback" not in "".join(capfd.readouterr())
    handlers = [each for each in logging.getLogger("ray.data").handlers if isinstance(each, logging.StreamHandler)]
    assert handlers
    assert all(each.level < logging.ERROR for each in handlers)  # put back


def test_an_error_of_an_actors_constructor_keeps_type_sentence_and_exit_code():
    error = raised_in_an_actor(BadInput(SENTENCE), early=True)
    found = original(error)
    assert type(found) is BadInput
    assert (str(found), found.exit_code, short(error)) == (SENTENCE, 2, SENTENCE)
    assert short(raised_in_an_actor(ValueError("boom"), early=True)) == "ValueError: boom"


@pytest.mark.parametrize("early", [False, True])
def test_a_stages_actor_that_refuses_prints_no_page(early: bool, capfd: pytest.CaptureFixture[str]):
    """Ray prints what an actor's constructor raises, so the stages' actors keep a refusal for their first call."""
    from rosepo_ray.on_ray import scoring

    settings = build({"cluster": {"actors": 2}})
    todo = [scoring.Unit(n, "examples", n, n + 1) for n in range(3)]
    with pytest.raises(Exception) as caught:
        list(
            scoring.run(
                settings.cluster, todo, lambda unit: pa.table({"x": [1]}), raises(), (BadInput(SENTENCE), early)
            )
        )
    found = original(caught.value)
    assert type(found) is BadInput
    assert (str(found), found.exit_code) == (SENTENCE, 2)
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    assert SENTENCE not in printed


def test_an_error_of_a_task_keeps_type_sentence_and_exit_code(capfd: pytest.CaptureFixture[str]):
    import ray

    @ray.remote(num_cpus=0.5)
    def inner() -> None:
        raise BadInput(SENTENCE)

    @ray.remote(num_cpus=0.5)
    def outer() -> None:
        ray.get(inner.remote())

    for task in (inner, outer):
        with pytest.raises(ray.exceptions.RayTaskError) as caught:
            ray.get(task.remote())
        found = original(caught.value)
        assert type(found) is BadInput
        assert (str(found), found.exit_code, short(caught.value)) == (SENTENCE, 2, SENTENCE)
    assert "Traceback" not in "".join(capfd.readouterr())
