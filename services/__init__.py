"""The benchmark fleet: compile once, measure on one GPU, draw the figures."""
