"""DDIM, without noise and with half of DDPM's, in parallel in time.

python examples/solvers/ddim.py
"""

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from parareal_diffusers import DDIM, models
from picture import compare, draw, options

if __name__ == "__main__":
    given = options(__doc__)
    scheduler: DDIMScheduler = models.load("fashion-mnist")[1]
    plain = compare("DDIM", given, scheduler, scheduler)
    noisy = compare("DDIM, eta 0.5", given, DDIM(scheduler, eta=0.5), scheduler, eta=0.5)
    draw(given.out / "ddim.png", {"DDIM": plain, "eta 0.5": noisy})
