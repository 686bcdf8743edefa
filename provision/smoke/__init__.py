"""Runs the stack checks (`tests/stack`: pytest and testinfra) against a deployed testbed and tells what they found."""

STAGE = "Check the stack"
