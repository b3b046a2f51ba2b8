"""A test problem with an exact score: a mixture of Gaussians."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from parareal.driver import one_of
from parareal_diffusers._grid.grid import per_row


@final
@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of equally likely isotropic Gaussians, whose score is known in closed form.

    It needs no network and has no training error. With x = alpha * clean + sigma * noise, component j of x has mean
    alpha * means[j] and variance v = (alpha * deviation)^2 + sigma^2. The expected clean sample given x is the mean of
    the components' conditional means, weighted by the probability of each component given x. The flow is smooth, but
    it has to choose between modes, which makes it harder than a single Gaussian.

    Args:
        means: means of the components, shape (components, *sample).
        deviation: standard deviation of every component in each dimension.
    """

    means: Tensor
    deviation: float = 0.1

    @staticmethod
    def random(
        components: int = 12, shape: tuple[int, ...] = (1, 8, 8), deviation: float = 0.1, seed: int = 0
    ) -> "GaussianMixture":
        """Return a mixture whose means are drawn from a standard normal distribution.

        Args:
            components: the number of Gaussians.
            shape: shape of a sample.
            deviation: standard deviation of every component.
            seed: seed of the means.
        """
        generator = torch.Generator().manual_seed(seed)
        return GaussianMixture(torch.randn(components, *shape, generator=generator, dtype=torch.float64), deviation)

    def clean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the expected clean sample given x.

        It is computed in float64, whatever the dtype of x.

        Args:
            x: shape (R, *sample).
            alpha: factor of the clean sample in x, shape (R,).
            sigma: factor of the noise in x, shape (R,).

        Returns:
            Shape and dtype of x.
        """
        alpha, sigma, means = alpha.double(), sigma.double(), self.means.to(x.device, torch.float64)
        variance = (alpha * self.deviation) ** 2 + sigma**2
        flat, centres = x.double().flatten(1), means.flatten(1)
        # Memory grows with rows times components; it is meant for a few components and small samples.
        squares = ((flat[:, None] - alpha[:, None, None] * centres) ** 2).sum(-1)
        weights = torch.softmax(-0.5 * squares / variance[:, None], dim=1)
        centre = (weights @ centres).reshape(x.shape)
        gain = alpha * self.deviation**2 / variance
        return (centre + per_row(gain, x) * (x.double() - per_row(alpha, x) * centre)).to(x.dtype)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the expected clean sample given x = clean + sigma * noise; `sample` needs it marked `denoised`.

        Args:
            x: shape (R, *sample).
            sigma: shape (R,).
        """
        return self.clean(x, torch.ones_like(sigma), sigma)

    def model(self, scheduler: Any, prediction_type: str = "epsilon") -> Callable[[Tensor, Tensor], Tensor]:
        """Return an exact model `model(x, t)` for a scheduler.

        Args:
            scheduler: a diffusers scheduler with `alphas_cumprod`, or one of a flow.
            prediction_type: the quantity that the model predicts. `"epsilon"`, `"v_prediction"` and `"sample"` are for
                inputs with alpha^2 + sigma^2 = 1; `"flow_prediction"` is the velocity noise - clean at sigma = t / T.

        Raises:
            ValueError: for another prediction type.
        """
        one_of("prediction_type", prediction_type, ("epsilon", "v_prediction", "sample", "flow_prediction"))
        flow = prediction_type == "flow_prediction"
        levels = _flow_levels if flow else _levels

        def model(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (level.expand(len(x)) for level in levels(scheduler, t.to(x.device)))
            clean = self.clean(x, alpha, sigma).double()
            if prediction_type == "sample":
                return clean.to(x.dtype)
            noise = (x.double() - per_row(alpha, x) * clean) / per_row(sigma, x)
            if flow:
                return (noise - clean).to(x.dtype)
            velocity = per_row(alpha, x) * noise - per_row(sigma, x) * clean
            return (noise if prediction_type == "epsilon" else velocity).to(x.dtype)

        return model


def _levels(scheduler: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at timesteps of shape (R,).

    Timesteps need not be whole: between whole ones the logarithm of sigma / alpha is interpolated linearly, as sigma
    schedulers do.
    """
    alphas_cumprod = scheduler.alphas_cumprod.to(t.device).double()
    log_ratio = 0.5 * (torch.log1p(-alphas_cumprod) - torch.log(alphas_cumprod))
    below = t.double().floor()
    fraction, index = t.double() - below, below.long()
    above = (index + 1).clamp(max=len(log_ratio) - 1)
    ratio = torch.exp((1 - fraction) * log_ratio[index] + fraction * log_ratio[above])
    alpha = 1 / (1 + ratio**2).sqrt()
    return alpha, alpha * ratio


def _flow_levels(scheduler: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma of a straight flow at timesteps of shape (R,)."""
    sigma = t.double() / scheduler.config["num_train_timesteps"]
    return 1 - sigma, sigma
