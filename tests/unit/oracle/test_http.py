"""A ranker over HTTP, asked of real servers on this machine: one that works, and ones that fail in every way."""

import importlib.util
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.errors import BadInput, Refused, RosepoError
from rosepo_ray.losses import Conservative
from rosepo_ray.oracle import Http, Making, http, http_endpoint, store
from rosepo_ray.oracle.http import HttpOracle, _requests
from rosepo_ray.run.sources import build
from rosepo_ray.testing.oracle import OracleContract

_FILE = Path(__file__).parents[3] / "examples" / "oracle_server.py"
_SPEC = importlib.util.spec_from_file_location("oracle_server", _FILE)
oracle_server = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle_server)

ROWS = [{"user_id": user, "item_id": item} for user, items in (("u", "aabbc"), ("v", "dab")) for item in items]
ASKED = (["u", "v"], [["a"], []], [["a", "b"], ["c"]])
GOOD = {"version": "7", "scores": [[1, 2.5], [3]]}


@pytest.fixture(autouse=True)
def no_proxy_and_no_pauses(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(http_endpoint.time, "sleep", lambda seconds: None)


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def ranker() -> Iterator[str]:
    with running(oracle_server.server(oracle_server.Ranker(ROWS))) as url:
        yield url


@contextmanager
def answering(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[tuple[dict, dict]]]]:
    """A server that gives these answers one after the other, the last for ever; and the headers and bodies it got."""
    got: list[tuple[dict, dict]] = []

    class Scripted(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = answers[min(len(got), len(answers) - 1)]
            got.append((dict(self.headers), body))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Scripted)) as url:
        yield url, got


def oracle(url: str, **settings) -> HttpOracle:
    return HttpOracle(Http(url=url, **settings), "7", 1.0)


def good(**changed) -> tuple[int, bytes]:
    return 200, json.dumps({**GOOD, **changed}).encode()


class TestAgainstTheExample(OracleContract):
    known, unknown = ("a", "b", "c", "d"), ("stranger",)

    @pytest.fixture(autouse=True)
    def _server(self, ranker):
        self.url = ranker

    def make(self):
        return Http(url=self.url, batch=3).prepare(Making((), None, 5, 1, None))

    def test_scores_by_hand(self):
        # a 3, b 3, c 1, d 1 times; next to b stood a, b and c.
        (scores,), _ = self.make().score(["u"], [["a", "b"]], [["a", "b", "c", "d"]])
        ln = [1.3862944, 1.3862944, 0.6931472, 0.6931472]
        assert scores.tolist() == pytest.approx([ln[0] + 1, ln[1] + 1, ln[2] + 1, ln[3]], abs=1e-6)

    def test_a_catalogue_goes_in_bounded_pieces(self, monkeypatch):
        whole = self.make().score(*self.rows())
        monkeypatch.setattr(http, "_SCORES_AT_ONCE", 2)
        pieces = self.make().score(*self.rows())
        assert [r.tolist() for part in whole for r in part] == [r.tolist() for part in pieces for r in part]

    def test_saved_it_names_its_address_and_no_token(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RANKER_TOKEN", "s3cret")
        made = Http(url=self.url, token_env="RANKER_TOKEN").prepare(Making((), None, 5, 1, None))
        store.save(made.with_temperature(1.25), tmp_path)
        text = (tmp_path / "oracle.json").read_text()
        assert "s3cret" not in text
        assert json.loads(text)["version"] == "neighbours-1/T=1.25"
        assert json.loads(text)["settings"]["url"] == self.url


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 4))
def test_pieces_cover_every_item_once_within_both_bounds(sizes, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "_SCORES_AT_ONCE", 4)
        groups = list(_requests(sizes, rows))
    assert all(1 <= len(group) <= rows and 1 <= sum(s.stop - s.start for _, s in group) <= 4 for group in groups)
    covered = [(row, place) for group in groups for row, part in group for place in range(part.start, part.stop)]
    assert covered == [(row, place) for row, size in enumerate(sizes) for place in range(size)]


def test_the_question_and_the_answer_without_known():
    with answering(good()) as (url, got):
        scores, known = oracle(url).score(*ASKED)
    assert got[0][1] == {"users": ["u", "v"], "histories": [["a"], []], "items": [["a", "b"], ["c"]]}
    assert "Authorization" not in got[0][0]
    assert [row.tolist() for row in scores] == [[1.0, 2.5], [3.0]]
    assert [row.tolist() for row in known] == [[True, True], [True]]


def test_it_is_asked_again_where_it_is_busy_or_broken():
    for failures in ([503, 429], [500, 502], [429]):
        with answering(*[(status, b"") for status in failures], good()) as (url, got):
            assert oracle(url).score(*ASKED)[0][1].tolist() == [3.0]
            assert len(got) == len(failures) + 1


def test_an_answer_that_breaks_off_is_asked_for_again():
    class Torn(BaseHTTPRequestHandler):
        asked = 0

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            Torn.asked += 1
            body = good()[1]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if Torn.asked > 2 else body[:9])

        def log_message(self, *_: object) -> None:
            pass

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Torn)) as url:
        assert oracle(url).score(*ASKED)[0][1].tolist() == [3.0]
    assert Torn.asked == 3


