"""What every oracle promises, as tests. Inherit :class:`OracleContract`, and pytest runs them on yours."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle import store
from rosepo_ray.oracle.protocol import Oracle

TOLERANCE = 1e-5


class OracleContract:
    """Returns the oracle under test from `make`: the same whenever it is called, with the temperature 1."""

    known: ClassVar[Sequence[str]]
    """Every item that it knows for each history, three at least."""
    unknown: ClassVar[Sequence[str]]
    """Items that it does not know; none where it knows all that there are."""

    def make(self) -> Oracle:
        raise NotImplementedError

    def rows(self) -> tuple[list[str], list[list[str]], list[list[str]]]:
        """Users, histories of known items, and the items asked for: as many as there are, in changing order."""
        count, everything = 7, [*self.known, *self.unknown]
        histories = [list(self.known[: 1 + n % 3]) for n in range(count)]
        return [f"u{n}" for n in range(count)], histories, [np.roll(everything, n).tolist() for n in range(count)]

    def test_one_score_and_flag_per_item_in_the_rows_order(self) -> None:
        a, b, c = self.known[:3]
        scores, known = self.make().score(["u", "v", "w"], [[a], [b, c], [a]], [[a, b], [], [c, a, b]])
        assert [len(row) for row in scores] == [len(row) for row in known] == [2, 0, 3]
        assert all(row.dtype == np.float32 and np.isfinite(row).all() for row in scores)
        assert all(row.dtype == bool and row.all() for row in known)
        assert self.make().score([], [], []) == ([], [])

    def test_a_score_does_not_depend_on_the_other_rows_or_items(self) -> None:
        oracle, (users, histories, items) = self.make(), self.rows()
        together, flags = oracle.score(users, histories, items)
        for row, wanted in enumerate(items):
            for place, item in enumerate(wanted):
                (alone,), (flag,) = oracle.score([users[row]], [histories[row]], [[item]])
                np.testing.assert_allclose(alone[0], together[row][place], atol=TOLERANCE)
                assert flag[0] == flags[row][place]

    def test_it_tells_items_apart(self) -> None:
        (scores,), _ = self.make().score(["u"], [list(self.known[:2])], [list(self.known)])
        assert np.ptp(scores) > 10 * TOLERANCE

    def test_unknown_items_are_flagged_and_get_the_mean_over_the_known_ones(self) -> None:
        for scores, known, wanted in zip(*self.make().score(*self.rows()), self.rows()[2], strict=True):
            assert known.tolist() == [item in self.known for item in wanted]
            np.testing.assert_allclose(scores[~known], scores[known].mean(), atol=TOLERANCE)

    def test_unknown_items_of_a_history_are_skipped(self) -> None:
        a, b, _ = self.known[:3]
        histories = [[a, *self.unknown, b], [a, b]]
        (one, two), _ = self.make().score(["u", "u"], histories, [list(self.known)] * 2)
        np.testing.assert_allclose(one, two, atol=TOLERANCE)

    def test_unequal_lists_are_refused(self) -> None:
        try:
            self.make().score(["u", "v"], [[self.known[0]]], [[self.known[1]]])
        except RosepoError:
            return
        raise AssertionError("two users with one history and one list of items were not refused")

    def test_the_version_is_stable_and_names_the_temperature(self) -> None:
        oracle = self.make()
        assert oracle.version
        assert oracle.version == self.make().version
        warmer = oracle.with_temperature(2.0)
        assert (warmer.temperature, oracle.temperature) == (2.0, 1.0)
        assert warmer.version != oracle.version == warmer.with_temperature(1.0).version

    def test_a_temperature_must_be_positive(self) -> None:
        for temperature in (0.0, -1.0, float("nan")):
            try:
                self.make().with_temperature(temperature)
            except RosepoError:
                continue
            raise AssertionError(f"the temperature {temperature} was not refused")

    def test_saved_and_loaded_it_answers_the_same(self) -> None:
        oracle = self.make().with_temperature(0.7)
        with tempfile.TemporaryDirectory() as folder:
            version = store.save(oracle, folder)
            again = store.load(folder)
            assert version == oracle.version == again.version == store.version(folder)
        assert (again.kind, again.temperature, again.items) == (oracle.kind, 0.7, oracle.items)
        for mine, theirs in zip(oracle.score(*self.rows()), again.score(*self.rows()), strict=True):
            assert [row.tolist() for row in mine] == [row.tolist() for row in theirs]
