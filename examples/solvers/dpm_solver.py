"""DPM-Solver++, multistep and singlestep, and its SDE variant, in parallel in time.

python examples/solvers/dpm_solver.py
"""

from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_singlestep import DPMSolverSinglestepScheduler
from parareal_diffusers import models
from picture import compare, draw, options

if __name__ == "__main__":
    given = options(__doc__)
    own = models.load("fashion-mnist")[1]
    config = {name: own.config[name] for name in ("beta_start", "beta_end", "beta_schedule", "prediction_type")}
    schedulers = {
        "2M": DPMSolverMultistepScheduler(**config),
        "3S": DPMSolverSinglestepScheduler(solver_order=3, lower_order_final=True, **config),
        "SDE 2M": DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **config),
    }
    rows = {name: compare(f"DPM-Solver++ {name}", given, s, s) for name, s in schedulers.items()}
    draw(given.out / "dpm-solver.png", rows)
