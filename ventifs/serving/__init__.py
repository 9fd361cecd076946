"""All that runs tasks: connections, their scheduler and loader, worker processes, and metrics."""
