"""Measures cells on one GPU: verified first, timed second, one record each."""
