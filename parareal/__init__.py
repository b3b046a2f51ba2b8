"""Parareal: solve any ODE in parallel in time, and get the sequential solver's answer."""

from parareal._batch_time import BatchTime as BatchTime
from parareal._check import Finding as Finding
from parareal._check import Report as Report
from parareal._check import check as check
from parareal._citation import citation as citation
from parareal._cost import Cost as Cost
from parareal._criteria import AbstractCriterion as AbstractCriterion
from parareal._criteria import Defect as Defect
from parareal._criteria import Evidence as Evidence
from parareal._criteria import Increment as Increment
from parareal._criteria import Iterations as Iterations
from parareal._criteria import LastChange as LastChange
from parareal._criteria import Tolerance as Tolerance
from parareal._criteria import propagated_error as propagated_error
from parareal._criteria import worst_increment as worst_increment
from parareal._executors import AbstractExecutor as AbstractExecutor
from parareal._executors import BatchedExecutor as BatchedExecutor
from parareal._executors import SerialExecutor as SerialExecutor
from parareal._history import Propagation as Propagation
from parareal._outcome import Outcome as Outcome
from parareal._outcome import PararealError as PararealError
from parareal._parareal import Parareal as Parareal
from parareal._plan import Plan as Plan
from parareal._plan import plan as plan
from parareal._propagators import Costed as Costed
from parareal._propagators import Stepper as Stepper
from parareal._propagators import Steps as Steps
from parareal._propagators import vectorized as vectorized
from parareal._sequential import sequential as sequential
from parareal._simulate import Simulation as Simulation
from parareal._simulate import simulate as simulate
from parareal._solution import Refinement as Refinement
from parareal._solution import Solution as Solution
from parareal._solution import Stats as Stats
from parareal._solve import refine as refine
from parareal._solve import solve as solve

__version__ = "0.1.0"
