"""Serves connections: their scheduler and loader, worker processes, control and metrics."""
