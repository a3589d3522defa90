"""Runs that hold whole families of models against the compiler."""
