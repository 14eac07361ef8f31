"""Data in the form that Datastar reads: values as JSON, attributes and frames.

This package takes names and values; it knows no state, no schema and no connection. Begin with `values.to_wire`, and
with `frames.signals_frame`.
"""
