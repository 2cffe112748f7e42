"""A log with every place and kind, from raw files through ingest, samples and training to an evaluated model."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longreel.cli import main
from longreel.contracts.jagged import list_values
from longreel.contracts.log_schema import LogSchema
from longreel.lake.home import Home
from longreel.lake.table import Lake
from longreel.model.data.row_groups import read_rows, row_groups
from longreel.model.evaluation.evaluate import evaluate
from longreel.model.training.train import train

FIRST = date(2026, 3, 2)
DAYS = [FIRST + timedelta(days=number) for number in range(4)]
USERS, REQUESTS, TARGETS = 24, 3, 4
NUMBERS = [f"n{number}" for number in range(35)]  # with the others 50 declared fields

TOML = """
name = "every-kind"
tasks = ["click", "bought", "spent"]

[source]
kind = "generic"
log = "raw"
user_id = "uid"
item_id = "sku"
time_ms = "shown_at"
request_id = "basket"
where = "page <> 'ads'"
time_zone = "Europe/Berlin"
outcome_hours = 24

[source.derived]
clean_brand = "lower(trim(brand))"

[fields.item]
item_id = {rows = 512}
brand = {kind = "id", from = "clean_brand", rows = 64, match = true}
colour = {kind = "category"}
price = {kind = "number", from = "price_cents / 100"}
path = {kind = "multi", from = "split(path, '/')", size = 3, rows = 64}
title = {kind = "vector", size = 4}
NUMBERS

[fields.request]
device = {kind = "category"}
page = {kind = "category"}
hour = {kind = "hour"}
weekday = {kind = "weekday"}

[fields.event]
dwell_ms = {kind = "number", of = "click"}
paid = {kind = "number", of = "purchase"}

[fields.user]
country = {kind = "category"}
age = {kind = "number"}
segments = {kind = "multi", size = 2, rows = 16}

[actions]
click = "clicked"
purchase = {when = "bought_at IS NOT NULL", at = "bought_at"}

[history]
events = "click OR purchase"

[labels]
click = "click"
bought = {when = "purchase", within = "24 h", weight = 2}
spent = {value = "if(purchase, ln(1 + paid), NULL)", within = "24 h"}

[samples]
max_history = 64

[model]
width = 16
heads = 2
layers = 1
embedding_width = 8
mixer_tokens = 4
match_counts = true

[training]
window_days = 3
epochs = 8
batch_tokens = 256
learning_rate = 5e-3
window_min = 8
window_mean = 16
window_max = 64
device = "cpu"

