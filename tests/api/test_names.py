"""The public names: each is documented, and none is added or removed by accident."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

import parareal
import parareal.driver

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")

CONTRACT = """
    solve refine sequential check Parareal plan simulate citation vectorized Stepper Steps Costed
    AbstractCorrection CoarseDifference Identity Zero
    AbstractCriterion Increment Tolerance Defect Iterations LastChange
    AbstractExecutor SerialExecutor BatchedExecutor
    Solution Stats Refinement SpotCheck Outcome PararealError Report Plan Simulation BatchTime
"""
FIELDS_AND_ESTIMATORS = (
    "Evidence Finding Propagation propagated_error worst_increment"  # types of fields, and estimators of Tolerance
)


def public_names(module):
    """Return the names of a module without underscore that are no modules."""
    return {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}


def test_the_engine_has_these_names_and_no_others():
    assert public_names(parareal) == {*CONTRACT.split(), *FIELDS_AND_ESTIMATORS.split()}


def test_every_name_is_on_the_api_page():
    page_names = re.findall(r"^::: parareal\.(?:driver\.)?(\w+)$", PAGE, re.M)
    aliases = {"State", "Stack", "Nodes", "Memory", "Time", "Function", "Propagator"}
    constants = {"SCHEDULES", "NORMS", "SEQUENTIAL_NOTE", "FAILED_NOTE", "WORTHWHILE", "PATIENCE"}
    assert public_names(parareal) <= set(page_names)
    assert public_names(parareal.driver) - aliases - constants <= set(page_names) | {"add", "subtract", "finite"}
    for name in page_names:
        assert hasattr(parareal, name) or hasattr(parareal.driver, name) or name == "driver", f"{name} does not exist"


def test_every_public_object_has_a_docstring():
    for module in (parareal, parareal.driver):
        for name in public_names(module):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert value.__doc__, f"{name} has no docstring"


def test_old_names_of_attributes_warn_and_return_the_new_ones():
    solution = parareal.solve(lambda u, t0, t1: u / 2, lambda u, t0, t1: u, 1.0, range(4))
    propagation = solution.propagations[0]
    with pytest.warns(FutureWarning, match="Propagation.began is now called Propagation.start_time"):
        assert propagation.began == propagation.start_time
    with pytest.warns(FutureWarning, match="BatchTime.measured is now called BatchTime.measure"):
        assert parareal.BatchTime.measured is parareal.BatchTime.measure


def test_examples_in_docstrings_run():
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    examples = [e for name in sorted(public_names(parareal)) for e in finder.find(getattr(parareal, name), name)]
    assert sum(len(example.examples) for example in examples)
    for example in examples:
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0
