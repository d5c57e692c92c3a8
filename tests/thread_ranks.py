"""Ranks that are threads of one process, for tests of what ranks of MPI do together."""

import threading

import numpy as np


class Arrival:
    """A message that has not arrived before somebody waits for it."""

    def __init__(self, whole, values):
        self._whole, self._values = whole, values
        whole[:] = np.nan

    def Wait(self):
        self._whole.reshape(-1)[:] = self._values.reshape(-1)


class ThreadComm:
    """The methods of a communicator that `nbnorm` calls."""

    def __init__(self, rank, slots, barrier):
        self._rank, self._slots, self._barrier = rank, slots, barrier

    def Get_rank(self):
        return self._rank

    def Get_size(self):
        return len(self._slots)

    def allgather(self, thing):
        self._slots[self._rank] = thing
        self._barrier.wait(60)
        found = list(self._slots)
        self._barrier.wait(60)
        return found

    def bcast(self, thing, root):
        return self.allgather(thing)[root]

    def alltoall(self, things):
        return [of_rank[self._rank] for of_rank in self.allgather(things)]

    def Allgatherv(self, sent, received):
        whole, counts = received
        parts = self.allgather(sent.copy())
        assert [part.size for part in parts] == list(counts)
        whole.reshape(-1)[:] = np.concatenate([part.reshape(-1) for part in parts])

    def Ialltoallv(self, sent, received):
        (values, counts), (whole, expected) = sent, received
        parts = self.alltoall(np.split(values, np.cumsum(counts)[:-1]))
        assert [part.size for part in parts] == list(expected)
        return Arrival(whole, np.concatenate(parts))

    def Iallgatherv(self, sent, received):
        whole, late = received[0], np.empty_like(received[0])
        self.Allgatherv(sent, [late, received[1]])
        return Arrival(whole, late)

    def Abort(self, code):
        self._barrier.abort()


def together(count, action):
    """Call ``action(comm)`` on so many ranks; return what each has returned or raised."""
    slots, barrier = [None] * count, threading.Barrier(count)
    results = [None] * count

    def work(rank):
        try:
            results[rank] = action(ThreadComm(rank, slots, barrier))
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
