"""Checks of docs/deployment.md; tests/docs/README.md says how they are written."""

# == Many processes: snippet 1
# elsewhere test_deployment.py
