"""An embedded server that speaks the ClearML API to the real SDK and the real agent: one process, SQLite, a folder."""

__version__ = "0.1.0"
