"""DDIM in parallel in time, without noise and with eta = 0.5.

    python examples/solvers/ddim.py

Prints iterations, error, span, work and wall times, and draws the iterates into report/ddim.png. Takes about a minute
on two cores; `--steps 50` takes half of it.
"""

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from parareal_diffusers import DDIM, models
from picture import compare, draw, parse_options

if __name__ == "__main__":
    options = parse_options(__doc__)
    scheduler: DDIMScheduler = models.load("fashion-mnist")[1]
    plain = compare("DDIM", options, scheduler, scheduler)
    noisy = compare("DDIM, eta 0.5", options, DDIM(scheduler, eta=0.5), scheduler, eta=0.5)
    draw(options.out / "ddim.png", {"DDIM": plain, "eta 0.5": noisy})
