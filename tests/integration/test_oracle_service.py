"""The oracle behind a real Ray Serve: equal to direct scoring, bounded, and alive after its replica is killed."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from rosepo_ray.errors import BadInput, Refused, RosepoError
from rosepo_ray.on_ray.oracle_client import OracleClient
from rosepo_ray.oracle import store
from rosepo_ray.oracle.judging import MAX_PAIRS, as_request, judge
from rosepo_ray.oracle.sasrec import SasrecScorer
from rosepo_ray.oracle.sasrec_net import SasRec, Shape

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster")]

APP = "oracle-under-test"
ITEMS = [f"item{n}" for n in range(40)]


def oracle():
    shape = Shape(items=40, history=6, hidden=16, layers=2, heads=2, dropout=0.2)
    model = SasRec(shape, 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8.0 if weight.dim() > 1 else 1.0)
    popularity = np.arange(40) % 7  # every seventh item was never seen
    return SasrecScorer.build([model], ITEMS, [popularity], seed=1).with_temperature(1.7)


def question(rows, seed=0):
    random = np.random.default_rng(seed)
    users = [f"user{n}" for n in range(rows)]
    histories = [random.choice(ITEMS, random.integers(1, 9)).tolist() for _ in range(rows)]
    chosen = random.choice(ITEMS, rows).tolist()
    rejected = [
        [None if random.random() < 0.1 else str(random.choice(ITEMS)) for _ in range(n % 4)] for n in range(rows)
    ]
    return users, histories, chosen, rejected


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("oracle")
    store.save(oracle(), path)
    return str(path)


@pytest.fixture(scope="module")
def app(ray_cluster, folder):
    from rosepo_ray.on_ray import oracle_service

    oracle_service.start(folder, APP, 1, 2)
    yield APP
    oracle_service.stop(APP)


def flat(rows):
    return [value for row in rows for value in row]


def wait_for(what, seconds):
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.2)


def test_batches_through_serve_equal_direct_scoring(app):
    asked = question(301)
    answer = OracleClient(app, batch=32).judge(*asked)
    direct = judge(oracle(), as_request(*asked))
    assert [len(row) for row in answer.disagreement] == [len(row) for row in asked[3]]
    np.testing.assert_allclose(np.concatenate(answer.disagreement), flat(direct["disagreement"]), atol=1e-5)
    assert np.concatenate(answer.known).tolist() == flat(direct["known"])
    assert answer.version == oracle().version
    assert answer.versions == [oracle().version] * 301


def test_health_tells_version_and_process(app):
    health = OracleClient(app).health()
    assert (health["version"], health["kind"], health["temperature"]) == (oracle().version, "sasrec", 1.7)
    assert (health["items"], health["threads"]) == (40, 1)
    assert health["pid"] != os.getpid()
    os.kill(health["pid"], 0)  # raises where no such process exists


def test_nothing_listens_for_http(app):
    from ray import serve

    assert serve.status().proxies == {}


def test_a_request_above_the_bound_is_refused_by_the_service_itself(app):
    from ray import serve

    handle = serve.get_app_handle(app)
    large = as_request(["u"], [["item1"]], ["item2"], [["item3"] * (MAX_PAIRS + 1)])
    with pytest.raises(Exception, match=f"one call takes {MAX_PAIRS}") as caught:
        handle.judge.remote(large).result(timeout_s=60)
    assert isinstance(caught.value.cause, BadInput)


def test_the_client_hands_a_refusal_on_without_retrying(app):
    began = time.monotonic()
    with pytest.raises(BadInput, match="one call takes"):
        OracleClient(app).judge(["u"], [["item1"]], ["item2"], [["item3"] * (MAX_PAIRS + 1)])
    assert time.monotonic() - began < 5


def test_the_client_cuts_many_pairs_into_calls_that_fit(app):
    rows = 12
    asked = (["u"] * rows, [["item1"]] * rows, ["item2"] * rows, [["item3"] * 1000] * rows)
    answer = OracleClient(app).judge(*asked)
    assert [len(row) for row in answer.disagreement] == [1000] * rows
    assert len(np.unique(np.concatenate(answer.disagreement).round(5))) == 1


def test_the_same_oracle_may_be_started_again_and_another_is_refused(app, folder, tmp_path):
    from rosepo_ray.on_ray import oracle_service

    pid = OracleClient(app).health()["pid"]
    assert oracle_service.start(folder, app, 1, 2) == oracle().version
    assert OracleClient(app).health()["pid"] == pid
    store.save(oracle().with_temperature(2.0), tmp_path)
    with pytest.raises(Refused, match="already hosts"):
        oracle_service.start(str(tmp_path), app, 1, 2)


def test_an_app_that_is_not_there_fails_loudly(ray_cluster):
    with pytest.raises(RosepoError, match="no-such-app"):
        OracleClient("no-such-app").judge(["u"], [["item1"]], ["item2"], [["item3"]])


def test_a_folder_without_an_oracle_is_refused_before_anything_starts(ray_cluster, tmp_path):
    from rosepo_ray.on_ray import oracle_service

    with pytest.raises(RosepoError, match="holds no oracle"):
        oracle_service.start(str(tmp_path), "empty", 1, 1)


def test_a_replica_that_cannot_load_says_why_and_leaves_nothing_behind(ray_cluster, folder, tmp_path):
    from ray import serve

    from rosepo_ray.on_ray import oracle_service

    store.save(oracle(), tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(RosepoError, match="changed or copied in part"):
        oracle_service.start(str(tmp_path), "torn", 1, 1)
    assert "torn" not in serve.status().applications


def test_a_service_that_does_not_fit_fails_instead_of_hanging(ray_cluster, folder, monkeypatch):
    from rosepo_ray.on_ray import oracle_service

    monkeypatch.setattr(oracle_service, "ORACLE_CPUS", 1000)
    monkeypatch.setattr(oracle_service, "START_SECONDS", 3.0)
    with pytest.raises(RosepoError, match="still DEPLOYING after 3 seconds"):
        oracle_service.start(folder, "too-large", 1, 1)


def kill_amid_calls(app, asked):
    """What a client of one attempt and one of eight are answered when the only replica dies after 6 answers of 24.

    Six calls of 500 rows are under way, fewer than a replica takes in at once.
    """
    outcomes, ended_before = {}, []
    doomed = OracleClient(app).health()["pid"]
    answered = itertools.count(1)

    class Killing(OracleClient):
        def _ask(self, request):
            answer = super()._ask(request)
            if self.attempts == 1 and next(answered) == 6:
                ended_before.extend(outcomes)
                os.kill(doomed, signal.SIGKILL)
            return answer

    def ask(attempts):
        try:
            outcomes[attempts] = Killing(app, batch=500, attempts=attempts, in_flight=3).judge(*asked)
        except RosepoError as error:
            outcomes[attempts] = error

    callers = [threading.Thread(target=ask, args=(attempts,)) for attempts in (1, 8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=180)
    assert not ended_before, "a caller ended before the replica was killed: nothing was tested"
    assert OracleClient(app).health()["pid"] != doomed
    return outcomes[1], outcomes[8]


def test_a_replica_killed_with_calls_in_flight_is_survived(ray_cluster, folder):
    from rosepo_ray.on_ray import oracle_service

    asked = question(12_000, seed=2)
    direct = flat(judge(oracle(), as_request(*asked))["disagreement"])
    oracle_service.start(folder, "killed", 1, 1)
    try:
        # A call that no replica has taken in yet is repeated by Serve itself, so a kill may hit none of the client's.
        for _ in range(4):
            once, eight_times = kill_amid_calls("killed", asked)
            np.testing.assert_allclose(np.concatenate(eight_times.disagreement), direct, atol=1e-5)
            if isinstance(once, RosepoError):
                break
    finally:
        oracle_service.stop("killed")
    # The caller without a second attempt shows that calls were in flight; it says so and invents no answer.
    assert isinstance(once, RosepoError)
    assert "in 1 attempts; the last failure was" in str(once)


def test_a_change_of_version_between_calls_is_reported(ray_cluster, tmp_path):
    from rosepo_ray.on_ray import oracle_service

    first, second = oracle(), oracle().with_temperature(3.0)
    versions = []
    client = OracleClient("swapped")
    for number, judged in enumerate((first, second)):
        store.save(judged, tmp_path / str(number))
        oracle_service.start(str(tmp_path / str(number)), "swapped", 1, 1)
        versions.append(client.judge(*question(3)).version)
        oracle_service.stop("swapped")
    assert versions == [first.version, second.version]


def test_exhausted_attempts_say_what_was_tried(app):
    # A deadline that no call can meet: the client must give up, and say so, not invent an answer.
    client = OracleClient(app, attempts=2, timeout=1e-4)
    with pytest.raises(RosepoError, match="in 2 attempts; the last failure was"):
        client.judge(*question(5))


def test_stop_removes_the_app_and_may_be_repeated(ray_cluster, folder):
    from ray import serve

    from rosepo_ray.on_ray import oracle_service

    oracle_service.start(folder, "short-lived", 1, 1)
    oracle_service.stop("short-lived")
    wait_for(lambda: "short-lived" not in serve.status().applications, 30)
    oracle_service.stop("short-lived")
