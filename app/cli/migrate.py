"""``nlft migrate``: the schema step of a deployment."""

from app.cli.operator import operating
from app.cli.options import AsJson, StateDir
from app.cli.output import print_record
from app.db.migration import current_revision, upgrade


def migrate(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Bring the database to the newest schema; concurrent runs wait for each other."""
    with operating(state_dir) as operator:
        engine = operator.session.get_bind().engine
        upgrade(engine)
        with engine.connect() as connection:
            print_record({"revision": current_revision(connection)}, as_json=as_json)
