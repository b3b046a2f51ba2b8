"""`parallelize` and its handle: make an existing pipeline sample in parallel in time, and undo it."""

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import parareal
from parareal.driver import check_callback, resolve_renamed
from parareal_diffusers._pipelines.call_records import CallRecords
from parareal_diffusers._pipelines.callbacks import LoopBar, StepCallback, override_progress
from parareal_diffusers._pipelines.derived import build_parallel_class
from parareal_diffusers._pipelines.families import FAMILIES, find_family, guess_family
from parareal_diffusers._pipelines.loop import LoopBridge
from parareal_diffusers._pipelines.refusals import check_call, check_pipeline, check_scheduler
from parareal_diffusers._pipelines.settings import Settings
from parareal_diffusers._pipelines.stand_ins.network import ACTIVE_BRIDGE, wrap_networks
from parareal_diffusers._pipelines.stand_ins.replicas import Replicas, WeightCopies, check_devices
from parareal_diffusers._pipelines.stand_ins.scales import scale_control_by_row, scale_skip_guidance_by_row
from parareal_diffusers._pipelines.verify import Verifier

STEP_OPTIONS = ("eta", "use_clipped_model_output")
"""arguments of pipelines that they pass to their scheduler's `step`"""


def parallelize(
    pipe: Any,
    *,
    slices: int | str = "auto",
    boundaries: Sequence[int] | None = None,
    levels: Sequence[int] | None = None,
    coarse: Any = "auto",
    tolerance: float = 1e-2,
    criterion: parareal.AbstractCriterion | None = None,
    max_iterations: int | None = None,
    schedule: str = "pipelined",
    window: int | None = None,
    speculate_until: int | None = None,
    max_batch: int | None = None,
    pad_batch: bool | Sequence[int] = False,
    callback: Callable[[parareal.Refinement], Any] | None = None,
    progress: bool | None = None,
    devices: Sequence[Any] | None = None,
    verify: bool = False,
    eager: int | None = None,
) -> "Handle":
    """Make a diffusers pipeline sample in parallel in time; the way to call it does not change.

        handle = parallelize(pipe)
        image = pipe("a cat", generator=generator).images[0]  # the same image, up to the tolerance
        handle.disable()

    or `with parallelize(pipe) as handle: ...`. The pipeline's own loop still makes every evaluation of its network,
    with its guidance, control and adapters, but each pass holds states of several steps (docs/how-to/pipelines.md).

    Args:
        pipe: a pipeline of diffusers. Only this object changes, by its class, until `disable`. Its scheduler and
            networks are unchanged between calls.
        slices: the number of slices: an int; `"sqrt"`, the rounded root of the number of steps N; `"steps"`, one per
            step; or `"auto"`, which is round(sqrt(3N)) or the number that `Handle.plan` has chosen. Unlike in `sample`,
            `"auto"` measures nothing.
        boundaries: the nodes that bound the slices, instead of `slices`: rising, from 0 to N. N is the number of steps
            that the loop makes; image-to-image makes fewer than `num_inference_steps`.
        levels: the numbers of slices of nested levels, outermost first, instead of `slices`: `(12, 9)` is 12 slices of
            9 slices each.
        coarse: the coarse solver: a name, a solver object or a diffusers scheduler, as for `sample`. It determines how
            fast the result is reached, not the result.
        tolerance: the relative error of the final latents at which to stop, estimated per sample; below 1. 0 runs to
            the end, which gives the result of the unmodified pipeline to rounding.
        criterion: another stop criterion, instead of `tolerance`.
        max_iterations: the most iterations of a call. A call that reaches it warns and returns its newest iterate.
        schedule: `"pipelined"` starts every propagation as soon as its input is known; `"synchronous"` waits for the
            end of each iteration.
        window: the most slices that are under way at a time, counted from the first that is not final; None for all.
        speculate_until: from this iteration on, fine propagations start only after the final state has been rejected;
            None to speculate always.
        max_batch: the most rows of states in one call of the network; None for no bound. If the pipeline computes
            guidance in one call, the network receives twice as many. Larger batches are split.
        pad_batch: pads calls to fixed sizes, as for `sample`.
        callback: called with a `parareal.Refinement` after every iteration. If it returns False, or any value other
            than None that Python takes for false, the call ends with the newest iterate.
        progress: True or False turns the progress bar on or off, whatever the pipeline is set to; None leaves it as
            it is set.
        devices: the devices on which the denoiser is called, each with a share of the rows, such as
            `["cuda:0", "cuda:1"]`. Everything else stays on the pipeline's own device. None for that device alone.
            `max_batch` then applies per device.
        verify: whether to compare a short parallel call with the unmodified pipeline before the first call of each
            kind. Required for pipelines that are not in the table of docs/results/pipelines.md.
        eager: a former name of `speculate_until`.

    Returns:
        A handle, whose `solution` describes the last call.

    Raises:
        TypeError, ValueError: if the pipeline is unsupported or parallelized already, or an option is invalid. Calls
            of the pipeline raise them as well, before the network is called, for a scheduler or an argument that is
            unsupported; the message names it and the remedy.
    """
    settings = Settings(
        slices=slices,
        boundaries=boundaries,
        levels=levels,
        coarse=coarse,
        tolerance=tolerance,
        criterion=criterion,
        max_iterations=max_iterations,
        schedule=schedule,
        window=window,
        speculate_until=resolve_renamed("eager", eager, "speculate_until", speculate_until),
        max_batch=max_batch,
        pad_batch=pad_batch,
        devices=devices,
    )
    return Handle(pipe, settings, callback, progress, verify)


