"""The Prefect server as we run it: Prefect's own application, behind a check of the Host header.

`python -m flows.server.serve`, started by `flows.server.local_server` with its settings in the
environment. A page in a browser can make its own name point to 127.0.0.1 (DNS rebinding) and is
then of one origin with us; it cannot make the browser send our name as Host. A thread looks for
runs whose process is gone.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

HOSTS = "APEXFLOW_HOSTS"  # the names it goes by, set by whoever starts it


def main() -> None:
    """Serve until told to end."""
    os.umask(0o077)  # the database and all else here is for this user alone
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from flows.server.pages import with_pages
    from tasks.ghosts import watch
    from tasks.prefect_api import PrefectApi

    api = get_current_settings().server.api
    app = with_pages(create_app(final=True), os.environ["PREFECT_SERVER_API_AUTH_STRING"])
    # around it, not inside: automations call the same application in this process by another name
    hosts = os.environ[HOSTS].split(",")
    guarded = TrustedHostMiddleware(app, allowed_hosts=hosts, www_redirect=False)
    home = Path(os.environ["PREFECT_HOME"])
    watcher = threading.Thread(
        target=watch, args=(PrefectApi.from_environment(), home), daemon=True
    )
    watcher.start()
    uvicorn.run(
        app=guarded,
        host=api.host,
        port=api.port,
        timeout_keep_alive=api.keepalive_timeout,
        ws_ping_interval=api.websocket_ping_interval,
        ws_ping_timeout=api.websocket_ping_timeout,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
