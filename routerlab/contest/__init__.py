"""Many routers on one table, compared."""
