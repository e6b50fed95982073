"""The configuration is read whole, refused whole, and never shows a secret."""

from pathlib import Path

import pytest

from brokerd.config.load import load
from brokerd.config.settings import Settings
from brokerd.domain import Priority
from brokerd.errors import ConfigInvalid

_MINIMAL = """
node_name = "node-1"
[metaapi.tokens]
main = { env = "TOKEN" }
[database]
url = { env = "DSN" }
[api]
key = { env = "KEY" }
"""
_SECRETS = {
    "TOKEN": "eyJ.planted-token",
    "DSN": "postgresql://brokerd:planted-password@db/brokerd",
    "KEY": "planted-key-0123456789",
}


def _load(folder: Path, text: str = "", *, minimal: str = _MINIMAL, **environ: str) -> Settings:
    path = folder / "brokerd.toml"
    path.write_text(minimal + text)
    return load(path, environ=_SECRETS | environ)


def _problems(
    folder: Path, text: str = "", *, minimal: str = _MINIMAL, **environ: str
) -> tuple[str, ...]:
    with pytest.raises(ConfigInvalid) as caught:
        _load(folder, text, minimal=minimal, **environ)
    assert "planted" not in str(caught.value)
    assert "planted" not in repr(caught.value)
    return caught.value.problems


def test_minimal_configuration_takes_all_defaults(tmp_path: Path) -> None:
    """Name, token, database and key are enough."""
    settings = _load(tmp_path)
    assert settings.pool.max_links == 300
    assert settings.redis.url is None
    assert settings.queue.patience_seconds[Priority.LOW] == 600.0


def test_secrets_have_no_representation(tmp_path: Path) -> None:
    """Settings can be printed without giving a secret away."""
    settings = _load(tmp_path)
    assert settings.database.url.reveal() == _SECRETS["DSN"]
    assert "planted" not in f"{settings!r} {settings}"


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    """A variable replaces a value, adds to a table, and converts to the setting's type."""
    settings = _load(
        tmp_path,
        "[pool]\nmax_links = 5\n",
        BROKERD_POOL__MAX_LINKS="10",
        BROKERD_LINK__SILENCE_SECONDS="45.5",
        BROKERD_NODE_NAME="from-environment",
        BROKERD_QUEUE__PATIENCE_SECONDS__HIGH="4",
        BROKERD_METAAPI__TOKENS__SECOND="second-token",
        BROKERD_LOG__LEVEL="debug",
    )
    assert settings.pool.max_links == 10
    assert settings.link.silence_seconds == 45.5
    assert settings.node_name == "from-environment"
    assert settings.queue.patience_seconds == {
        Priority.HIGH: 4.0,
        Priority.NORMAL: 60.0,
        Priority.LOW: 600.0,
    }
    assert settings.metaapi.tokens["second"].reveal() == "second-token"
    assert settings.log.level == "debug"


def test_environment_alone_may_suffice() -> None:
    """Without a file everything can come from the environment."""
    settings = load(
        None,
        environ={
            "BROKERD_NODE_NAME": "node-1",
            "BROKERD_METAAPI__TOKENS__MAIN": _SECRETS["TOKEN"],
            "BROKERD_DATABASE__URL": _SECRETS["DSN"],
            "BROKERD_API__KEY": _SECRETS["KEY"],
        },
    )
    assert settings.api.key.reveal() == _SECRETS["KEY"]


def test_foreign_variables_are_left_alone(tmp_path: Path) -> None:
    """What container platforms make up from a service's name does not stop the start."""
    settings = _load(tmp_path, BROKERD_PORT="tcp://10.0.0.1:80", BROKERD_PORT_80_TCP="x", OTHER="y")
    assert settings.api.port == 8787


