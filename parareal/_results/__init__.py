"""Solutions: what a solve returns, and how it is shown and saved."""
