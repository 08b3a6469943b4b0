"""Pure functions of a table and of decisions: scores, intervals, frontiers."""