[evaluation]
windows = [8, 64]
bootstrap_draws = 20
""".replace("NUMBERS", "\n".join(f'{name} = {{kind = "number"}}' for name in NUMBERS))


def raw_day(day: date) -> pa.Table:
    """Impressions of a day: users click what is red, or of their brand, and some clicks are bought hours later."""
    rng = np.random.default_rng(day.toordinal())
    midnight = np.datetime64(day, "ms") - np.timedelta64(1, "h")  # of Berlin, in UTC
    n = USERS * REQUESTS * TARGETS
    user = np.repeat(np.arange(USERS), REQUESTS * TARGETS)
    request = np.repeat(np.arange(USERS * REQUESTS), TARGETS)
    shown = midnight + (3_600_000 * (1 + 7 * (request % REQUESTS)) + 60_000 * user).astype("timedelta64[ms]")
    sku = rng.integers(0, 200, n)
    brand = np.where(rng.random(n) < 0.5, user % 8, sku % 8)
    clicked = rng.random(n) < np.where(sku % 3 == 0, 0.8, np.where(brand == user % 8, 0.3, 0.1))
    bought = clicked & (rng.random(n) < 0.4)
    delay = (3_600_000 * rng.uniform(0.1, 20, n)).astype("timedelta64[ms]")
    price = rng.integers(100, 9_900, n)
    columns: dict[str, Any] = {
        "uid": [f"u{number}" for number in user],
        "sku": [f"s{number}" for number in sku],
        "shown_at": pa.array(shown, pa.timestamp("ms", "UTC")),
        "basket": [f"{day}-{number}" for number in request],
        "brand": [f" Brand{number} " for number in brand],
        "colour": np.array(["red", "green", None])[sku % 3].tolist(),
        "price_cents": price,
        "path": [f"home/{number % 5}" for number in sku],
        "title": rng.normal(size=(n, 4)).astype(np.float32).tolist(),
        "device": np.array(["app", "web"])[request % 2].tolist(),
        "page": np.array(["home", "search", "ads"])[request % 3].tolist() if day == DAYS[0] else ["home"] * n,
        "dwell_ms": np.where(clicked, rng.integers(100, 9_000, n), 0),
        "paid": pa.array(price / 100, mask=~bought),
        "country": np.array(["de", "at"])[user % 2].tolist(),
        "age": pa.array(20 + user, mask=user % 5 == 0),
        "segments": [[f"g{number % 3}", f"h{number % 4}"] for number in user],
        "clicked": clicked,
        "bought_at": pa.array(shown + delay, pa.timestamp("ms", "UTC"), mask=~bought),
    }
    return pa.table(columns | {name: rng.normal(size=n) for name in NUMBERS})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Four days of the log, built to samples."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "longreel.toml").write_text(TOML)
    for day in DAYS:
        path = folder / "raw" / f"date={day}"
        path.mkdir(parents=True)
        pq.write_table(raw_day(day), path / "log.parquet")
    words = ["--home", str(folder), "--start", str(DAYS[0]), "--end", str(DAYS[-1]), "--ingest-missing"]
    assert main(["data", "build-samples", *words]) == 0
    return Home(folder)


def test_fifty_fields_of_every_kind_train_a_model_that_is_evaluated(home: Home, tmp_path: Path) -> None:
    assert len(home.config.log_schema.fields) == 50
    train(home.config, home.lake, DAYS[:3], tmp_path / "work", tmp_path / "model")
    report = evaluate(tmp_path / "model", home.lake, DAYS[3], home.config)
    assert report.tasks == ("click", "bought", "spent")
    assert {"device=app", "device=web", "country=de", "colour=red"} <= set(report.slices)
    click = report.row("click", 64)
    assert click.auc.value is not None
    assert click.auc.value > 0.6


def test_rows_left_out_by_the_filter_are_counted(home: Home) -> None:
    counts = home.lake.require("events", DAYS[0]).counts
    assert counts["filtered_rows"] == USERS * TARGETS  # every third request is of the page `ads`
    assert counts["events"] == USERS * (REQUESTS - 1) * TARGETS


def test_a_target_has_item_and_request_columns_only(home: Home) -> None:
    schema = home.config.log_schema
    columns = home.lake.schemas.request_table.names
    names = {name.removeprefix("target_") for name in columns if name.startswith("target_")}
    placed = {field.name for field in schema.of_place("item", "request") if field.is_stored}
    assert names == placed
    groups, _, _ = row_groups(home.lake, [home.lake.require("samples", DAYS[1])])
    rows = read_rows(home.lake, groups)
    assert set(rows.target) == placed
    assert not {"dwell_ms", "paid", "actions", "click", "purchase"} & set(rows.target)


def test_a_purchase_enters_the_history_when_it_happened_with_what_was_paid(home: Home) -> None:
    table = home.lake.read(home.lake.require("samples", DAYS[2]))
    values = {
        name: list_values(table, f"history_{name}")[0].to_numpy() for name in ("time_ms", "actions", "paid", "dwell_ms")
    }
    is_purchase = values["actions"] == home.config.log_schema.action_bit("purchase")
    is_click = values["actions"] == home.config.log_schema.action_bit("click")
    assert is_purchase.sum() > 20
    assert (is_purchase | is_click).all()  # no event knows of a click and its later purchase together
    assert (~np.isnan(values["paid"][is_purchase])).all()
    assert np.isnan(values["paid"][is_click]).all()
    assert np.isnan(values["dwell_ms"][is_purchase]).all()
    raw = pa.concat_tables([raw_day(day) for day in DAYS[:3]])
    bought = raw.column("bought_at").drop_null().cast(pa.int64()).to_numpy()
    assert set(values["time_ms"][is_purchase].tolist()) <= set(bought.tolist())


def test_a_model_reads_the_columns_of_its_fields_and_no_others(home: Home) -> None:
    schema = home.config.log_schema
    kept = tuple(field for field in schema.fields if field.name in ("item_id", "brand", "device"))
    small = replace(schema, fields=kept, labels=schema.labels[:2])
    lake = Lake(home.lake.root, small)
    groups, _, _ = row_groups(lake, [lake.require("samples", DAYS[0])])
    rows = read_rows(lake, groups)
    assert set(rows.target) == {"item_id", "brand", "device"}
    assert rows.user == {}


def test_a_field_added_without_optional_is_named_before_training(home: Home, tmp_path: Path) -> None:
    schema: LogSchema = home.config.log_schema
    extra = replace(schema.fields[2], name="size", optional=False)
    config = replace(home.config, log_schema=replace(schema, fields=(*schema.fields, extra)))
    with pytest.raises(Exception, match="field size was added"):
        train(config, Lake(home.lake.root, config.log_schema), DAYS[:3], tmp_path / "work", tmp_path / "model")
