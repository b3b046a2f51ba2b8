"""How a solve ended, and the error that carries a solution with it."""

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parareal._results.solution import Solution


class Outcome(Enum):
    """How a solve ended; the value says it in a sentence. From the best to the worst."""

    EXACT = "The result is the sequential solution itself."
    CONVERGED = "The criterion accepted the final state."
    ITERATIONS_DONE = "The requested number of iterations was made."
    ITERATION_LIMIT = "max_iterations was reached before the criterion accepted the final state."
    CANCELLED = "The callback cancelled the solve; the states are the best so far."
    NON_FINITE = "A state stopped being finite; boundaries that were done keep their states."
    WORKER_LOST = "A propagator raised an error; boundaries that were done keep their states."

    @property
    def failed(self) -> bool:
        """Whether `solve` raises `PararealError` for it, unless told not to."""
        return self in _FAILED


_FAILED = {Outcome.ITERATION_LIMIT, Outcome.NON_FINITE, Outcome.CANCELLED, Outcome.WORKER_LOST}


class PararealError(RuntimeError):
    """A solve did not reach its goal; `solution` holds what it reached."""

    def __init__(self, message: str, solution: "Solution"):
        super().__init__(message)
        self.solution = solution
