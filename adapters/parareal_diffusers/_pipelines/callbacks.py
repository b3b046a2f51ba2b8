"""The step callback and the progress bar of a parallelized pipeline, by iterations instead of passes.

A callback that changes latents, tensors or the pipeline from step to step would silently give wrong images, because a
pass holds rows of many steps. `StepCallback` compares the pipeline and the tensors before and after the user's
function, and raises if something has changed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor

import parareal
from parareal_diffusers._pipelines.loop import LoopBridge
from parareal_diffusers._pipelines.stand_ins.network import suspend_bridge

_REASON = "Parallel in time, all steps use the values that the pipeline was called with"


@final
class StepCallback:
    """A replacement for `callback_on_step_end` that calls the user's function once per iteration.

    The pipeline calls it at the end of every pass. An iteration ends within `step`, where the tensors that the callback
    has requested are not available. So iterates are collected there, and delivered at the end of the pass.

    Args:
        function: the user's, called as by diffusers: pipeline, iteration, timestep, tensors by name. `latents` is the
            whole newest iterate.
        bridge: the bridge of the call.
        pipe: the pipeline.
    """

    def __init__(self, function: Callable[..., Any], bridge: LoopBridge, pipe: Any):
        self.function, self.bridge, self.pipe = function, bridge, pipe
        self.pending: list[parareal.Refinement] = []
        bridge.on_iteration.append(self.pending.append)

    def __call__(self, _: Any, __: int, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Deliver the iterates of a pass; return new latents only if the user has interrupted the pipeline."""
        pending, self.pending[:] = list(self.pending), []
        for refinement in pending:
            self._deliver(refinement, tensors)
        # The user's function may just have interrupted the pipeline. The `step` of this pass is over, so the final
        # state goes back as the callback's result, which diffusers' loops use as their latents.
        if self.bridge.is_interrupted() and not self.bridge.done:
            return {"latents": self.bridge.stop()}
        return {}

    def _deliver(self, refinement: parareal.Refinement, tensors: dict[str, Any]) -> None:
        """Call the user's function, and raise `ValueError` if it has changed something."""
        assert self.bridge.running_loop is not None
        latents, time = self.bridge.to_latents(refinement.final_state), self.bridge.running_loop.last_timestep
        visible = {**tensors, **({"latents": latents} if "latents" in tensors else {})}
        # torch counts the in-place changes of a tensor in its version.
        before, versions = _attributes(self.pipe), {k: x._version for k, x in visible.items() if isinstance(x, Tensor)}
        with suspend_bridge():
            result = self.function(self.pipe, refinement.iteration, time, dict(visible))
        for name, value in (result or {}).items():
            if value is not visible.get(name):
                raise ValueError(
                    f"callback_on_step_end returned other {name} than it received. {_REASON}: return what it received, "
                    "or sample without parallelize (handle.disable())"
                )
        if any(x._version != versions[k] for k, x in visible.items() if k in versions):
            raise ValueError(
                f"callback_on_step_end changed a tensor in place. {_REASON}: change a copy, or sample "
                "without parallelize (handle.disable())"
            )
        changed = [k for k, v in _attributes(self.pipe).items() if k not in before or not _is_same(before[k], v)]
        if changed:
            raise ValueError(
                f"callback_on_step_end changed the pipeline's {', '.join(changed)}. {_REASON}: sample without "
                "parallelize (handle.disable()) for settings that change from step to step"
            )


def _attributes(pipe: Any) -> dict[str, Any]:
    """Return the attributes of a pipeline that its loop reads.

    `_interrupt` is left out, because a callback may interrupt; so are two that the loop itself sets.
    """
    return {k: v for k, v in vars(pipe).items() if k not in ("_interrupt", "_current_timestep", "_num_timesteps")}


def _is_same(a: Any, b: Any) -> bool:
    """Return whether two attributes are the same object, or equal numbers or strings."""
    return a is b or (type(a) is type(b) and isinstance(a, int | float | str) and a == b)


@final
class LoopBar:
    """A replacement for a pipeline's progress bar, which counts the steps that are final instead of passes.

    Args:
        bar: the pipeline's own bar, a `tqdm`.
        bridge: the bridge of the call.
        iterable: what the pipeline iterates through the bar; None if it calls `update`.
    """

    def __init__(self, bar: Any, bridge: LoopBridge, iterable: Iterable[Any] | None):
        self.bar, self.bridge, self.iterable = bar, bridge, iterable
        bridge.on_pass.append(self._show)

    def __enter__(self) -> "LoopBar":
        """Return itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close the bar."""
        self.bar.close()

    def __iter__(self) -> Iterator[Any]:
        """Iterate the pipeline's own iterable, because `tqdm` would count its items."""
        if self.iterable is not None:
            yield from self.iterable
        self.bar.close()

    def update(self, n: int = 1) -> None:
        """Ignore the call: the pipeline makes it once per pass, and a pass is not a step."""

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the pipeline's own bar."""
        return getattr(self.bar, name)

    def _show(self) -> None:
        """Show the number of final steps, the iteration and the number of passes."""
        running, bar = self.bridge.running_loop, self.bar
        assert running is not None  # a pass ends with a `step`, which begins the run
        bar.total, bar.n = running.setup.num_steps, running.final_steps
        bar.set_postfix(iteration=max(running.iteration, 0), passes=running.passes, refresh=False)
        bar.update(0)


@contextmanager
def override_progress(pipe: Any, progress: bool | None) -> Iterator[None]:
    """Turn a pipeline's progress bars on or off for the time being; None leaves them as they are."""
    if progress is None:
        yield
        return
    attributes, missing = vars(pipe), object()
    config = attributes.get("_progress_bar_config", missing)
    attributes["_progress_bar_config"] = {**({} if config is missing else config), "disable": not progress}
    try:
        yield
    finally:
        # A pipeline that has never shown a bar has no such attribute.
        if config is missing:
            del attributes["_progress_bar_config"]
        else:
            attributes["_progress_bar_config"] = config
