import asyncio
import threading
import time

from udig_recon.api.http.fair_queue import BYTES_PER_SECOND, FairQueue


async def _until(found) -> None:
    while not found():
        await asyncio.sleep(0.001)


def test_one_client_leaves_a_place_and_who_comes_new_is_next_before_smaller_files_of_who_holds_some() -> None:
    async def journey() -> list[str]:
        turns, began, gates = FairQueue(3), [], {}

        def start(client: str, name: str, size: int) -> asyncio.Task:
            gates[name] = threading.Event()

            def work() -> None:
                began.append(name)
                assert gates[name].wait(30)

            return asyncio.create_task(turns.run(client, size, work))

        tasks = [start("a", name, 10 * BYTES_PER_SECOND) for name in ("a1", "a2", "a3")]
        await _until(lambda: len(began) == 2)
        tasks += [start("b", "b1", 100 * BYTES_PER_SECOND)]
        await _until(lambda: len(began) == 3)
        tasks += [
            start("a", "a4", 1),
            start("b", "b2", 1000 * BYTES_PER_SECOND),
            start("c", "c1", 9 * BYTES_PER_SECOND),
        ]
        await asyncio.sleep(0.05)
        assert sorted(began) == ["a1", "a2", "b1"]  # threads that are started together begin in any order
        gates["a1"].set()
        await _until(lambda: len(began) == 4)
        while running := [name for name in began if not gates[name].is_set()]:
            gates[running[0]].set()  # one after another: those that are given a place together begin in any order
            await asyncio.sleep(0.05)
        await asyncio.gather(*tasks)
        return began

    began = asyncio.run(journey())
    assert began[3] == "c1"
    assert began.index("a4") < began.index("a3")
    assert sorted(began) == ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]


def test_whoever_leaves_while_it_waits_takes_no_place_and_errors_give_theirs_back() -> None:
    async def journey() -> None:
        turns, gate = FairQueue(2), threading.Event()
        first = asyncio.create_task(turns.run("a", 1, lambda: gate.wait(30)))
        left = asyncio.create_task(turns.run("a", 1, lambda: 1))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        gate.set()
        assert await first
        for _ in range(5):
            outcome = await asyncio.gather(turns.run("a", 1, lambda: 1 // 0), return_exceptions=True)
            assert isinstance(outcome[0], ZeroDivisionError)
        assert await asyncio.gather(*(turns.run(name, 1, lambda: 7) for name in "abcabc")) == [7] * 6

    asyncio.run(journey())


def test_one_that_is_cancelled_just_as_a_place_becomes_free_leaves_it_to_the_next() -> None:
    async def journey() -> list[int]:
        turns, gate = FairQueue(2), threading.Event()
        first = asyncio.create_task(turns.run("a", 1, lambda: gate.wait(30)))
        left = asyncio.create_task(turns.run("a", 1, lambda: 1))
        others = [asyncio.create_task(turns.run(name, 10**9, lambda: 7)) for name in "aa"]
        await asyncio.sleep(0.01)
        gate.set()
        time.sleep(0.05)
        asyncio.get_running_loop().call_soon(left.cancel)  # after that end, before the cancelled task hears of it
        await asyncio.gather(left, return_exceptions=True)
        assert await first
        return await asyncio.gather(*others)

    assert asyncio.run(journey()) == [7] * 2
