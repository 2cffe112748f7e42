"""Names that two columns would share are refused where they are declared."""

import pytest

from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import ITEM, Field, Label, LogSchema
from longreel.contracts.schemas import DATASETS, dataset_schemas
from tests.sample_tables import EVERY_KIND


def test_a_schema_has_every_column_once() -> None:
    schemas = dataset_schemas(EVERY_KIND)
    for schema in (*(schemas[dataset] for dataset in DATASETS), schemas.request_table):
        assert len(set(schema.names)) == len(schema.names)


def test_fields_with_the_name_of_another_column_are_refused() -> None:
    spent = Label(name="spent", value="label_spent")
    with pytest.raises(LongreelError, match="label_spent is the column of a number label; rename the field"):
        LogSchema(fields=(ITEM, Field(name="label_spent", place="item", kind="number")), labels=(spent,))
    with pytest.raises(LongreelError, match=r"\[fields.user\] id: user_id is a column of every log"):
        LogSchema(fields=(ITEM, Field(name="id", place="user", kind="id")))
