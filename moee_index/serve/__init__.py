"""A warm server: one model thread, opened indexes, and HTTP around both.

Nothing heavy is imported here: the command line's client lives beside the server.
"""
