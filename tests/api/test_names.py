"""The public names: those that exist are documented, and none comes or goes unnoticed."""

import inspect
import re
from pathlib import Path

import parareal
import parareal.driver

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")

CONTRACT = """
    solve refine sequential check Parareal plan simulate citation vectorized Stepper Steps Costed
    AbstractCorrection CoarseDifference Identity Zero
    AbstractCriterion Increment Tolerance Defect Iterations LastChange
    AbstractExecutor SerialExecutor BatchedExecutor
    Solution Stats Refinement Outcome PararealError Report Plan Simulation BatchTime
"""
BESIDE = (
    "Evidence Finding Propagation propagated_error worst_increment"  # types of fields, and estimators for Tolerance
)


def public(module):
    return {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}


def test_the_engine_has_these_names_and_no_others():
    assert public(parareal) == {*CONTRACT.split(), *BESIDE.split()}


def test_every_name_stands_on_the_api_page():
    shown = re.findall(r"^::: parareal\.(?:driver\.)?(\w+)$", PAGE, re.M)
    aliases = {"State", "Stack", "Nodes", "Memory", "Time", "Function", "Propagator"}
    constants = {"SCHEDULES", "NORMS", "SEQUENTIAL_NOTE", "FAILED_NOTE", "WORTHWHILE", "PATIENCE"}
    assert public(parareal) <= set(shown)
    assert public(parareal.driver) - aliases - constants <= set(shown) | {"add", "subtract", "finite"}
    for name in shown:
        assert hasattr(parareal, name) or hasattr(parareal.driver, name) or name == "driver", f"{name} does not exist"


def test_every_public_object_has_a_docstring():
    for module in (parareal, parareal.driver):
        for name in public(module):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert value.__doc__, f"{name} has no docstring"
