"""A rectified flow in parallel in time: Euler's method with a shift, Heun's method, and UniPC.

    python examples/solvers/flow.py

Prints iterations, error, span, work and wall times, and draws the iterates into report/flow.png. Takes about a minute
on two cores; `--steps 50` takes half of it.
"""

from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from picture import compare, draw, parse_options

if __name__ == "__main__":
    options = parse_options(__doc__, model="fashion-mnist-flow")
    schedulers = {
        "Euler, shift 3": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "Heun": FlowMatchHeunDiscreteScheduler(),
        "UniPC": UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    }
    rows = {name: compare(f"flow, {name}", options, s, s) for name, s in schedulers.items()}
    draw(options.out / "flow.png", rows)
