"""Where queries and outcome tables come from."""
