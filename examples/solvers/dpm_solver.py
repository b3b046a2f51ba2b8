"""DPM-Solver++ in parallel in time: multistep, singlestep, and its SDE variant.

    python examples/solvers/dpm_solver.py

Prints iterations, error, span, work and wall times, and draws the iterates into report/dpm-solver.png. Takes about a
minute on two cores; `--steps 50` takes half of it.
"""

from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_singlestep import DPMSolverSinglestepScheduler
from parareal_diffusers import models
from picture import compare, draw, parse_options

if __name__ == "__main__":
    options = parse_options(__doc__)
    own = models.load("fashion-mnist")[1]
    config = {name: own.config[name] for name in ("beta_start", "beta_end", "beta_schedule", "prediction_type")}
    schedulers = {
        "2M": DPMSolverMultistepScheduler(**config),
        "3S": DPMSolverSinglestepScheduler(solver_order=3, lower_order_final=True, **config),
        "SDE 2M": DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **config),
    }
    rows = {name: compare(f"DPM-Solver++ {name}", options, s, s) for name, s in schedulers.items()}
    draw(options.out / "dpm-solver.png", rows)
