"""Arithmetic on states: the only place that distinguishes Python numbers, NumPy arrays and torch tensors.

A *state* is a Python number, a NumPy array, a torch tensor, or a pytree of them. A *stack* holds the states of several
rows: the same pytree with one additional leading axis on every leaf. The leaves of a stack are always arrays, even if
the states are Python numbers.
"""

from parareal._state.arithmetic import add as add
from parareal._state.arithmetic import finite as finite
from parareal._state.arithmetic import nan_like as nan_like
from parareal._state.arithmetic import same as same
from parareal._state.arithmetic import split_inexact as split_inexact
from parareal._state.arithmetic import subtract as subtract
from parareal._state.layout import Layout as Layout
from parareal._state.layout import Leaf as Leaf
from parareal._state.layout import canonicalize as canonicalize
from parareal._state.layout import conform as conform
from parareal._state.layout import copy as copy
from parareal._state.layout import describe_leaf as describe_leaf
from parareal._state.layout import epsilon as epsilon
from parareal._state.layout import leaf_epsilons as leaf_epsilons
from parareal._state.norms import NORMS as NORMS
from parareal._state.norms import measure_leaves as measure_leaves
from parareal._state.scaled import ScaledNorm as ScaledNorm
from parareal._state.scaled import component_units as component_units
from parareal._state.stacks import concatenate as concatenate
from parareal._state.stacks import count_rows as count_rows
from parareal._state.stacks import has_rows as has_rows
from parareal._state.stacks import stack as stack
from parareal._state.stacks import take as take
from parareal._state.trees import Index as Index
from parareal._state.trees import Memory as Memory
from parareal._state.trees import Nodes as Nodes
from parareal._state.trees import Stack as Stack
from parareal._state.trees import State as State
from parareal._state.trees import Time as Time
from parareal._state.trees import structure as structure
from parareal._state.trees import tree_leaves as tree_leaves
from parareal._state.trees import tree_map as tree_map
