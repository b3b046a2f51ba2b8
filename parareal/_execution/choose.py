"""The runner for an executor."""

from concurrent.futures import Executor

from parareal._execution.executors import AbstractExecutor, BatchedExecutor
from parareal._execution.pool import PoolExecutor
from parareal._execution.runner import Runner
from parareal._iteration.rules import Rules
from parareal._problem.problem import Problem


def build_runner(problem: Problem, executor: AbstractExecutor | Executor | None, rules: Rules | None = None) -> Runner:
    """Return the runner for a problem's propagations; inner levels derive their rules from `rules`.

    Raises:
        TypeError: if `executor` is no executor, or cannot run these propagators.
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