@final
class Handle:
    """A pipeline that samples in parallel in time until `disable`; returned by `parallelize`.

    The constructor gives the pipeline object a derived class, whose `__call__` calls `Handle.call`. Everything else
    that a call needs is put in place at its start and removed at its end, also after an exception.
    """

    def __init__(
        self,
        pipe: Any,
        settings: Settings,
        callback: Callable[[parareal.Refinement], Any] | None,
        progress: bool | None,
        verify: bool,
    ):
        check_pipeline(pipe)
        check_callback(callback)
        self.pipe, self.settings, self.callback, self.progress = pipe, settings, callback, progress
        self._pipeline_class = type(pipe)
        name, family = find_family(self._pipeline_class)
        if family is None and not verify:
            raise ValueError(
                f"{name} is not among the supported pipelines: {', '.join(FAMILIES)}. Pass verify=True to compare it "
                "with the unmodified pipeline over a few steps before it is used"
            )
        self._family = guess_family(pipe) if family is None else family
        self._verifier = Verifier() if verify else None
        self._devices, self._weights = check_devices(settings.devices), WeightCopies()
        # Reentrant, so that a call from within a call reaches the check in `call` and raises, instead of blocking
        # for ever. Calls from other threads wait.
        self._lock = threading.RLock()
        self._bridge: LoopBridge | None = None
        """the bridge of the call that runs; None between calls"""
        self._solution: parareal.Solution | None = None
        self._records = CallRecords()
        self._checked_scheduler: tuple[Any, ...] | None = None
        pipe.__class__ = build_parallel_class(self._pipeline_class, self)

    @property
    def solution(self) -> parareal.Solution | None:
        """The solution of the last call, whose states are latents as the loop has them.

        None before the first call, and after a call that failed before its run had ended.
        """
        return self._solution

    def plan(self) -> parareal.Plan:
        """Return the fastest predicted setting for calls like the last one, and apply it to later calls.

        The plan is simulated from the recorded times of passes and numbers of iterations; nothing is run. Later calls
        with the same number of steps follow it if `slices` is `"auto"`: they use its number of slices and, unless you
        set it, its `speculate_until`. If it advises against slices, they are sampled sequentially, in one slice, as
        `solution.message` says. Their images are still those of the unmodified pipeline up to the tolerance, but not
        bit by bit those of the calls before.

        The times are those of the passes of all calls so far. The first call includes warm-up, so plan after the
        second. On a device that works asynchronously the times are too short unless the pipeline waits for the device.
        The iterations are those of the last call with the same number of steps that had slices.

        Returns:
            The plan; times in seconds.

        Raises:
            ValueError: before a call has ended regularly.
        """
        with self._lock:
            return self._records.plan(self.settings)

    @property
    def enabled(self) -> bool:
        """True while the pipeline samples in parallel in time."""
        return getattr(type(self.pipe), "_parareal_handle", None) is self

    def disable(self) -> None:
        """Restore the pipeline to its own class; a second call does nothing."""
        # A user may have parallelized the pipeline again since; that handle's class stays. New `WeightCopies` release
        # the memory on the other devices.
        if self.enabled:
            self.pipe.__class__, self._weights = self._pipeline_class, WeightCopies()

    def __enter__(self) -> "Handle":
        """Return itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Restore the pipeline."""
        self.disable()

    # Methods that the pipeline's derived class calls.

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline with the engine in its loop. Calls from several threads take turns.

        Raises:
            RuntimeError: if the pipeline is called from within its own call, or its loop is unsupported.
            ValueError: if the call is unsupported.
        """
        bound = inspect.signature(self._pipeline_class.__call__).bind(self.pipe, *args, **kwargs)
        # Arguments that a pipeline takes as **kwargs, such as a legacy callback, are checked by name like all others.
        arguments = {**bound.arguments, **bound.arguments.get("kwargs", {})}
        with self._lock:
            if self._bridge is not None:
                raise RuntimeError("the pipeline was called from within its own call: use another pipeline there")
            # Both checks come before the pipeline's own work, such as encoding text.
            check_call(self.pipe, self._family, arguments, bool(self._devices))
            self._check_scheduler(arguments)
            if self._verifier is not None:
                self._verifier.check(
                    self.pipe, self._pipeline_class, self._family, self.settings, arguments, self._run_quietly
                )
            return self._run(self.settings, arguments, bound)

    def _run_quietly(self, settings: Settings, bound: inspect.BoundArguments) -> Any:
        """Call the pipeline for verification: listeners are not called, and nothing is recorded."""
        return self._run(settings, dict(bound.arguments), bound, quiet=True)

    def _check_scheduler(self, arguments: dict[str, Any]) -> None:
        """Raise an error if the scheduler is unsupported; checked once per scheduler and number of steps."""
        # If the call leaves num_inference_steps out, any number serves here, because the real number is checked at the
        # start of the loop.
        scheduler, steps = self.pipe.scheduler, arguments.get("num_inference_steps", 10)
        options = self._step_options(arguments)
        dtype = getattr(self.pipe, self._family.networks[0]).dtype
        key = (type(scheduler), dict(scheduler.config), steps, options, dtype)
        if key != self._checked_scheduler and isinstance(steps, int):
            check_scheduler(self.settings, options, scheduler, steps, dtype)
            self._checked_scheduler = key

    def _step_options(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments, or their defaults, that the pipeline passes on to its scheduler's `step`."""
        parameters = inspect.signature(self._pipeline_class.__call__).parameters
        return {name: arguments.get(name, parameters[name].default) for name in STEP_OPTIONS if name in parameters}

    def _run(
        self, settings: Settings, arguments: dict[str, Any], bound: inspect.BoundArguments, quiet: bool = False
    ) -> Any:
        """Call the pipeline's own `__call__` with the stand-ins in place; the order of calls is shown in loop.py.

        With `quiet`, the handle's callback is not called and the call is not recorded.
        """
        options = self._step_options(arguments)
        family = self._family
        bridge = LoopBridge(
            vars(self.pipe)["scheduler"],
            settings,
            options,
            family.doubles_latents(arguments),
            family.indexes_by_pass,
            self._records.plans,
        )
        # Read in every pass: the user sets it while the call runs, from a callback or another thread.
        bridge.is_interrupted = lambda: bool(getattr(self.pipe, "_interrupt", False))
        if self.callback is not None and not quiet:
            bridge.on_iteration.append(self.callback)
        if bound.arguments.get("callback_on_step_end") is not None:
            bound.arguments["callback_on_step_end"] = StepCallback(arguments["callback_on_step_end"], bridge, self.pipe)
        scale_control_by_row(self.pipe, bound)
        networks = [getattr(self.pipe, name) for name in family.networks]
        # Several ControlNets are one component (`MultiControlNetModel`), which calls each of them by itself.
        networks = [part for network in networks for part in getattr(network, "nets", [network])]
        try:
            if self._devices:
                bridge.replicas = Replicas(self._devices, self._weights, networks)
            with (
                self._install(bridge),
                wrap_networks(networks),
                scale_skip_guidance_by_row(self.pipe, bound, bridge),
            ):
                output = self._pipeline_class.__call__(*bound.args, **bound.kwargs)
            bridge.check_done()
            return output
        finally:
            bridge.close()
            if bridge.replicas is not None:
                bridge.replicas.close()
            # Also after an exception: a run that met a state that is not finite has a solution, which tells where.
            if not quiet:
                self._solution = bridge.solution
                self._records.add(bridge)
            bridge.release()

    @contextmanager
    def _install(self, bridge: LoopBridge) -> Iterator[None]:
        """Put the stand-in in the scheduler's place, and make the bridge the active one of this thread."""
        # Not by setattr, which would also write the stand-in into the pipeline's configuration.
        attributes = vars(self.pipe)
        scheduler = attributes["scheduler"]
        attributes["scheduler"] = bridge.scheduler
        token = ACTIVE_BRIDGE.set(bridge)
        self._bridge = bridge
        try:
            yield
        finally:
            self._bridge = None
            ACTIVE_BRIDGE.reset(token)
            attributes["scheduler"] = scheduler

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """Return the progress bar of the pipeline's loop."""
        if self._bridge is None:
            return self._pipeline_class.progress_bar(self.pipe, iterable, total)
        # The bar gets a length and not the iterable, because tqdm would count passes.
        with override_progress(self.pipe, self.progress):
            bar = self._pipeline_class.progress_bar(self.pipe, total=len(iterable) if total is None else total)
        return LoopBar(bar, self._bridge, iterable)

    @property
    def running(self) -> bool:
        """True while the engine drives the pipeline's loop."""
        return self._bridge is not None and self._bridge.running_loop is not None and not self._bridge.done
