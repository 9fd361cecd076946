"""A disk's volumes and the files inside, found out in a process of its own.

Whatever an image holds, the archiver survives it: parsers run in a forked child whose memory and
processor time are limited. A child that dies or is stopped costs the rest of that volume's files
(their bytes are archived all the same), told in the volume's `Ended`.
"""
