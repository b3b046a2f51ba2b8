"""`parallelize`: an existing pipeline samples in parallel in time, and off again."""

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import parareal
from parareal.driver import renamed
from parareal_diffusers._pipelines.callbacks import LoopBar, StepCallback, shown
from parareal_diffusers._pipelines.derived import parallel_class
from parareal_diffusers._pipelines.families import FAMILIES, known, unknown_family
from parareal_diffusers._pipelines.learned import Learned
from parareal_diffusers._pipelines.loop import Drive
from parareal_diffusers._pipelines.refusals import check_call, check_pipeline, check_scheduler
from parareal_diffusers._pipelines.settings import Settings
from parareal_diffusers._pipelines.stand_ins.network import ACTIVE, gated
from parareal_diffusers._pipelines.stand_ins.replicas import Replicas, WeightCopies, checked_devices
from parareal_diffusers._pipelines.stand_ins.scales import control_by_row, skipping_by_row
from parareal_diffusers._pipelines.verify import Verifier

STEP_OPTIONS = ("eta", "use_clipped_model_output")


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
    """Make a diffusers pipeline sample in parallel in time; calls of it stay as they are.

        handle = parallelize(pipe)
        image = pipe("a cat", generator=generator).images[0]  # the same picture, up to the tolerance
        handle.disable()

    or `with parallelize(pipe) as handle: ...`. The pipeline's own loop still makes every evaluation of its network,
    with its guidance, control and adapters, for more rows at a time (docs/how-to/pipelines.md).

    Args:
        pipe: a pipeline of diffusers. Only this object changes, by its class, until `disable`; its scheduler and
            networks are left as they are between calls.
        slices, boundaries, levels, coarse, tolerance, criterion, schedule, window, speculate_until: as for `sample`.
            Nodes count the steps that the loop makes: image-to-image has fewer than `num_inference_steps`. `"auto"`
            times nothing here: it is round(sqrt(3 steps)), or what `Handle.plan` says once it has been asked.
        max_iterations: give up after so many iterations, with a warning, and return what there is.
        max_batch: rows of states in one call of the network, at most; None for no bound. With guidance that the
            pipeline makes in one call, the network is given twice as many. Larger batches are made in parts.
        pad_batch: fill calls up to fixed sizes, as for `sample`.
        callback: called with a `parareal.Refinement` after every iteration; returning False ends the call with
            what there is.
        progress: True or False for a bar or none, whatever the pipeline is set to; None for as it is set.
        devices: where the denoiser's calls are made, each device having a share of the rows: `["cuda:0", "cuda:1"]`.
            All else stays on the pipeline's own device. None for that alone. `max_batch` is then for each device.
        verify: compare with the pipeline as it was, over a few steps, before the first call of each kind. Needed for
            pipelines that are not in the table of docs/how-to/pipelines.md.

    Raises:
        TypeError, ValueError: for a pipeline that cannot be right, an option that makes no sense, or a pipeline that is
            parallelized already. Calls of the pipeline raise them too, before the network is called, for a scheduler or
            an argument that cannot be right; the sentence names it and says what to use instead.
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
        speculate_until=renamed("eager", eager, "speculate_until", speculate_until),
        max_batch=max_batch,
        pad_batch=pad_batch,
        devices=devices,
    )
    return Handle(pipe, settings, callback, progress, verify)


@final
class Handle:
    """A pipeline that samples in parallel in time, until `disable`; made by `parallelize`."""

    def __init__(
        self,
        pipe: Any,
        settings: Settings,
        callback: Callable[[parareal.Refinement], Any] | None,
        progress: bool | None,
        verify: bool,
    ):
        check_pipeline(pipe)
        self.pipe, self.settings, self.callback, self.progress = pipe, settings, callback, progress
        self._kind = type(pipe)
        name, family = known(self._kind)
        if family is None and not verify:
            raise ValueError(
                f"{name} is not among the pipelines that are known to be right: {', '.join(FAMILIES)}. Pass "
                "verify=True to have it compared with itself over a few steps before it is used"
            )
        self._family = unknown_family(pipe) if family is None else family
        self._verifier = Verifier() if verify else None
        self._devices, self._weights = checked_devices(settings.devices), WeightCopies()
        self._lock = threading.RLock()
        self._drive: Drive | None = None
        self._solution: parareal.Solution | None = None
        self._learned = Learned()
        self._checked: tuple[Any, ...] | None = None
        pipe.__class__ = parallel_class(self._kind, self)

    @property
    def solution(self) -> parareal.Solution | None:
        """The solution of the last call, of latents as the loop has them.

        None before the first, and after a call that failed before its loop had an iterate.
        """
        return self._solution

    def plan(self) -> parareal.Plan:
        """Say what pays for calls like the last one, and hold later calls to it.

        It is simulated from what passes took and samples needed; nothing is run. Later calls of as many steps follow it
        where `slices` is `"auto"`: they take its slices and, unless you gave it, `speculate_until`, and where it
        advises against slices they go step by step, in one slice, as `solution.message` says. Their pictures are
        still those of the unmodified pipeline up to the tolerance, but not bit by bit those of the calls before.

        The times of passes are those of all calls so far, the first of which warms up: ask after the second. On a
        device that works asynchronously they are too short unless the pipeline waits for it. Iterations are those of
        the last call of as many steps that had slices.

        Raises:
            ValueError: before a call has come to its end.
        """
        with self._lock:
            return self._learned.plan(self.settings)

    @property
    def enabled(self) -> bool:
        """True while the pipeline samples in parallel in time."""
        return getattr(type(self.pipe), "_parareal_handle", None) is self

    def disable(self) -> None:
        """Give the pipeline back as it was; more than once does nothing."""
        if self.enabled:
            self.pipe.__class__, self._weights = self._kind, WeightCopies()

    def __enter__(self) -> "Handle":
        """Return itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Give the pipeline back as it was."""
        self.disable()

    # What the pipeline's class calls.

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline, its loop driven by the engine. Threads wait for each other."""
        bound = inspect.signature(self._kind.__call__).bind(self.pipe, *args, **kwargs)
        given = {**bound.arguments, **bound.arguments.get("kwargs", {})}
        with self._lock:
            if self._drive is not None:
                raise RuntimeError("the pipeline was called from within its own call: use another pipeline there")
            check_call(self.pipe, self._family, given, bool(self._devices))
            self._check_scheduler(given)
            if self._verifier is not None:
                self._verifier.check(self.pipe, self._kind, self._family, self.settings, given, self._run_quietly)
            return self._driven(self.settings, given, bound)

    def _run_quietly(self, settings: Settings, bound: inspect.BoundArguments) -> Any:
        """Call the pipeline in parallel in time, its callback being told nothing."""
        return self._driven(settings, dict(bound.arguments), bound, quiet=True)

    def _check_scheduler(self, given: dict[str, Any]) -> None:
        """Raise what speaks against the scheduler, before text is encoded; once for each scheduler and steps."""
        scheduler, steps = self.pipe.scheduler, given.get("num_inference_steps", 10)
        options = self._step_options(given)
        dtype = getattr(self.pipe, self._family.networks[0]).dtype
        key = (type(scheduler), dict(scheduler.config), steps, options, dtype)
        if key != self._checked and isinstance(steps, int):
            check_scheduler(self.settings, options, scheduler, steps, dtype)
            self._checked = key

    def _step_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return what the pipeline gives to its scheduler's step, if that takes it."""
        parameters = inspect.signature(self._kind.__call__).parameters
        return {name: given.get(name, parameters[name].default) for name in STEP_OPTIONS if name in parameters}

    def _driven(
        self, settings: Settings, given: dict[str, Any], bound: inspect.BoundArguments, quiet: bool = False
    ) -> Any:
        """Call the pipeline's own `__call__` with the engine in its loop; `quiet`, nobody is told of iterations."""
        options = self._step_options(given)
        doubled, counted = self._family.doubled(given), self._family.counted
        drive = Drive(vars(self.pipe)["scheduler"], settings, options, doubled, counted, self._learned.plans)
        drive.interrupted = lambda: bool(getattr(self.pipe, "_interrupt", False))
        if self.callback is not None and not quiet:
            drive.on_iteration.append(self.callback)
        if bound.arguments.get("callback_on_step_end") is not None:
            bound.arguments["callback_on_step_end"] = StepCallback(given["callback_on_step_end"], drive, self.pipe)
        control_by_row(self.pipe, bound)
        networks = [getattr(self.pipe, name) for name in self._family.networks]
        networks = [part for network in networks for part in getattr(network, "nets", [network])]  # of several controls
        try:
            if self._devices:
                drive.replicas = Replicas(self._devices, self._weights, networks)
            with self._in_place(drive), gated(networks), skipping_by_row(self.pipe, bound, drive):
                output = self._kind.__call__(*bound.args, **bound.kwargs)
            drive.check_done()
            return output
        finally:
            drive.close()
            if drive.replicas is not None:
                drive.replicas.close()
            if not quiet:
                self._solution = drive.solution
                self._learned.add(drive)
            drive.release()

    @contextmanager
    def _in_place(self, drive: Drive) -> Iterator[None]:
        """Put the stand-in where the scheduler is; not by setattr, which would write it into the pipeline's config."""
        attributes = vars(self.pipe)
        scheduler = attributes["scheduler"]
        attributes["scheduler"] = drive.scheduler
        token = ACTIVE.set(drive)
        self._drive = drive
        try:
            yield
        finally:
            self._drive = None
            ACTIVE.reset(token)
            attributes["scheduler"] = scheduler

    def bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """Return the progress bar of the pipeline's loop."""
        if self._drive is None:
            return self._kind.progress_bar(self.pipe, iterable, total)
        with shown(self.pipe, self.progress):
            bar = self._kind.progress_bar(self.pipe, total=len(iterable) if total is None else total)
        return LoopBar(bar, self._drive, iterable)

    @property
    def running(self) -> bool:
        """True while the engine drives the pipeline's loop."""
        return self._drive is not None and self._drive.running is not None and not self._drive.done
