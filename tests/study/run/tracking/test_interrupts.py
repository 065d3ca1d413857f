"""Runs that are resumed, that fail, or whose tracking fails."""

import json
import time
from collections.abc import Callable

import pytest
import wandb
from wandb.sdk import wandb_setup

from study.run.tracking import Tracking, WandbLogger
from tests.study.run.tracking.offline import ACCURACY, after, parts


def test_a_resumed_run_goes_on_at_the_next_step(tracking: Tracking, open_logger: Callable[..., WandbLogger]) -> None:
    logger = open_logger()
    after(logger, 0, 1)
    logger.close()
    logger = open_logger()
    after(logger, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    first, second = parts(tracking)
    assert first.run.run_id == second.run.run_id == "abc123"
    assert first.run.start_time.ToNanoseconds() < second.run.start_time.ToNanoseconds(), "wandb sync sorts by it"
    assert first.steps == [0, 1]
    assert second.steps[0] == second.rows[0]["experience"] == 2
    assert first.exit_codes == [255]
    assert second.exit_codes == [0]


def test_a_run_that_failed_is_shown_as_failed_and_leaves_its_next_row_free(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    logger = open_logger()
    after(logger, 0)
    logger.finish(outcome="failed", accuracy=ACCURACY[:1], summary={"error": "out of memory"})
    open_logger(run_id="early").finish(outcome="failed", accuracy=[], summary={})
    part, early = sorted(parts(tracking), key=lambda part: part.run.run_id)
    assert part.exit_codes == early.exit_codes == [1]
    assert part.steps == [0]
    assert part.summary["outcome"] == "failed"
    assert part.summary["error"] == "out of memory"
    assert json.loads(part.media("table").read_text())["data"] == [[0, *ACCURACY[0]]]
    assert early.rows == []


def test_a_dead_service_is_one_warning_and_the_next_run_is_tracked(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    logger = open_logger()
    after(logger, 0)
    service = wandb_setup.singleton().ensure_service()._proc._process
    service.kill()
    service.wait(5)
    time.sleep(0.1)  # until the connection is seen to be broken
    with pytest.warns(RuntimeWarning, match="W&B failed, the run goes on without"):
        after(logger, 1)
    after(logger, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    logger = open_logger(run_id="next")
    after(logger, 0, 1, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    assert [row["experience"] for row in parts(tracking, "next")[0].rows[:3]] == [0, 1, 2]


def test_a_run_that_cannot_be_opened_is_one_warning(open_logger: Callable[..., WandbLogger]) -> None:
    with pytest.warns(RuntimeWarning, match="W&B failed"):
        logger = open_logger(run_id="no/slashes")
    after(logger, 0)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})


def test_an_interrupt_is_not_swallowed(open_logger: Callable[..., WandbLogger], monkeypatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    logger = open_logger()
    monkeypatch.setattr(wandb.Run, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        after(logger, 0)
    logger.close()
