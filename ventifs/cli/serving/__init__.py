"""Commands of 9P: servers, clients and mounts."""
