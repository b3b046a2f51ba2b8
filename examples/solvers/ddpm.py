"""DDPM in parallel in time: the same sample that the sequential loop draws from an equal generator.

    python examples/solvers/ddpm.py

Prints iterations, error, span, work and wall times, and draws the iterates into report/ddpm.png. Takes about a minute
on two cores; `--steps 50` takes half of it.
"""

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from parareal_diffusers import models
from picture import compare, draw, parse_options

if __name__ == "__main__":
    options = parse_options(__doc__)
    own = models.load("fashion-mnist")[1]
    rows = {}
    for variance in ("fixed_small", "fixed_large"):
        scheduler = DDPMScheduler.from_config(own.config, variance_type=variance)
        rows[variance] = compare(f"DDPM, {variance}", options, scheduler, scheduler)
    draw(options.out / "ddpm.png", rows)
