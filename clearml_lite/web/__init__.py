"""The pages on the web port, rendered here; charts are drawn in the browser, by a library that comes from here too."""

from clearml_lite.web.app import WebServer

__all__ = ["WebServer"]
