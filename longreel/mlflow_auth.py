"""MLflow's basic auth on one machine: the user `admin` and a generated password, in private files of the home."""

import secrets

from longreel.lake.home import Home, private_file

USER = "admin"
SETTINGS = """[mlflow]
default_permission = READ
admin_username = {user}
database_uri = sqlite:///{database}
"""


def admin_password(home: Home) -> str:
    """The password of `admin`, generated on first use."""
    file = home.mlflow / "admin-password"
    private_file(file)
    if not file.read_text():  # new, or of a start that was killed before it wrote the password
        file.write_text(secrets.token_urlsafe(18))
    return file.read_text()


def auth_environment(home: Home) -> dict[str, str]:
    """What `mlflow server --app-name basic-auth` reads; users are in `mlflow/users.db`."""
    settings, database = home.mlflow / "basic_auth.ini", home.mlflow / "users.db"
    private_file(database)
    private_file(settings)
    path = str(database).replace("%", "%%")  # a sign of the file's format
    settings.write_text(SETTINGS.format(user=USER, database=path))  # at each start: a home may have moved
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": admin_password(home),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }
