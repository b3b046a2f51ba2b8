"""The runner for an executor."""

from concurrent.futures import Executor

from parareal._execution.executors import AbstractExecutor, BatchedExecutor
from parareal._execution.pool import PoolExecutor
from parareal._execution.runner import Runner
from parareal._iteration.rules import Rules
from parareal._problem.problem import Problem


def runner_for(problem: Problem, executor: AbstractExecutor | Executor | None, rules: Rules | None = None) -> Runner:
    """Return what runs a problem's propagations; `rules` are those that inner levels follow.

    Raises:
        TypeError: for an object that is no executor, or cannot run these propagators.
    """
    executor = BatchedExecutor() if executor is None else executor
    if isinstance(executor, Executor):
        executor = PoolExecutor(executor)
    if not isinstance(executor, AbstractExecutor):
        raise TypeError(
            "executor must be SerialExecutor(), BatchedExecutor(max_batch=...), a concurrent.futures.Executor or an "
            "AbstractExecutor of your own, "
            f"not {type(executor).__name__}"
        )
    executor.check(problem)
    return Runner(problem, executor, rules)
