"""Turns kernel specs into cubins in the store."""
