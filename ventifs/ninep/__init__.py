"""The 9P front end: trees served to guests, in the dialects 9P2000, 9P2000.u and 9P2000.L."""
