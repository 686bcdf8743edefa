"""The page on the web port."""

from html import escape

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from clearml_lite import __version__
from clearml_lite.config import Config

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>clearml-lite</title>
<style>body {{ font: 1rem/1.5 sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem }}</style></head>
<body>
<h1>clearml-lite {version}</h1>
<p>This is an embedded server for small testbeds: it speaks the ClearML API to the ClearML SDK and agent.
It does not replace the official ClearML server, and it has no web application.</p>
<ul>
<li>API: <a href="{api}/debug.ping">{api}</a></li>
<li>Files: <a href="{files}/">{files}</a></li>
</ul>
<p>Look at a task from Python: <code>Task.get_task(task_id="…")</code>.</p>
</body></html>
"""


def web_app(config: Config) -> Starlette:
    """One page that says what this is and where the API is; links that clients print lead to it too."""
    page = _PAGE.format(version=__version__, api=escape(config.urls.api), files=escape(config.urls.files))
    headers = {
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        "X-Content-Type-Options": "nosniff",
    }

    async def show(request: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    return Starlette(
        routes=[Route("/", show), Route("/projects/{path:path}", show), Route("/datasets/{path:path}", show)]
    )
