"""The memory budget of a task: how many bytes of response bodies it may hold at once."""

import asyncio
import threading


class ByteBudget:
    """Bytes of bodies in flight: at most `limit`, except that one body may exceed it.

    Without that exception, bodies that have been read in part would wait for each other for ever. Bodies that have not
    been started wait in order of arrival. `held` is the number of bytes taken.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._over: BudgetClaim | None = None  # the one claim that may exceed the limit
        self._loop = asyncio.get_running_loop()
        self._freed = asyncio.Event()
        self._line = asyncio.Lock()
        self._lock = threading.Lock()
        self._returned = 0  # bytes returned by other threads, not yet subtracted from `held`
        self._waiting = 0

    def return_from_thread(self, size: int) -> None:
        """Return `size` bytes that a settled claim left to the body's owner; called from any thread."""
        with self._lock:
            self._returned += size
        if self._waiting:
            self._loop.call_soon_threadsafe(self._freed.set)

    def try_take(self, claim: "BudgetClaim", size: int) -> bool:
        """Take `size` more bytes for a claim if that needs no wait; return whether it did."""
        return (claim.held > 0 or not self._line.locked()) and self._try_take(claim, size)

    async def take(self, claim: "BudgetClaim", size: int) -> None:
        """Take `size` more bytes for a claim, once there is room."""
        if claim.held:  # a body that has been started must not wait behind those that have not
            await self._wait(claim, size)
        else:
            async with self._line:
                await self._wait(claim, size)

    def settle(self, claim: "BudgetClaim", size: int) -> None:
        """Return `size` bytes of a claim that takes no more."""
        self.held -= size
        if self._over is claim:
            self._over = None
        if self._waiting:
            self._freed.set()

    def _try_take(self, claim: "BudgetClaim", size: int) -> bool:
        """Take `size` bytes for a claim if the limit or the exception for one body allows; return whether."""
        if self.held + size > self.limit and self._over is not claim:
            if self._over or self.held > (self.limit if claim.held else 0):
                return False
            self._over = claim
        self.held += size
        claim.held += size
        return True

    async def _wait(self, claim: "BudgetClaim", size: int) -> None:
        self._waiting += 1
        try:
            while True:
                self._freed.clear()
                with self._lock:
                    self.held, self._returned = self.held - self._returned, 0
                if self._try_take(claim, size):
                    return
                await self._freed.wait()
        finally:
            self._waiting -= 1


class BudgetClaim:
    """The bytes of a budget that one body holds, from its first byte until it is settled."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held = 0

    def holds(self, size: int) -> bool:
        """Hold at least `size` bytes; return False where that would need a wait."""
        return size <= self.held or self._budget.try_take(self, size - self.held)

    async def hold(self, size: int) -> None:
        """Hold at least `size` bytes, once there is room."""
        if not self.holds(size):
            await self._budget.take(self, size - self.held)

    def settle(self, kept: int = 0) -> None:
        """Return all but the `kept` bytes of a body, which the owner of the body returns later."""
        self._budget.settle(self, self.held - kept)
        self.held = 0
