"""Users of a cluster's MLflow (docs/cluster.md, step 4): who trains may log and register, who promotes may all.

`training` may add runs and versions, and edit them; it can neither delete anything nor write the ledger. `promotion`
may do all of that with this pipeline's experiment, model and ledger. Everybody with a password may read. Run it again
to change the passwords.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

from longreel.components.registry.store import experiment_id, open_store
from longreel.components.registry.versions import model_name
from longreel.lake.home import Home

GRANTS = {  # user -> permission on (experiment, model, ledger)
    "training": ("EDIT", "EDIT", "READ"),
    "promotion": ("MANAGE", "MANAGE", "MANAGE"),
}


@contextmanager
def unless_it_exists() -> Iterator[None]:
    """What the block creates may exist already."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def main() -> None:
    """Create the experiment, the model, the ledger and the users, whose passwords are in TRAINING_PASSWORD and
    PROMOTION_PASSWORD."""
    passwords = {user: os.environ.get(f"{user.upper()}_PASSWORD", "") for user in GRANTS}
    if missing := [user for user, password in passwords.items() if len(password) < 12]:
        sys.exit(f"error: expected a password of 12 characters or more in {missing[0].upper()}_PASSWORD")
    home = Home.locate()
    client = open_store(home)
    model = model_name(home.config)
    ledger = f"{model}-ledger"
    for name in (model, ledger):  # who creates one may delete it
        with unless_it_exists():
            client.create_registered_model(name)
    resources = [("experiment", experiment_id(home, client)), ("registered_model", model), ("registered_model", ledger)]
    users = get_app_client("basic-auth", tracking_uri=home.tracking_uri)
    for user, password in passwords.items():
        try:
            users.get_user(user)
            users.update_user_password(user, password)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            users.create_user(user, password)
        for (kind, name), permission in zip(resources, GRANTS[user], strict=True):
            with unless_it_exists():
                users.grant_user_permission(user, kind, name, permission)
        print(f"{user}: {', '.join(f'{p} {n}' for (_, n), p in zip(resources, GRANTS[user], strict=True))}")


if __name__ == "__main__":
    main()
