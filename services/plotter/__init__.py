"""Draws figures from records; never measures."""
