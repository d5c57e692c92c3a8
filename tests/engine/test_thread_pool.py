import threading
import time

import numpy as np
import pytest
from numba import config

from nbnorm.compile.atomics import atomic_add, atomic_load, pause
from nbnorm.compile.kernels import kernel
from nbnorm.engine.thread_pool import ThreadPool, barrier, new_sync, next_chunk

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="interpreted code has one thread")


def nothing():
    pass


@kernel
def relay(tid, threads, sync, turns, log):
    """In each turn another thread writes what all the others read in the next one."""
    for turn in range(turns):
        if turn % threads == tid:
            log[0] += turn
        barrier(sync, tid, threads)
        log[1 + tid] += log[0]
        barrier(sync, tid, threads)


@compiled
@pytest.mark.parametrize("threads", [2, 3, 4])
def test_barrier(threads):
    turns, log = 300, np.zeros(1 + threads, np.int64)
    with ThreadPool(threads) as pool:
        for repeat in range(1, 4):
            log[:] = 0
            pool.run(relay, (new_sync(threads), turns, log), nothing, nothing)
            sums = np.cumsum(np.arange(turns))
            assert log.tolist() == [sums[-1]] + [sums.sum()] * threads, repeat


def test_barrier_of_one_thread():
    log = np.zeros(2, np.int64)
    relay(0, 1, new_sync(1), 5, log)
    assert log.tolist() == [10, 20]


@kernel
def take_all(tid, threads, sync, turns, totals, count):
    """Count in each turn the items of three queues, the first one only in every other turn."""
    for turn in range(turns):
        for queue in range(turn % 2, 3):
            while True:
                first, last = next_chunk(sync, queue, tid, threads, totals[queue])
                if first == last:
                    break
                for item in range(first, last):
                    count[queue, item] += 1
        barrier(sync, tid, threads)


@pytest.mark.parametrize("threads", [1, *[pytest.param(n, marks=compiled) for n in (2, 3, 4)]])
def test_next_chunk_gives_every_item_to_one_thread_once(threads):
    turns, totals = 400, np.array([1, 13, 100])
    count = np.zeros((3, 100), np.int64)
    arguments = new_sync(threads), turns, totals, count
    if threads == 1:
        take_all(0, 1, *arguments)
    else:
        with ThreadPool(threads) as pool:
            pool.run(take_all, arguments, nothing, nothing)
    expected = np.arange(100) < totals[:, None]
    np.testing.assert_array_equal(count, expected * np.array([[turns // 2], [turns], [turns]]))


@kernel
def take_beside_one_that_waits(tid, threads, sync, total, owner, signals):
    """Thread 0 takes one chunk, and goes on when thread 1 has found nothing more."""
    while tid == 1 and atomic_load(signals, 0) == 0:
        pause()
    while True:
        first, last = next_chunk(sync, 0, tid, threads, total)
        if first == last:
            break
        owner[first:last] = tid
        atomic_add(signals, 0, 1)
        while tid == 0 and atomic_load(signals, 1) == 0:
            pause()
    atomic_add(signals, 1, 1)


@compiled
def test_a_thread_that_has_finished_helps_one_that_has_not():
    total = 64
    owner, signals = np.full(total, -1), np.zeros(2, np.int64)
    with ThreadPool(2) as pool:
        pool.run(take_beside_one_that_waits, (new_sync(2), total, owner, signals), nothing, nothing)
    first, second = owner[: total // 2], owner[total // 2 :]
    assert (second == 1).all()
    assert set(first) == {0, 1}


def test_run_calls_every_thread_once():
    seen = []
    with ThreadPool(3) as pool:
        for _ in range(2):
            pool.run(lambda number, size, text: seen.append((number, size, text)), ("a",), nothing, nothing)
    assert sorted(seen) == sorted([(i, 3, "a") for i in range(3)] * 2)


def test_team_ends_its_threads():
    before = threading.active_count()
    with ThreadPool(2) as pool:
        pool.run(lambda number, size: None, (), nothing, nothing)
        assert threading.active_count() == before + 2
    assert threading.active_count() == before


def test_run_polls_while_the_threads_work():
    polls = []
    with ThreadPool(2) as pool:
        pool.run(lambda number, size: time.sleep(0.35), (), lambda: polls.append(1), nothing)
    assert polls


def test_run_raises_what_a_thread_raises_and_stays_usable():
    def fail(number, size):
        if number == 1:
            raise ZeroDivisionError("in a thread")

    with ThreadPool(2) as pool:
        with pytest.raises(ZeroDivisionError, match="in a thread"):
            pool.run(fail, (), nothing, nothing)
        seen = []
        pool.run(lambda number, size: seen.append(number), (), nothing, nothing)
        assert sorted(seen) == [0, 1]


def test_run_stops_the_threads_when_poll_raises():
    stop, ended = threading.Event(), []

    def work(number, size):
        stop.wait(60)
        ended.append(number)

    def poll():
        raise KeyboardInterrupt

    with ThreadPool(2) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.run(work, (), poll, stop.set)
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
        with ThreadPool(2) as pool:
            pool._finished = Interrupted()
            try:
                pool.run(lambda number, size: None, (), nothing, nothing)
            except KeyboardInterrupt:
                outcome.append("interrupted")

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(20)
    assert outcome == ["interrupted"]
