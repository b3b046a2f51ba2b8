"""Solutions: their fields, plots and files."""
