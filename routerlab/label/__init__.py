"""Labels computed from an outcome table: difficulty, what a router should have chosen, rewards."""
