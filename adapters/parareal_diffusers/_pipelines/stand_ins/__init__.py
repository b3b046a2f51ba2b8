"""Stand-ins for what a pipeline's loop calls: its scheduler and its network."""
