"""The algorithm as a state machine that does no work itself."""
