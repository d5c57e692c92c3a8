import threading
import time

import numpy as np
import pytest
from numba import config

from nbnorm._jit import kernel
from nbnorm._team import Team, barrier, new_sync

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="interpreted teams have one thread")


def nothing():
    pass


@kernel
def relay(tid, threads, sync, turns, log):
    """In each turn another thread writes what all the others read in the next one."""
    for turn in range(turns):
        if turn % threads == tid:
            log[0] += turn
        barrier(sync, threads)
        log[1 + tid] += log[0]
        barrier(sync, threads)


@compiled
@pytest.mark.parametrize("threads", [2, 3, 4])
def test_barrier(threads):
    turns, log = 300, np.zeros(1 + threads, np.int64)
    with Team(threads) as team:
        for repeat in range(1, 4):
            log[:] = 0
            team.run(relay, (new_sync(), turns, log), nothing, nothing)
            sums = np.cumsum(np.arange(turns))
            assert log.tolist() == [sums[-1]] + [sums.sum()] * threads, repeat


def test_barrier_of_one_thread():
    log = np.zeros(2, np.int64)
    relay(0, 1, new_sync(), 5, log)
    assert log.tolist() == [10, 20]


def test_run_calls_every_thread_once():
    seen = []
    with Team(3) as team:
        for _ in range(2):
            team.run(lambda number, size, text: seen.append((number, size, text)), ("a",), nothing, nothing)
    assert sorted(seen) == sorted([(i, 3, "a") for i in range(3)] * 2)


def test_team_ends_its_threads():
    before = threading.active_count()
    with Team(2) as team:
        team.run(lambda number, size: None, (), nothing, nothing)
        assert threading.active_count() == before + 2
    assert threading.active_count() == before


def test_run_polls_while_the_threads_work():
    polls = []
    with Team(2) as team:
        team.run(lambda number, size: time.sleep(0.35), (), lambda: polls.append(1), nothing)
    assert polls


def test_run_raises_what_a_thread_raises_and_stays_usable():
    def fail(number, size):
        if number == 1:
            raise ZeroDivisionError("in a thread")

    with Team(2) as team:
        with pytest.raises(ZeroDivisionError, match="in a thread"):
            team.run(fail, (), nothing, nothing)
        seen = []
        team.run(lambda number, size: seen.append(number), (), nothing, nothing)
        assert sorted(seen) == [0, 1]


def test_run_stops_the_threads_when_poll_raises():
    stop, ended = threading.Event(), []

    def work(number, size):
        stop.wait(60)
        ended.append(number)

    def poll():
        raise KeyboardInterrupt

    with Team(2) as team:
        with pytest.raises(KeyboardInterrupt):
            team.run(work, (), poll, stop.set)
        assert sorted(ended) == [0, 1]  # it came back with nobody at work


@pytest.mark.parametrize("place", ["before", "after"])
def test_run_interrupted_at_its_beginning(place):
    # An interrupt before the threads have started must not wait for them.
    class Interrupted(threading.Event):
        def clear(self):
            if place == "after":
                super().clear()
            raise KeyboardInterrupt

    outcome = []

    def call():
        with Team(2) as team:
            team._finished = Interrupted()
            try:
                team.run(lambda number, size: None, (), nothing, nothing)
            except KeyboardInterrupt:
                outcome.append("interrupted")

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(20)
    assert outcome == ["interrupted"]
