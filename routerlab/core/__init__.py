"""The vocabulary: queries, pools, outcomes, decisions, runs."""
