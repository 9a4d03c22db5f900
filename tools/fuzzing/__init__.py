"""Kinds of damaged and hostile input: a module for each family, a function for each kind (see tools/fuzz.py)."""