def test_secret_forms(tmp_path: Path) -> None:
    """A secret comes from a file, a variable or a credential; a variable picks another form."""
    (tmp_path / "key").write_text("key-from-a-file-123\n")
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "dsn").write_text("postgresql://from-a-credential")
    text = _MINIMAL.replace('env = "KEY"', 'file = "key"').replace(
        'env = "DSN"', 'credential = "dsn"'
    )
    settings = _load(
        tmp_path,
        minimal=text,
        CREDENTIALS_DIRECTORY=str(folder),
        BROKERD_METAAPI__TOKENS__MAIN__FILE=str(tmp_path / "key"),
    )
    assert settings.api.key.reveal() == "key-from-a-file-123"
    assert settings.database.url.reveal() == "postgresql://from-a-credential"
    assert settings.metaapi.tokens["main"].reveal() == "key-from-a-file-123"


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """One start tells about every kind of mistake, each with its key."""
    problems = _problems(
        tmp_path,
        """
[pool]
max_link = 3
heartbeat_seconds = "often"
[link]
backoff_base_seconds = true
[nonsense]
a = 1
[redis]
url = "redis://:planted@redis"
[log]
level = 3
[ledger]
batch_deals = 1.5
""",
        BROKERD_QUEUE__MAX_LENGTH="planted",
        BROKERD_QUEUE__PATIENCE_SECONDS__URGENT="1",
        BROKERD_NODE_NAME__DEEPER="planted",
    )
    keys = [problem.partition(":")[0] for problem in problems]
    assert sorted(keys) == [
        "BROKERD_NODE_NAME__DEEPER",
        "ledger.batch_deals",
        "link.backoff_base_seconds",
        "log.level",
        "nonsense",
        "pool.heartbeat_seconds",
        "pool.max_link",
        "queue.max_length",
        "queue.patience_seconds.urgent",
        "redis.url",
    ]
    told = "\n".join(problems)
    assert "pool.max_link: is not a setting; did you mean max_links?" in told
    assert "queue.max_length: expected int, got str; the default is 100000" in told


def test_everything_missing_is_told_by_name(tmp_path: Path) -> None:
    """An empty file is answered with the list of what must be set."""
    problems = _problems(tmp_path, minimal="")
    assert [problem.partition(":")[0] for problem in problems] == [
        "node_name",
        "metaapi.tokens",
        "database.url",
        "api.key",
    ]
    assert all("set it" in problem for problem in problems)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ('"planted"', "must not stand in the file"),
        ("5", "must not stand in the file"),
        ('{ env = "NOT_SET" }', "is not set"),
        ('{ env = "EMPTY" }', "is empty"),
        ('{ env = "BLANKS" }', "has blanks"),
        ('{ file = "absent" }', "No such file"),
        ('{ file = "binary" }', "not UTF-8"),
        ('{ file = "." }', "Is a directory"),
        ('{ credential = "key" }', "CREDENTIALS_DIRECTORY is not set"),
        ('{ env = "KEY", file = "key" }', "exactly one of"),
        ('{ vault = "planted" }', "exactly one of"),
        ("{ env = 5 }", "exactly one of"),
        ("{}", "exactly one of"),
    ],
)
def test_unusable_secret(tmp_path: Path, reference: str, reason: str) -> None:
    """A secret that cannot be had is explained by its reference, never by its content."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    text = _MINIMAL.replace('{ env = "KEY" }', reference)
    (problem,) = _problems(tmp_path, minimal=text, EMPTY=" \n", BLANKS="planted key")
    assert problem.startswith("api.key: ")
    assert reason in problem


def test_credential_may_not_leave_its_folder(tmp_path: Path) -> None:
    """A credential is a name, not a way to any file."""
    text = _MINIMAL.replace('env = "KEY"', 'credential = "../key"')
    (problem,) = _problems(tmp_path, minimal=text, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert "plain name" in problem


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"node_name = ", "is not TOML"), (b"\xff", "is not UTF-8"), (None, "cannot be read")],
    ids=["syntax", "encoding", "absent"],
)
def test_unreadable_file(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """A file that cannot be read is one problem that names the file."""
    path = tmp_path / "brokerd.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=reason) as caught:
        load(path, environ={})
    assert str(path) in caught.value.problems[0]


def test_value_in_place_of_a_section(tmp_path: Path) -> None:
    """A section written as a value is told how a section is written."""
    (problem,) = _problems(tmp_path, minimal="pool = 3\n" + _MINIMAL)
    assert problem == "pool: must be a table; write it as [pool]"
