"""Published parallel samplers, written from their papers, and our settings of `sample`."""
