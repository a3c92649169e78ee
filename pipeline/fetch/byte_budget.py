"""How many bytes of answers a task may hold at once."""

import asyncio
import threading


class Budget:
    """Bytes of bodies in flight: at most `limit`, but for one body that may grow beyond it, or be larger by itself.

    Without that one, bodies that have begun would wait for each other for ever. Bodies that have not begun wait in the
    order in which they came.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._over: Claim | None = None  # the one that may pass the limit
        self._loop = asyncio.get_running_loop()
        self._freed = asyncio.Event()
        self._line = asyncio.Lock()
        self._lock = threading.Lock()
        self._returned = 0  # given back by other threads, not yet taken off `held`
        self._waiting = 0

    def give_from_thread(self, size: int) -> None:
        """Give back what a claim left to whoever has the body; in any thread. The loop is woken if someone waits."""
        with self._lock:
            self._returned += size
        if self._waiting:
            self._loop.call_soon_threadsafe(self._freed.set)

    def take_now(self, claim: "Claim", size: int) -> bool:
        """Take `size` bytes more for a claim, if it has not to wait for that."""
        return (claim.held > 0 or not self._line.locked()) and self._took(claim, size)

    async def take(self, claim: "Claim", size: int) -> None:
        """Take `size` bytes more for a claim, once there is room."""
        if claim.held:  # a body that has begun must not wait behind those that have not
            await self._wait(claim, size)
        else:
            async with self._line:
                await self._wait(claim, size)

    def settle(self, claim: "Claim", size: int) -> None:
        """Give back `size` bytes of a claim that takes no more."""
        self.held -= size
        if self._over is claim:
            self._over = None
        if self._waiting:
            self._freed.set()

    def _took(self, claim: "Claim", size: int) -> bool:
        if self.held + size > self.limit and self._over is not claim:
            if self._over or self.held > (self.limit if claim.held else 0):
                return False
            self._over = claim
        self.held += size
        claim.held += size
        return True

    async def _wait(self, claim: "Claim", size: int) -> None:
        self._waiting += 1
        try:
            while True:
                self._freed.clear()
                with self._lock:
                    self.held, self._returned = self.held - self._returned, 0
                if self._took(claim, size):
                    return
                await self._freed.wait()
        finally:
            self._waiting -= 1


class Claim:
    """What one body holds of a budget, from its first byte until it is settled."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def holds(self, size: int) -> bool:
        """Make it hold `size` bytes at least; return False where it would have to wait for them."""
        return size <= self.held or self._budget.take_now(self, size - self.held)

    async def hold(self, size: int) -> None:
        """Make it hold `size` bytes at least, once there is room."""
        if not self.holds(size):
            await self._budget.take(self, size - self.held)

    def settle(self, kept: int = 0) -> None:
        """Give back all but the `kept` bytes of a body, which whoever has it gives back."""
        self._budget.settle(self, self.held - kept)
        self.held = 0
