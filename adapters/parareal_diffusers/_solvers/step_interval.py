"""The interval of one step: for several rows, levels and nodes, access to the network, and noise."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, final

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid, Levels, per_row
from parareal_diffusers._noise import NoiseSource


class Prediction(NamedTuple):
    """A network's predictions for noisy samples: tensors of shape (R, *sample) in the states' dtype."""

    clean: Tensor
    """the predicted clean sample (x0, `pred_original_sample`), clipped or thresholded as by the scheduler"""
    noise: Tensor
    """the predicted noise (epsilon), without clipping"""
    variance: Tensor | None = None
    """the second half of the output channels (Nichol, Dhariwal 2021, arXiv 2102.09672); None if there is none"""


@final
@dataclass(frozen=True, eq=False)
class StepInterval:
    """The interval of a step for each of R rows: from its level s to its level t, from node `start` to node `stop`.

    `stop` is the next node in a fine step, and many nodes later in a coarse jump. All levels have shape (R, 1, ...), so
    that they multiply states of shape (R, *sample). `s.alpha` is alpha_s in the papers' notation.
    """

    grid: Grid
    """the fine solver's grid"""
    start: Tensor
    """nodes where the steps start, int64 of shape (R,)"""
    stop: Tensor
    """nodes where the steps end, int64 of shape (R,)"""
    sample: Tensor
    """index of each row's sample in the batch, int64 of shape (R,)"""
    state: Tensor
    """the rows' states at their nodes `start`, shape (R, *sample)"""
    random: NoiseSource | None = None
    """the noise of the steps; None if the fine solver adds none"""

    # The coarse stepper reads the first one after the step, to correct the fine solver's memory with it.
    predictions: list[Prediction] = field(default_factory=list)
    """the network's predictions so far, in the order of evaluations"""

    @staticmethod
    def of_steps(grid: Grid, bases: Sequence[int] | None = None) -> "StepInterval":
        """Return one row for each of the N steps of a grid; `bases` are the start nodes if not each step's own."""
        nodes = torch.arange(grid.steps)
        start = nodes if bases is None else torch.tensor(list(bases))
        return StepInterval(grid, start, nodes + 1, torch.zeros_like(nodes), torch.zeros(grid.steps, 1))

    @cached_property
    def s(self) -> Levels:
        """The levels at the steps' starts, shape (R, 1, ...)."""
        return self.level(self.start)

    @cached_property
    def t(self) -> Levels:
        """The levels at the steps' ends, shape (R, 1, ...)."""
        # The stop level of the interval's last step, because it can differ from the start level of the next one.
        return self._rows(self.grid.stops, self.stop - 1)

    def level(self, node: Tensor) -> Levels:
        """Return the start levels, each of shape (R, 1, ...), at other nodes: `node` is int64 of shape (R,)."""
        return self._rows(self.grid.starts, node)

    def rows(self, values: Tensor) -> Tensor:
        """Reshape one number per row, (R,), to (R, 1, ...), so that it multiplies states."""
        return per_row(values, self.state)

    def _rows(self, levels: Tensor, index: Tensor) -> Levels:
        rows = levels.index_select(1, index)  # once for alpha_cumprod, alpha and sigma
        return Levels(*rows.reshape(*rows.shape, *[1] * (self.state.ndim - 1)).unbind(0))

    def as_single_precision(self, x: Tensor) -> Tensor:
        """Return states rounded to float32 in single steps, in their own dtype, as schedulers that cast them do."""
        if x.dtype is torch.float32 or not self.grid.casts:
            return x
        # Jumps keep full precision: no scheduler makes them, so there is no rounding to reproduce.
        return torch.where(self.rows(self.stop == self.start + 1), x.float().to(x), x)

    def predict(self, x: Tensor, state: Tensor | None = None) -> Generator[tuple[Tensor, Tensor], Tensor, Prediction]:
        """Evaluate the network once per row at the nodes `start`: `prediction = yield from interval.predict(x)`.

        The step only yields the request; the engine calls the network, for all rows of all solvers together. F and G
        share the evaluation of a common start state if x is the very tensor that `step` received. Evaluations are
        possible at nodes only: a method with intermediate stages needs a grid with nodes there.

        Args:
            x: states of shape (R, *sample), the network's input.
            state: states from which the clean sample is computed, if they are not x; for schedulers that round them.
        """
        output = yield x, self.start
        variance = None
        # Twice the channels: the second half is the predicted variance, also for solvers that do not use it.
        if output.shape[1] == 2 * x.shape[1]:
            output, variance = output.chunk(2, dim=1)
        x = x if state is None else state
        # Each case repeats the operations of the schedulers that have it, in their order, to reproduce their rounding.
        _, alpha, sigma = self.s
        match self.grid.prediction_type:
            case kind if self.grid.sigma_data is not None:  # EDM's preconditioning (arXiv 2206.00364, table 1)
                total = sigma**2 + self.grid.sigma_data**2
                gain = (-sigma if kind == "v_prediction" else sigma) * self.grid.sigma_data / total**0.5
                clean = self.grid.sigma_data**2 / total * x + gain * output
                noise = (x - clean) / sigma
            case "epsilon":
                clean, noise = (x - sigma * output) / alpha, output
            case "v_prediction" if self.grid.input_scale is not None:  # of Euler's schedulers, with c_skip and c_out
                scale = self.rows(self.grid.input_scale[self.start])
                clean = x / (sigma**2 + 1) - sigma / scale * output
                noise = (x - clean) / sigma
            case "v_prediction":
                clean, noise = alpha * x - sigma * output, alpha * output + sigma * x
            case "flow_prediction":
                clean, noise = x - sigma * output, x + alpha * output
            case _:
                clean, noise = output, (x - alpha * output) / sigma
        # The noise is that of the unconstrained clean sample, as in DDIMScheduler.
        self.predictions.append(Prediction(self.grid.constrain(clean), noise, variance))
        return self.predictions[-1]

    def std(self, scale: Tensor) -> Tensor:
        """Return the standard deviation of `noise(scale)`, in the shape of `scale`."""
        return scale if self.random is None else self.random.std(self.start, self.stop, scale)

    def noise(self, scale: Tensor) -> Tensor | float:
        """Return the noise that the steps add: `scale`, of shape (R, 1, ...) or (R, *sample), times standard noise.

        For a jump over many nodes it is the sum of the noises of its fine steps, whatever the scale
        (docs/reference/solvers.md, eq. 14). Without a source of noise it is 0.
        """
        return 0.0 if self.random is None else self.random(self.start, self.stop, self.sample, scale)