def test_attempts_end_and_say_what_was_tried():
    with answering((503, b"")) as (url, got), pytest.raises(RosepoError, match=r"tried 4 x; .*it answers 503") as told:
        oracle(url, attempts=4).score(*ASKED)
    assert len(got) == 4
    assert url in str(told.value)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((400, b"{}"), "answers 400"),
        ((401, b""), r"answers 401.*oracle\.token_env"),
        ((302, b""), "answers 302"),
        ((204, b""), "answers 204"),
        ((200, b"<html>"), "answers something else"),
        ((200, b"[" * 5000), "answers something else"),
        ((200, b'{"version": "7", "scores": [[1, NaN], [3]]}'), r"scores\.0\.1"),
        ((200, b'{"version": "7", "scores": [[1, 1e400], [3]]}'), r"scores\.0\.1"),
        (good(scores=[[1, 1e39], [3]]), r"scores\.0\.1"),
        (good(scores=[[1, True], [3]]), r"scores\.0\.1"),
        (good(scores=[[1, "2"], [3]]), r"scores\.0\.1"),
        (good(scores=[[1, None], [3]]), r"scores\.0\.1"),
        (good(scores=[[1, 2]]), r"2 values of 'scores' in 1 rows, asked were 3 in 2"),
        (good(scores=[[1], [2, 3]]), r"3 values of 'scores' in 2 rows"),
        (good(scores=[1, 2]), r"scores\.0"),
        (good(known=[[True, True]]), "values of 'known'"),
        (good(known=[[1, 0], [1]]), r"known\.0\.0"),
        (good(version=""), "version"),
        (good(version=7), "version"),
        (good(version="a\nb"), "version"),
        ((200, b'{"scores": [[1, 2.5], [3]]}'), "version: Field required"),
        (good(more="x" * 70_000), "more than the"),
    ],
)
def test_nonsense_is_refused_at_once_with_a_sentence(answer, told):
    with answering(answer) as (url, got), pytest.raises(RosepoError, match=told) as caught:
        oracle(url).score(*ASKED)
    assert len(got) == 1
    assert str(caught.value).startswith(f"the oracle at {url} ")
    assert "docs/method.md" in str(caught.value)


def test_another_version_in_the_middle_of_a_run_is_refused():
    with answering(good(), good(version="8")) as (url, _):
        judge = oracle(url)
        judge.score(*ASKED)
        with pytest.raises(Refused, match="is now '8', but this run began with '7'"):
            judge.score(*ASKED)


def test_a_version_that_was_asked_for_is_kept_to():
    with answering(good(scores=[])) as (url, _):
        assert Http(url=url, version="7").prepare(Making((), None, 5, 1, None)).remote == "7"
        with pytest.raises(BadInput, match=r"oracle\.version is '8', but the oracle at .* calls itself '7'"):
            Http(url=url, version="8").refuse_hopeless_run(Conservative())
        with pytest.raises(BadInput, match="calls itself '7'"):
            Http(url=url, version="8").prepare(Making((), None, 5, 1, None))


def test_a_token_comes_from_the_environment_and_is_never_told(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with answering(good()) as (url, got):
        oracle(url).score(*ASKED)
        monkeypatch.setenv("RANKER_TOKEN", "s3cret")
        asker = oracle(url, token_env="RANKER_TOKEN")
        asker.score(*ASKED)
        for bad in ("", "s3cret\nX: y", "s3crét"):
            monkeypatch.setenv("RANKER_TOKEN", bad)
            with pytest.raises(BadInput, match=r"RANKER_TOKEN, named by oracle\.token_env, holds no token") as told:
                asker.score(*ASKED)
            assert "s3c" not in str(told.value)
    assert [headers.get("Authorization") for headers, _ in got] == [None, "Bearer s3cret"]
    assert "s3cret" not in repr(asker)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"url": "http://me:s3cret@ranker/"}, "holds credentials"),
        ({"url": "http://ranker/?api_key=s3cret"}, "holds credentials"),
        ({"url": "ranker:80"}, "is no address"),
        ({"url": "ftp://ranker/"}, "is no address"),
        ({"url": "http://"}, "is no address"),
        ({"url": "http://ranker/", "token_env": "Bearer s3cret"}, "give the name, not the token"),
        ({}, r"oracle\.url: it is not given"),
    ],
)
def test_settings_that_cannot_be_used(settings, told):
    with pytest.raises(BadInput, match=told) as caught:
        build({"oracle": {"type": "http", **settings}})
    assert "s3cret" not in str(caught.value)


def test_before_a_run_an_address_where_nothing_listens_is_one_sentence_within_seconds():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url, began = f"http://127.0.0.1:{taken.getsockname()[1]}/", time.monotonic()
        with pytest.raises(
            BadInput, match=r"did not answer, tried 1 x; the last failure was: Connection refused\. Start"
        ):
            Http(url=url).refuse_hopeless_run(Conservative())
    assert time.monotonic() - began < 5


def test_an_address_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(http, "_FIRST_LOOK", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(BadInput, match=r"it took longer than oracle\.timeout"):
            Http(url=f"http://127.0.0.1:{silent.getsockname()[1]}/").refuse_hopeless_run(Conservative())


def test_before_a_run_one_request_asks_for_the_version_alone():
    with answering(good(scores=[])) as (url, got):
        Http(url=url).refuse_hopeless_run(Conservative())
    assert [body for _, body in got] == [{"users": [], "histories": [], "items": []}]
