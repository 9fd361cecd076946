"""Commands that look at versions, compare and forget them."""
