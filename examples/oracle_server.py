"""A ranker behind HTTP, as `--oracle.type http --oracle.url http://127.0.0.1:8123/` asks it: a model to copy.

    python examples/oracle_server.py interactions.csv --port 8123

It scores an item by log(1 + how often it stands in the column item_id), plus 1 where the last item of the history and
this one have stood next to each other in somebody's rows. Put your own ranker in place of `Ranker.score`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LARGEST_BODY = 32 << 20


class Ranker:
    """Popularity, and what stood next to what."""

    version = "neighbours-1"

    def __init__(self, rows: Iterable[dict[str, str]]) -> None:
        self.counts: Counter[str] = Counter()
        self.neighbours: set[tuple[str, str]] = set()
        before: dict[str, str] = {}
        for row in rows:
            user, item = row["user_id"], row["item_id"]
            self.counts[item] += 1
            if user in before:
                self.neighbours |= {(before[user], item), (item, before[user])}
            before[user] = item

    def score(self, user: str, history: Sequence[str], items: Sequence[str]) -> tuple[list[float], list[bool]]:
        """Scores of the items, the mean of all for one that it does not know; and which it knows."""
        last = next((item for item in reversed(history) if item in self.counts), None)
        scores = {item: math.log1p(count) + ((last, item) in self.neighbours) for item, count in self.counts.items()}
        mean = sum(scores.values()) / len(scores)
        return [scores.get(item, mean) for item in items], [item in scores for item in items]

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        rows = zip(question["users"], question["histories"], question["items"], strict=True)
        found = [self.score(user, history, items) for user, history, items in rows]
        return {"version": self.version, "scores": [s for s, _ in found], "known": [k for _, k in found]}


class Handler(BaseHTTPRequestHandler):
    ranker: Ranker

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", -1))
        if not 0 <= length <= LARGEST_BODY:
            self.reply(413, {"error": f"give Content-Length, {LARGEST_BODY} at most"})
            return
        try:
            answer = self.ranker.answer(json.loads(self.rfile.read(length)))
        except (ValueError, KeyError, TypeError) as error:
            self.reply(400, {"error": f"{type(error).__name__}: {error}"})
            return
        self.reply(200, answer)

    def reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def server(ranker: Ranker, port: int = 0) -> ThreadingHTTPServer:
    """Listens on this machine alone; `serve_forever` answers. Port 0 takes a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), type("Ranking", (Handler,), {"ranker": ranker}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interactions", type=Path, help="CSV with the columns user_id and item_id")
    parser.add_argument("--port", type=int, default=8123)
    given = parser.parse_args()
    with given.interactions.open(newline="") as file, server(Ranker(csv.DictReader(file)), given.port) as listening:
        print(f"listening at http://127.0.0.1:{listening.server_port}/")
        listening.serve_forever()


if __name__ == "__main__":
    main()
