"""Routers: the protocol they share, the simple ones and the learned ones."""
