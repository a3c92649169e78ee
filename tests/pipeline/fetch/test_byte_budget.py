"""The budget of bodies in flight: its bound, and that nobody waits for ever."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fetch.byte_budget import BudgetClaim, ByteBudget

SIZES = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300), st.booleans()), max_size=25)


@settings(max_examples=100, deadline=None)
@given(SIZES, st.sampled_from([1, 50, 100, 250, 1000]), st.integers(0, 1 << 32))
def test_bodies_in_flight_pass_the_limit_by_one_body_at_most_and_never_wait_for_each_other(
    bodies: list[tuple[int, int, bool]], limit: int, seed: int
) -> None:
    """A body says a size and has another; it is given up half-way, or handed to a thread that gives it back."""

    async def run() -> None:
        budget, chance = ByteBudget(limit), random.Random(seed)
        truly = most = 0

        def returned(size: int) -> None:
            nonlocal truly
            truly -= size
            elsewhere.submit(budget.return_from_thread, size).result()

        async def body(said: int, real: int, dropped: bool) -> None:
            nonlocal truly, most
            claim = BudgetClaim(budget)
            try:
                for size in (said, *range(said, real, 40), max(said, real)):
                    before = claim.held
                    await claim.hold(size)
                    truly += claim.held - before
                    most = max(most, truly)
                    if chance.random() < 0.5:
                        await asyncio.sleep(0)
                kept = 0 if dropped else real
                truly -= claim.held - min(kept, claim.held)
                claim.settle(min(kept, claim.held))
            except asyncio.CancelledError:
                truly -= claim.held
                claim.settle()
                raise
            if kept:
                asyncio.get_running_loop().call_later(chance.random() / 500, returned, kept)

        tasks = [asyncio.create_task(body(*one)) for one in bodies]
        await asyncio.sleep(0)
        for task in tasks:
            if chance.random() < 0.1:
                task.cancel()
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
        await asyncio.sleep(0.01)
        largest = max((max(said, real) for said, real, _ in bodies), default=0)
        assert most <= limit + largest
        assert truly == budget.held - budget._returned == 0
        assert budget._over is None

    with ThreadPoolExecutor(1) as elsewhere:
        asyncio.run(run())


def test_small_bodies_do_not_keep_a_large_one_waiting_for_ever() -> None:
    async def run() -> None:
        budget = ByteBudget(100)
        order: list[int] = []

        async def body(size: int) -> None:
            claim = BudgetClaim(budget)
            await claim.hold(size)
            order.append(size)
            await asyncio.sleep(0.001)
            claim.settle()

        await asyncio.gather(*(body(size) for size in [60, 30, *[90], *[10] * 50]))
        assert order.index(90) == 2

    asyncio.run(run())
