"""The problem that the caller states, and its checks."""
