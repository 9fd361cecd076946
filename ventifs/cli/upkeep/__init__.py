"""Commands that make, measure, check and mend a store."""
