"""Ray Data without its noise: settings for one execution, put back afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ray.data import DataContext
from ray.data.context import ShuffleStrategy

NO_PROGRESS_SECONDS = 120  # a layout that does not fit the cluster hangs without a word


@contextmanager
def data_context(
    block_bytes: int | None = None, slow_tasks: bool = False, whole_blocks: bool = False
) -> Iterator[None]:
    """Ray Data, for the length of a `with`: quiet, in order, and failing where nothing moves any more.

    With `slow_tasks` there is no such failure: a task that scores with a language model may honestly take minutes.
    With `whole_blocks` no block is cut, however large.
    """
    context = DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        # Else every error of an actor arrives as "UDF failed to process a data block": pickling drops its cause.
        "raise_original_map_exception": True,
        "execution_no_progress_timeout_s": -1 if slow_tasks else NO_PROGRESS_SECONDS,
        "target_max_block_size": None if whole_blocks else block_bytes or context.target_max_block_size,
        # By default Parquet is read through footer-reading actors and sorted over 200 partitions: 18.8 s to the first
        # batch of 6,000 pairs, most of it the start of processes. So it is 4.9 s, in the same order.
        "use_datasource_v2": False,
        "shuffle_strategy": ShuffleStrategy.SORT_SHUFFLE_PULL_BASED,
    }
    # Ray 2.50, the oldest that will do, has neither that reader nor that time limit, and so nothing to set.
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
    ordered = context.execution_options.preserve_order
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that there is no progress bar
    # What ends an execution is raised, and told once at the end; Ray Data would print it twice before, with pages of
    # traceback and the advice to report a bug of Ray. Its own log file still gets that.
    shown = {handler: handler.level for handler in logger.handlers if isinstance(handler, logging.StreamHandler)}
    try:
        for name in before:
            setattr(context, name, wanted[name])
        for handler in shown:
            handler.setLevel(logging.CRITICAL)
        context.execution_options.preserve_order = True
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        context.execution_options.preserve_order = ordered
        logger.setLevel(level)
        for handler, before_level in shown.items():
            handler.setLevel(before_level)
