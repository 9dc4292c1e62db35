"""Turns: one thread at a time holds what a contract's run holds, and nothing is kept of contracts nobody works on."""

import gc
import threading

from escrow.turns import Turns


def test_a_guard_keeps_other_threads_out_and_lets_its_own_in_again() -> None:
    turns, entered = Turns(), threading.Event()

    def enter() -> None:
        with turns.guard("one"):
            entered.set()

    other = threading.Thread(target=enter)
    with turns.guard("one"):
        gc.collect()
        other.start()
        with turns.guard("one"), turns.guard("another"):
            assert not entered.wait(0.05)
    assert entered.wait(30)
    other.join()


def test_guards_of_contracts_that_nobody_works_on_are_forgotten() -> None:
    turns = Turns()
    for number in range(1000):
        with turns.guard(f"contract-{number}"):
            pass
    gc.collect()
    assert not turns._guards.names()
