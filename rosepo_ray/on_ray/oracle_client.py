"""The client of the hosted oracle: makes batches, keeps several in flight, retries, and otherwise fails loudly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle.judging import JudgeAnswer, JudgeRequest, as_request, batches, check_answer, judgement
from rosepo_ray.oracle.protocol import Judgement
from rosepo_ray.oracle.retries import pause


class OracleClient:
    """Asks the Serve app `app_name` from any process of the same Ray cluster (driver, actor or training worker)."""

    def __init__(
        self, app_name: str, batch: int = 128, attempts: int = 6, in_flight: int = 4, timeout: float = 120.0
    ) -> None:
        """`batch` rows per call, `in_flight` calls at once, each tried `attempts` times for `timeout` seconds.

        Six attempts wait about 16 seconds in sum: longer than a replica takes to be replaced.
        """
        self.app_name, self.batch, self.attempts = app_name, batch, attempts
        self.in_flight, self.timeout = in_flight, timeout

    def judge(
        self,
        user_ids: Sequence[str],
        histories: Sequence[Sequence[str]],
        chosen: Sequence[str],
        rejected: Sequence[Sequence[str | None]],
    ) -> Judgement:
        """The oracle's answers in the order asked.

        Scoring changes nothing, so a call is repeated when its replica died. Raises BadInput for a request that no
        attempt could answer, and RosepoError naming the app, the attempts and the last failure when all are used up;
        there is no default answer.
        """
        pieces = batches(as_request(user_ids, histories, chosen, rejected), self.batch)
        with ThreadPoolExecutor(max_workers=max(1, min(self.in_flight, len(pieces)))) as pool:
            answers = list(pool.map(self._ask, pieces))
        return judgement(answers)

    def health(self) -> dict[str, Any]:
        """What one replica says of itself (see the service)."""
        return dict(self._handle.health.remote().result(timeout_s=self.timeout))

    @cached_property
    def _handle(self) -> Any:
        from ray import serve

        return serve.get_app_handle(self.app_name)

    def _ask(self, request: JudgeRequest) -> JudgeAnswer:
        failures: list[str] = []
        for attempt in range(self.attempts):
            try:
                answer = self._handle.judge.remote(request).result(timeout_s=self.timeout)
            except _transient() as error:
                failures.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
                if attempt + 1 < self.attempts:
                    time.sleep(pause(attempt, f"{self.app_name} {request['user_id'][0]}"))
            except Exception as error:
                raise self._permanent(error) from error
            else:
                return check_answer(request, answer)
        raise RosepoError(
            f"the oracle '{self.app_name}' did not answer about {sum(map(len, request['rejected']))} pairs in "
            f"{self.attempts} attempts; the last failure was {failures[-1]}. Look at `serve status` and the replica's "
            "log, then start the run again: it resumes"
        )

    def _permanent(self, error: Exception) -> Exception:
        # Ray wraps what a replica raised; a refusal is handed on as the refusal that it is.
        cause = getattr(error, "cause", error)
        if isinstance(cause, RosepoError):
            return cause
        return RosepoError(f"the oracle '{self.app_name}' cannot answer: {type(error).__name__}: {error}")


def _transient() -> tuple[type[BaseException], ...]:
    """Failures of the machinery, not of the request: worth another attempt."""
    from ray import exceptions
    from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError

    return (
        exceptions.RayActorError,  # ActorDiedError and ActorUnavailableError among them
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.RpcError,
        ReplicaUnavailableError,
        BackPressureError,
        TimeoutError,
    )
