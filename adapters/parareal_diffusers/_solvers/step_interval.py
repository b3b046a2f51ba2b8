"""A leg: the steps that some rows are about to make, from level s to level t, as a solver sees them."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, final

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid, Levels, per_row
from parareal_diffusers._noise import NoiseSource


class Prediction(NamedTuple):
    """What a network says of noisy samples, a row each: tensors of shape (R, *sample) in the states' dtype."""

    clean: Tensor
    """the predicted clean sample (x0, `pred_original_sample`), clipped or thresholded as the scheduler does"""
    noise: Tensor
    """the predicted noise (epsilon), not touched by clipping"""
    variance: Tensor | None = None
    """what the network predicts for the variance (Nichol, Dhariwal 2021), where it has twice the channels"""


@final
@dataclass(frozen=True, eq=False)
class Leg:
    """The steps that R rows are about to make, each from its own level s to its own level t.

    A row goes from node `start` to node `stop`: to the next node in a fine solve, over many in a coarse jump. All
    levels have shape (R, 1, ..), to multiply states of shape (R, *sample); in papers' notation s.alpha is alpha_s.
    """

    grid: Grid
    start: Tensor
    """nodes, int64 of shape (R,)"""
    stop: Tensor
    """nodes, int64 of shape (R,)"""
    sample: Tensor
    """which sample a row belongs to, int64 of shape (R,)"""
    state: Tensor
    """the rows' states at their nodes `start`, of shape (R, *sample)"""
    random: NoiseSource | None = None
    """the noise of the steps; None where the fine solver adds none"""

    predictions: list[Prediction] = field(default_factory=list)
    """what the network has said of the rows, in the order of evaluations"""

    @staticmethod
    def of_steps(grid: Grid, bases: Sequence[int] | None = None) -> "Leg":
        """Return a row for each of the N steps of a grid, from the nodes `bases` if steps do not start at their own."""
        nodes = torch.arange(grid.steps)
        start = nodes if bases is None else torch.tensor(list(bases))
        return Leg(grid, start, nodes + 1, torch.zeros_like(nodes), torch.zeros(grid.steps, 1))

    @cached_property
    def s(self) -> Levels:
        """The levels that the steps leave from."""
        return self.level(self.start)

    @cached_property
    def t(self) -> Levels:
        """The levels that the steps arrive at."""
        return self._rows(self.grid.stops, self.stop - 1)

    def level(self, node: Tensor) -> Levels:
        """Return the levels, each of shape (R, 1, ..), that steps leave from at other nodes, int64 of shape (R,)."""
        return self._rows(self.grid.starts, node)

    def rows(self, values: Tensor) -> Tensor:
        """Reshape one number a row, of shape (R,), to (R, 1, ..), so that it multiplies states."""
        return per_row(values, self.state)

    def _rows(self, levels: Tensor, index: Tensor) -> Levels:
        rows = levels.index_select(1, index)
        return Levels(*rows.reshape(*rows.shape, *[1] * (self.state.ndim - 1)).unbind(0))

    def as_single_precision(self, x: Tensor) -> Tensor:
        """Round states to float32 for single steps, whatever their dtype, as schedulers do that cast them."""
        if x.dtype is torch.float32 or not self.grid.casts:
            return x
        return torch.where(self.rows(self.stop == self.start + 1), x.float().to(x), x)

    def predict(self, x: Tensor, state: Tensor | None = None) -> Generator[tuple[Tensor, Tensor], Tensor, Prediction]:
        """Ask the network about x at the nodes `start`: one evaluation; `prediction = yield from leg.predict(x)`.

        x has shape (R, *sample); the clean sample is that of `state`, if this is another. Evaluations are made at nodes
        only: a method with more stages has nodes for them.

        Given the very tensor that `step` was given, the evaluation can be shared with the other propagator's.
        """
        output = yield x, self.start
        variance = None
        if output.shape[1] == 2 * x.shape[1]:
            output, variance = output.chunk(2, dim=1)
        x = x if state is None else state
        _, alpha, sigma = self.s
        match self.grid.prediction_type:
            case kind if self.grid.sigma_data is not None:
                total = sigma**2 + self.grid.sigma_data**2
                gain = (-sigma if kind == "v_prediction" else sigma) * self.grid.sigma_data / total**0.5
                clean = self.grid.sigma_data**2 / total * x + gain * output
                noise = (x - clean) / sigma
            case "epsilon":
                clean, noise = (x - sigma * output) / alpha, output
            case "v_prediction" if self.grid.input_scale is not None:
                scale = self.rows(self.grid.input_scale[self.start])
                clean = x / (sigma**2 + 1) - sigma / scale * output
                noise = (x - clean) / sigma
            case "v_prediction":
                clean, noise = alpha * x - sigma * output, alpha * output + sigma * x
            case "flow_prediction":
                clean, noise = x - sigma * output, x + alpha * output
            case _:
                clean, noise = output, (x - alpha * output) / sigma
        self.predictions.append(Prediction(self.grid.constrained(clean), noise, variance))
        return self.predictions[-1]

    def std(self, scale: Tensor) -> Tensor:
        """Return the standard deviation of what `noise(scale)` returns, in the shape of `scale`."""
        return scale if self.random is None else self.random.std(self.start, self.stop, scale)

    def noise(self, scale: Tensor) -> Tensor | float:
        """Return the noise that the steps add: `scale`, of shape (R, 1, ..) or (R, *sample), times standard noise.

        For a jump over many nodes it is what their steps' noises add up to, whatever the scale (docs/explained/history-and-noise.md).
        """
        return 0.0 if self.random is None else self.random(self.start, self.stop, self.sample, scale)
