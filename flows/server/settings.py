"""How this checkout's Prefect server is run: a small file that the next `up` remembers.

`.prefect/settings.json`, for its owner alone (a database's address may hold a password). What a
person says on the command line is written there; what is not said stays as it was.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from data.errors import ConfigError
from data.settings import ASIDE, Settings

FILE = "settings.json"
AUTH = "connect-auth"  # `user:password` of a team server, in this home
SQLITE = "sqlite"  # the database a person asked for; "" where nobody has said which
LOOPBACK = ("127.0.0.1", "localhost")
DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class ServerSettings(Settings):
    """What `up` was told, now or before."""

    host: str = Field("127.0.0.1", min_length=1, max_length=255, json_schema_extra=ASIDE)
    port: int | None = Field(None, ge=1, le=65535, json_schema_extra=ASIDE)
    database: str = Field("", max_length=2000, json_schema_extra=ASIDE)  # see SQLITE
    retention_days: float = Field(0.0, ge=0, json_schema_extra=ASIDE)  # 0: runs are kept for ever
    gpus: int | None = Field(None, ge=1, le=4096, json_schema_extra=ASIDE)  # None: counted here
    names: tuple[str, ...] = Field((), json_schema_extra=ASIDE)  # more names browsers know it by
    worker: bool = Field(True, json_schema_extra=ASIDE)  # whether `up` starts one here
    connect: str = Field("", max_length=2000, json_schema_extra=ASIDE)  # a team server's API

    @property
    def open(self) -> bool:
        """Whether other machines can reach the server."""
        return self.host not in LOOPBACK

    @property
    def local(self) -> str:
        """The address under which this machine reaches it."""
        return "127.0.0.1" if self.host in (*LOOPBACK, "0.0.0.0") else self.host

    @property
    def postgres(self) -> str:
        """The address of its PostgreSQL; "" for the SQLite file in `.prefect`."""
        return "" if self.database == SQLITE else self.database

    def hosts(self) -> list[str]:
        """Names and addresses a browser may use for it; any other Host header is refused."""
        if not self.open:
            return [*LOOPBACK, *self.names]
        here = [socket.gethostname(), socket.getfqdn()]
        if self.host == "0.0.0.0":
            import psutil

            cards = psutil.net_if_addrs().values()
            here += [a.address for card in cards for a in card if a.family == socket.AF_INET]
        else:
            here.append(self.host)
        return list(dict.fromkeys([*LOOPBACK, *here, *self.names]))

    @property
    def shown(self) -> str:
        """The name people are told."""
        if not self.open:
            return "127.0.0.1"
        if self.names:
            return self.names[0]
        return socket.gethostname() if self.host == "0.0.0.0" else self.host

    def environment(self) -> dict[str, str]:
        """Prefect's settings of the server that follow from these."""
        found = {}
        if self.postgres:
            found["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = self.postgres
        if self.retention_days:
            found["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] = "events,flow_runs"
            seconds = str(round(max(3600.0, self.retention_days * 86400)))
            found["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"] = seconds
        return found

    def described(self) -> dict[str, Any]:
        """For `status`: without a password."""
        facts: dict[str, Any] = {"listens": self.host, "database": without_password(self.postgres)}
        if self.retention_days:
            facts["retention"] = f"finished runs are kept {self.retention_days:g} days"
        if not self.worker:
            facts["worker here"] = "none (--server-only)"
        return facts


def read_settings(home: Path) -> ServerSettings:
    """The settings of this home. Raises ConfigError naming the file when it cannot be read."""
    path = home / FILE
    try:
        return ServerSettings.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        return ServerSettings()
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigError(
            str(path),
            expected="settings that `up` wrote",
            got=str(error).splitlines()[0],
            todo="Mend or delete it: without it everything is as in the beginning.",
        ) from error


def changed(settings: ServerSettings, **said: Any) -> ServerSettings:
    """The settings with what was said (None: not said). Raises ConfigError for a wrong value."""
    given = {name: value for name, value in said.items() if value is not None}
    if "database" in given:
        given["database"] = database_url(str(given["database"]))
    if "connect" in given:
        given["connect"] = api_url(str(given["connect"]))
    try:
        return ServerSettings.model_validate({**settings.model_dump(), **given})
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            f"--{str(problem['loc'][0]).replace('_', '-')}",
            expected=str(problem["msg"]),
            got=repr(problem.get("input"))[:80],
        ) from error


def database_url(text: str) -> str:
    """'sqlite' (also for '') for the file in `.prefect`; a PostgreSQL address with its driver."""
    if text in ("", SQLITE):
        return SQLITE
    scheme, mark, rest = text.partition("://")
    scheme = DRIVERS.get(scheme, scheme)
    if scheme != "postgresql+asyncpg" or not mark or not urlsplit(f"x://{rest}").path.strip("/"):
        raise ConfigError(
            "--database",
            expected="sqlite, or postgresql://USER:PASSWORD@HOST:PORT/NAME",
            got=without_password(text)[:80],
        )
    return f"{scheme}://{rest}"


def without_password(url: str) -> str:
    """A database's address as it may be shown."""
    if not url:
        return "SQLite, .prefect/prefect.db"
    scheme, _, rest = url.partition("://")
    user, mark, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}:…{mark}{place}" if ":" in user else url


def api_url(text: str) -> str:
    """A team server's API address; '' for none. Raises ConfigError for something else."""
    if not text:
        return ""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username:
        raise ConfigError(
            "--connect",
            expected="http://HOST:PORT or https://HOST of a server that `up --host` started",
            got=text[:80] if not good else "an address with a password in it",
            todo="The password is read from a file (--auth-file) or $PREFECT_API_AUTH_STRING.",
        )
    path = parts.path.rstrip("/").removesuffix("/api")
    return f"{parts.scheme}://{parts.netloc}{path}/api"


def password(home: Path, auth_file: Path | None) -> str:
    """`user:password` from the file, the environment or the last time. Raises ConfigError."""
    try:
        if auth_file is not None:
            return auth_file.read_text().strip()
        if text := os.environ.get("PREFECT_API_AUTH_STRING", ""):
            return text
        return (home / AUTH).read_text().strip()
    except OSError as error:
        raise ConfigError(
            "worker --connect",
            expected="the server's password",
            got=str(error),
            todo="Copy `.prefect/auth` from the server's machine and give --auth-file PATH.",
        ) from error
