"""Commands that bring versions back, as files, disks or tar streams."""
