"""Everything that several test modules share. `tests/README.md` explains where to find what."""
