"""The project's errors after Ray has carried them: pickled, wrapped, annotated. Without a cluster."""

from __future__ import annotations

import errno
import pickle

import pytest
from ray.exceptions import ActorDiedError, RayError, RayTaskError, UserCodeException

from rosepo_ray.errors import BadInput, NoSpace, Refused, RosepoError, Stopped, original, short
from rosepo_ray.storage import disk_space

SENTENCE = "3 titles given, 4 wanted, add one"
PAGE = "Traceback (most recent call last):\n" + '  File "worker.py", line 1, in work\n' * 80


def carried(error: BaseException) -> BaseException:
    """What `ray.get` raises in the driver for an error of a task."""
    task = RayTaskError("work", f"{PAGE}{type(error).__name__}: {error}", error)
    return RayError.from_bytes(task.to_bytes()).as_instanceof_cause()


@pytest.mark.parametrize("kind", [RosepoError, BadInput, Refused, NoSpace, Stopped])
def test_type_sentence_and_exit_code_come_out_of_a_task(kind: type[RosepoError]):
    sent = kind(SENTENCE)
    sent.stage = "reject"
    error = carried(sent)
    assert isinstance(error, kind)  # of a class that Ray makes, whose text is the page
    assert "worker.py" in str(error)
    again = RayError.from_bytes(error.to_bytes())  # and once more through a second task
    for wrapped in (error, again, carried(again)):
        found = original(wrapped)
        assert type(found) is kind
        assert (str(found), found.exit_code, found.stage) == (SENTENCE, kind.exit_code, "reject")
        assert short(wrapped) == SENTENCE
        told = disk_space.told(wrapped, "/tmp")
        assert type(told) is kind
        assert str(told) == SENTENCE


def test_a_full_disk_is_told_rather_than_the_plain_error_that_it_caused(tmp_path):
    """A RosepoError of no kind says less than the full disk below it, also when Ray carries it."""
    plain = RosepoError("training failed")
    error = carried(plain)
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    told = disk_space.told(error, str(tmp_path))
    assert isinstance(told, NoSpace)
    assert f"{tmp_path} has " in str(told)


def test_what_ray_data_writes_into_an_error_is_not_its_sentence():
    error = BadInput(SENTENCE)
    error.args = (f"{error.args[0]}\nFailed to apply UDF transform after 1/1 attempts",)
    assert str(error) == SENTENCE
    assert str(pickle.loads(pickle.dumps(error))) == SENTENCE
    found = original(carried(error))
    assert type(found) is BadInput
    assert str(found) == SENTENCE


def test_the_nearest_error_counts():
    outer = Refused("not that one")
    outer.__cause__ = carried(BadInput(SENTENCE))
    assert original(outer) is outer
    other = ValueError("y")
    other.__cause__ = KeyError("x")
    assert original(other) is None
    assert original(carried(other)) is None
    assert short(carried(other)) == "ValueError: y"


def died(error: BaseException) -> ActorDiedError:
    """What the driver gets where an actor's constructor raised: text alone."""
    raised = f"{type(error).__module__}.{type(error).__qualname__}: {error}"
    first = f"{PAGE}{__name__}.Other: before\n\nDuring handling of the above exception, another exception occurred:\n\n"
    task = RayTaskError("Actor.__init__", f"{first}{PAGE}{raised}\n", error)
    return RayError.from_bytes(ActorDiedError.from_task_error(task).to_bytes())


def test_an_error_of_a_constructor_is_read_from_the_text_that_ray_keeps():
    error = died(BadInput(SENTENCE))
    error.__cause__ = UserCodeException()  # as empty as the SystemException that Ray Data adds
    found = original(error)
    assert type(found) is BadInput
    assert (str(found), short(error)) == (SENTENCE, SENTENCE)
    assert original(died(ValueError("boom"))) is None
    assert short(died(ValueError("boom"))) == "builtins.ValueError: boom"
    # Only what a constructor raised is read from text, and only this module's kinds of errors.
    assert original(RayTaskError("work", f"{PAGE}rosepo_ray.errors.BadInput: x", KeyError("x"))) is None
    assert original(ActorDiedError(RayTaskError("A", "rosepo_ray.errors.Iterator: x", KeyError("x")))) is None


def test_ray_datas_empty_system_exception_does_not_speak_for_an_actor_that_died():
    from ray.data.exceptions import SystemException

    error = ActorDiedError()
    error.__cause__ = SystemException()
    assert short(error) == "ActorDiedError: The actor died unexpectedly before finishing this task."
