"""The step callback and the progress bar of a pipeline in parallel in time, by iterations instead of steps.

A callback that changes latents, tensors or the pipeline by the step would silently give wrong pictures, since passes
are not steps: `StepCallback` compares what it finds before and after, and raises.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor

import parareal
from parareal_diffusers._pipelines.loop import Drive
from parareal_diffusers._pipelines.stand_ins.network import outside

_MENDED = "Parallel in time, all steps use what the pipeline was called with"


@final
class StepCallback:
    """Stands for `callback_on_step_end`: calls it once an iteration, with the whole newest iterate as `latents`.

    Args:
        function: the user's.
        drive: of the call.
        pipe: the pipeline.
    """

    def __init__(self, function: Callable[..., Any], drive: Drive, pipe: Any):
        self.function, self.drive, self.pipe = function, drive, pipe
        self.reached: list[parareal.Refinement] = []
        drive.on_iteration.append(self.reached.append)

    def __call__(self, _: Any, __: int, ___: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Take the place of the user's function at the end of a pass of the loop."""
        reached, self.reached[:] = list(self.reached), []
        for refinement in reached:
            self._tell(refinement, given)
        if self.drive.interrupted() and not self.drive.done:
            return {"latents": self.drive.stop()}
        return {}

    def _tell(self, refinement: parareal.Refinement, given: dict[str, Any]) -> None:
        assert self.drive.running is not None
        latents, time = self.drive.as_latents(refinement.final_state), self.drive.running.last_timestep
        shown = {**given, **({"latents": latents} if "latents" in given else {})}
        before, versions = _settings(self.pipe), {k: x._version for k, x in shown.items() if isinstance(x, Tensor)}
        with outside():
            result = self.function(self.pipe, refinement.iteration, time, dict(shown))
        for name, value in (result or {}).items():
            if value is not shown.get(name):
                raise ValueError(
                    f"callback_on_step_end returned other {name} than it was given. {_MENDED}: return what was given, "
                    "or sample without parallelize (handle.disable())"
                )
        if any(x._version != versions[k] for k, x in shown.items() if k in versions):
            raise ValueError(
                f"callback_on_step_end changed a tensor in place. {_MENDED}: change a copy, or sample "
                "without parallelize (handle.disable())"
            )
        changed = [k for k, v in _settings(self.pipe).items() if k not in before or not _same(before[k], v)]
        if changed:
            raise ValueError(
                f"callback_on_step_end changed the pipeline's {', '.join(changed)}. {_MENDED}: sample without "
                "parallelize (handle.disable()) for settings that change by the step"
            )


def _settings(pipe: Any) -> dict[str, Any]:
    """Return what a pipeline's loop reads from it, but for the wish to stop."""
    return {k: v for k, v in vars(pipe).items() if k not in ("_interrupt", "_current_timestep", "_num_timesteps")}


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, int | float | str) and a == b)


@final
class LoopBar:
    """Stands for a pipeline's progress bar, a `tqdm`: it counts the steps that are final, not the loop's passes."""

    def __init__(self, bar: Any, drive: Drive, iterable: Iterable[Any] | None):
        self.bar, self.drive, self.iterable = bar, drive, iterable
        drive.on_pass.append(self._show)

    def __enter__(self) -> "LoopBar":
        """Return itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close the bar."""
        self.bar.close()

    def __iter__(self) -> Iterator[Any]:
        """Iterate what the pipeline gave."""
        if self.iterable is not None:
            yield from self.iterable
        self.bar.close()

    def update(self, n: int = 1) -> None:
        """Do nothing: a pass is not a step."""

    def __getattr__(self, name: str) -> Any:
        """Return what the bar has."""
        return getattr(self.bar, name)

    def _show(self) -> None:
        running, bar = self.drive.running, self.bar
        assert running is not None  # passes end with a step
        bar.total, bar.n = running.method.steps, running.steps_final
        bar.set_postfix(iteration=max(running.iteration, 0), passes=running.passes, refresh=False)
        bar.update(0)


@contextmanager
def shown(pipe: Any, progress: bool | None) -> Iterator[None]:
    """Have a pipeline show its progress bars or not; None for as it is set."""
    if progress is None:
        yield
        return
    attributes, missing = vars(pipe), object()
    config = attributes.get("_progress_bar_config", missing)
    attributes["_progress_bar_config"] = {**({} if config is missing else config), "disable": not progress}
    try:
        yield
    finally:
        if config is missing:
            del attributes["_progress_bar_config"]
        else:
            attributes["_progress_bar_config"] = config
