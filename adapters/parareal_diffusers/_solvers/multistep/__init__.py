"""Multistep methods: DEIS, LMS, UniPC and extrapolated steps."""
