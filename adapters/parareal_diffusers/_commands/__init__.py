"""Subcommands of the command line `parareal`: `demo` and `plan`, and the demo's report."""
