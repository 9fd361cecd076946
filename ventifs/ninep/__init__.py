"""9P: server sessions, a client, and mounting; dialects 9P2000, 9P2000.u and 9P2000.L."""
