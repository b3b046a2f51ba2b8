"""Published parallel samplers, written from their papers, and ours."""
