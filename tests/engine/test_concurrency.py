import threading
import time

from nbnorm import get_num_threads
from nbnorm.compile.threads import thread_limit
from nbnorm.engine.concurrency import Turns, end_turn, side_by_side, turn


def test_turns_are_taken_in_the_order_of_asking():
    turns, order = Turns(1), []

    def work(name):
        with turns:
            order.append(name)

    workers = [threading.Thread(target=work, args=(name,)) for name in "dacb"]
    with turns:
        for number, worker in enumerate(workers, 1):
            worker.start()
            while len(turns._waiting) < number:  # nothing public tells that a thread waits
                time.sleep(0.001)
    for worker in workers:
        worker.join()
    assert order == list("dacb")


def test_results_and_errors_come_back_in_order():
    def fail():
        raise ValueError("no")

    got = side_by_side([lambda: 1, fail, get_num_threads])
    assert got[0] == got[2] == 1
    assert isinstance(got[1], ValueError)


def test_thread_limit_is_the_callers_alone():
    with thread_limit(1):
        assert get_num_threads() == 1
        seen = []
        worker = threading.Thread(target=lambda: seen.append(get_num_threads()))
        worker.start()
        worker.join()
    assert seen == [get_num_threads()]


def test_a_job_begins_with_a_turn_that_lasts_until_it_is_ended():
    order = []

    def first():
        for _ in range(3):
            with turn():
                order.append("first")
                time.sleep(0.001)  # lets the other job begin, if it may
        order.append("ends")
        end_turn()

    def second():
        order.append("begins")
        with turn():
            order.append("second")

    with thread_limit(1):
        assert side_by_side([first, second]) == [None, None]
    assert order == ["first", "first", "first", "ends", "begins", "second"]
