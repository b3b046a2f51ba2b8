"""DDPM in parallel in time: the very sample that the sequential loop draws from the same generator.

python examples/solvers/ddpm.py
"""

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from parareal_diffusers import models
from picture import compare, draw, options

if __name__ == "__main__":
    given = options(__doc__)
    own = models.load("fashion-mnist")[1]
    rows = {}
    for variance in ("fixed_small", "fixed_large"):
        scheduler = DDPMScheduler.from_config(own.config, variance_type=variance)
        rows[variance] = compare(f"DDPM, {variance}", given, scheduler, scheduler)
    draw(given.out / "ddpm.png", rows)
