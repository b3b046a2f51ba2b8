"""Problems to compare on, and the records of runs."""
