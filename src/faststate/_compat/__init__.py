"""Private names of neighbouring packages, one module for each neighbour, so that a change of theirs is found here.

A module knows its neighbour, and nothing of FastState. It says for each private name what happens when that name is
missing: an error at import or setup that names it, or a slower public way.
`tests/test_compat.py` fails first when a neighbour changes. Begin with the module of the neighbour that you look for;
FastHTML's is `fasthtml/_compat.py`, since only that package may import FastHTML.
"""
