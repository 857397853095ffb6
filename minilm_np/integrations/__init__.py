"""Adapters for frameworks, one module each; only that module imports its framework."""
