"""The problem as the caller states it, checked."""
