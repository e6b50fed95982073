"""Logging never stands in the way: not of the loop, and not of the end."""

import json
import logging
import os
import threading
import time

import pytest
import structlog

from brokerd.logs import LineQueue, _configure, logging_aside


@pytest.fixture(autouse=True)
def _restored():
    """Give the root logger and structlog back as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, _ = handlers, root.setLevel(level)
    structlog.reset_defaults()


def test_a_reader_that_stands_still_stops_nobody():
    """F68: the pipe is full, so many lines wait, the rest is dropped at once, then told."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        lines = LineQueue(stream, max_lines=500)
        _configure("info", lines)
        lines.start()
        log = structlog.get_logger("test")
        slowest = 0.0
        for number in range(5_000):
            began_at = time.monotonic()
            log.info("test.happened", number=number, filler="x" * 200)
            slowest = max(slowest, time.monotonic() - began_at)
        assert slowest < 1.0
        told = []
        while not told or told[-1].get("number") != 9_999:
            told.append(json.loads(reader.readline()))
            if len(told) == 300:
                log.info("test.happened", number=9_999)
        lines.stop()
    events = [line["event"] for line in told]
    notes = [event for event in events if event.startswith("log lines dropped: ")]
    dropped = sum(int(note.rsplit(" ", 1)[1]) for note in notes)
    assert dropped > 4_000, "the pipe holds some 250 lines, and 500 wait"
    assert dropped + events.count("test.happened") == 5_001


def test_the_last_lines_are_written_before_the_end(capfd):
    """What was logged last is there when the block ends."""
    with os.fdopen(os.dup(1), "w") as stream, logging_aside(level="info", stream=stream):
        structlog.get_logger("test").info("test.ended", number=7)
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["number"] == 7


def test_a_stuck_log_keeps_nobody_from_ending():
    """A pipe that nobody reads costs two seconds at most."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        with os.fdopen(reading):
            began_at = time.monotonic()
            with logging_aside(level="info", stream=stream):
                for _ in range(2_000):
                    structlog.get_logger("test").info("test.happened", filler="x" * 200)
            assert time.monotonic() - began_at < 4.0
        _wait_for_writers()


def _wait_for_writers():
    """Wait until no thread writes: its file's number may be that of another test's file next."""
    for thread in threading.enumerate():
        if thread.name == "log":
            thread.join()
