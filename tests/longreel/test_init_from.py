"""`longreel init --from LOG`: what is proposed for logs of several shapes, and that it is a valid configuration."""

import gzip
import json
import re
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.orc as paorc
import pyarrow.parquet as pq
import pytest

from longreel.cli import main
from longreel.contracts.config import Config, parse_config
from longreel.contracts.errors import LongreelError
from longreel.contracts.presets import preset
from longreel.lake.home import Home
from longreel.proposal.proposal import Proposal, propose
from longreel.proposal.text import config_text, summary
from tests.longreel.raw_logs import DAYS, day_start, event_rows, shop, short_video, write_csv, write_folders


def config_of(proposal: Proposal) -> Config:
    return parse_config(config_text(proposal, preset(proposal.kind)))


def places(config: Config) -> dict[str, str]:
    """Place and kind of every field."""
    return {field.name: f"{field.place} {field.kind}" for field in config.log_schema.fields}


def with_columns(day: str, **columns: object) -> pa.Table:
    """The rows of `short_video` with further columns."""
    table = short_video(day)
    for name, values in columns.items():
        table = table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
    return table


def test_a_log_under_longreels_names(tmp_path: Path) -> None:
    proposal = propose(write_folders(tmp_path / "log", short_video))
    config = config_of(proposal)
    source = config.source
    assert (source.kind, source.user_id, source.item_id, source.time_ms, source.day) == (
        "generic", "user_id", "item_id", "time_ms", "",
    )  # fmt: skip
    assert places(config) == {
        "item_id": "item id",
        "author_id": "item id",
        "duration_ms": "item number",
        "surface": "request category",
        "play_ms": "event number",
    }
    assert config.log_schema.action_names == ("click", "like", "hate")
    assert config.log_schema.history == "true"  # there are impressions that were passed over
    text = config_text(proposal, "")
    assert '"impressions"   # or "click OR like"' in text  # not what users disliked
    assert "click, like, hate have no time" in text
    with_statistics = parse_config(re.sub(r"^# (\[statistics\]|user_id = \[|item_id = \[)", r"\1", text, flags=re.M))
    assert [(s.key, s.rates) for s in with_statistics.log_schema.statistics] == [
        ("user_id", ("click", "like")),
        ("item_id", ("click", "like")),
    ]
    assert config.tasks == ("click", "like")
    assert config.log_schema.match_fields == ("item_id", "author_id")
    assert proposal.warnings == ()
    assert proposal.sample.sampled_days == (date(2026, 3, 1), date(2026, 3, 3))


def test_a_shop_with_times_of_outcomes(tmp_path: Path) -> None:
    proposal = propose(write_folders(tmp_path / "log", shop))
    config = config_of(proposal)
    source, schema = config.source, config.log_schema
    assert (source.user_id, source.item_id, source.time_ms, source.request_id) == (
        "uid", "sku", "shown_at", "impression_group",
    )  # fmt: skip
    assert places(config) == {
        "item_id": "item id",
        "brand_name": "item id",
        "category_path": "item multi",
        "price": "item number",
        "title_embedding": "item vector",
        "position": "request number",
        "device": "request category",
        "paid_amount": "event number",
        "country": "user category",
        "traffic": "user category",
    }
    fields = {field.name: field for field in schema.fields}
    assert fields["brand_name"].source == "brandName"
    assert (fields["category_path"].source, fields["category_path"].size) == ("split(category_path, '/')", 3)
    assert fields["title_embedding"].size == 8
    assert fields["paid_amount"].of == "purchase"
    assert [(a.name, a.when, a.at) for a in schema.actions] == [
        ("click", "clicked_at IS NOT NULL", "clicked_at"),
        ("purchase", "bought_at IS NOT NULL", "bought_at"),
    ]
    assert any("email" in warning for warning in proposal.warnings)
    text = config_text(proposal, preset("generic"))
    assert "# purchase_6h = " in text  # 95 % of purchases come within hours, of clicks within a minute
    assert "# click_" not in text
    assert "example.com" not in config_text(proposal, preset("generic"))


def test_rows_of_one_event_each_in_one_csv_file(tmp_path: Path) -> None:
    proposal = propose(write_csv(tmp_path / "log", event_rows))
    config = config_of(proposal)
    source = config.source
    assert (source.user_id, source.item_id) == ("visitorid", "itemid")
    assert source.time_ms == "try_cast(ts AS bigint) * 1000"
    assert source.day == f"to_date(timestamp_millis({source.time_ms}))"
    assert {a.name: a.when for a in config.log_schema.actions} == {
        "click": "event = 'click'",
        "purchase": "event = 'purchase'",
    }
    assert places(config)["app_version"] == "request category"
    assert [w.partition(",")[0] for w in proposal.warnings] == [
        "each row is one event",
        "all days in one place: `[source] day` says which day a row has",
    ]
    assert proposal.first_day == date(2026, 3, 1)


@pytest.mark.parametrize("make", [short_video, shop])
def test_the_same_log_gives_the_same_text(tmp_path: Path, make) -> None:
    log = write_folders(tmp_path / "log", make)
    texts = {config_text(propose(log), preset("generic")) for _ in range(2)}
    assert len(texts) == 1


def test_a_guess_is_a_comment_that_is_valid_without_its_mark(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    log = write_folders(tmp_path / "log", lambda day: with_columns(day, momentum=random.normal(size=900)))
    proposal = propose(log)
    text = config_text(proposal, preset("generic"))
    assert "momentum" not in places(parse_config(text))
    assert re.search(r"^# \? momentum = .*known when the item is served", text, re.MULTILINE)
    assert places(parse_config(text.replace("# ? ", "")))["momentum"] == "request number"


def test_an_outcome_is_never_proposed_for_a_target(tmp_path: Path) -> None:
    """Whatever its name: a column that has values only with an action, and one that tells an action apart."""
    random = np.random.default_rng(1)

    def rows(day: str) -> pa.Table:
        clicked = short_video(day).column("click").to_numpy() == 1
        return with_columns(
            day,
            zeta=pa.array(random.normal(size=900), mask=~clicked),
            eta=np.where(clicked, 5, 1) + random.random(900),
            theta=np.where(clicked, "deep", "shallow"),
        )

    config = config_of(propose(write_folders(tmp_path / "log", rows)))
    fields = places(config)
    assert (fields["zeta"], fields["eta"], fields["theta"]) == ("event number", "event number", "event category")
    targets = {column.name for column in config.log_schema.item_columns}
    assert targets.isdisjoint({"zeta", "eta", "theta", "play_ms"})


def test_what_is_constant_for_a_key_or_a_request(tmp_path: Path) -> None:
    def rows(day: str) -> pa.Table:
        table = short_video(day)
        user, item, time = (table.column(name).to_numpy() for name in ("user_id", "item_id", "time_ms"))
        return with_columns(
            day,
            alpha=item * 7 % 19,
            beta=[f"b{value % 9}" for value in user],
            gamma=[f"g{value % 4}" for value in time],
            delta=np.ones(900, np.int64),
            epsilon=np.arange(900) + day_start(day) // 10_000,
            is_vip=(user % 4 == 0).astype(np.int8),
            is_video=(item % 3 == 0),
        )

    proposal = propose(write_folders(tmp_path / "log", rows))
    fields, others = places(config_of(proposal)), dict(proposal.left_out)
    assert fields["alpha"] == "item category"
    assert fields["beta"] == "user category"
    assert fields["gamma"] == "request category"
    assert (fields["is_vip"], fields["is_video"]) == ("user category", "item category")
    assert others["delta"] == "always '1'"
    assert others["epsilon"] == "another value in every row"


def test_a_log_without_negatives(tmp_path: Path) -> None:
    def clicks(day: str) -> pa.Table:
        table = short_video(day)
        return table.filter(table.column("click").cast(pa.bool_())).select(["user_id", "item_id", "time_ms"])

    proposal = propose(write_folders(tmp_path / "log", clicks))
    assert config_of(proposal).log_schema.actions[0].when == "true"
    assert proposal.warnings[0].startswith("no negatives")


def test_days_of_another_time_zone(tmp_path: Path) -> None:
    def shifted(day: str) -> pa.Table:
        table = short_video(day)
        return table.set_column(2, "time_ms", pa.array(table.column("time_ms").to_numpy() - 8 * 3_600_000))

    proposal = propose(write_folders(tmp_path / "log", shifted))
    assert config_of(proposal).source.time_zone == "Etc/GMT-8"
    assert proposal.warnings[0].startswith("days end at 16:00 UTC")


def test_a_column_that_a_day_lacks_is_optional(tmp_path: Path) -> None:
    def rows(day: str) -> pa.Table:
        return short_video(day) if day == DAYS[0] else with_columns(day, network=["wifi", "cell", "wifi"] * 300)

    config = config_of(propose(write_folders(tmp_path / "log", rows)))
    assert [field.name for field in config.log_schema.fields if field.optional] == ["network"]


def test_json_lines_in_hours_with_structs_and_lists(tmp_path: Path) -> None:
    for day in DAYS:
        folder = tmp_path / "log" / f"date={day}" / "hour=05"
        folder.mkdir(parents=True)
        rows = short_video(day).to_pylist()
        with gzip.open(folder / "part.jsonl.gz", "wt") as stream:
            for row in rows:
                line = {
                    "user": {"id": f"u{row['user_id']}"},
                    "articleId": row["item_id"],
                    "requestTime": f"{day}T05:{row['time_ms'] // 1_000 % 60:02d}:00Z",
                    "topics": [f"t{row['item_id'] % 7}", f"s{row['item_id'] % 5}"],
                    "clicked": bool(row["click"]),
                }
                stream.write(json.dumps(line) + "\n")
    config = config_of(propose(tmp_path / "log"))
    source = config.source
    assert (source.user_id, source.item_id, source.time_ms) == (
        "user.id", "articleId", "try_to_timestamp(requestTime)",
    )  # fmt: skip
    assert places(config)["topics"] == "item multi"
    assert config.log_schema.actions[0].when == "clicked"


def test_orc_and_parquet_files_that_lie_flat_with_a_day_column(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for number, day in enumerate(DAYS):
        table = with_columns(day, dt=[day.replace("-", "")] * 900)
        path = tmp_path / "log" / f"part-{number}"
        if number:
            pq.write_table(table, f"{path}.parquet")
        else:
            paorc.write_table(table, f"{path}.orc")
    proposal = propose(tmp_path / "log")
    assert config_of(proposal).source.day == "to_date(try_to_timestamp(dt, 'yyyyMMdd'))"
    assert dict(proposal.left_out)["dt"] == "the log day of the row"


def test_the_user_table_of_a_log(tmp_path: Path) -> None:
    log = write_folders(tmp_path / "log", short_video)
    users = pa.table({"user_id": range(60), "plan": ["free", "paid", "free"] * 20, "age": [20 + i for i in range(60)]})
    pq.write_table(users, log / "users.parquet")
    fields = places(config_of(propose(log)))
    assert (fields["plan"], fields["age"]) == ("user category", "user number")
    assert not [field for field in fields if field.startswith("user_id")]  # the key is no field
    pq.write_table(users.rename_columns(["uid", "plan", "age"]), log / "users.parquet")
    assert propose(log).warnings[0].startswith("the user table has no column user_id")


@pytest.mark.parametrize("is_late", [False, True])
def test_the_newest_table_of_items(tmp_path: Path, is_late: bool) -> None:
    log = write_folders(tmp_path / "log", lambda day: short_video(day).drop_columns(["author_id", "duration_ms"]))
    items = pa.table({"item_id": range(80), "author_id": [i % 9 for i in range(80)], "surface": ["x"] * 80})
    dates = (str(DAYS[1] if is_late else DAYS[0]), "2030-01-01")
    for day, table in zip(dates, (items.drop_columns(["author_id"]), items), strict=True):
        (log / "items" / f"date={day}").mkdir(parents=True)
        pq.write_table(table, log / "items" / f"date={day}" / "part.parquet")
    proposal = propose(log)
    fields = places(config_of(proposal))
    assert (fields["author_id"], fields["surface"]) == ("item id", "request category")  # rows have a surface themselves
    author = next(line for line in config_text(proposal, preset("generic")).splitlines() if "author_id =" in line)
    assert "of the table of items" in author
    assert ("optional = true" in author) == is_late


def test_kuairands_files(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    table = pa.concat_tables([short_video(day) for day in DAYS])
    with (log / "log_standard.csv").open("w") as stream:
        stream.write("user_id,video_id,date,time_ms,is_click,play_time_ms,tab\n")
        for row in table.to_pylist():
            day = date.fromtimestamp(row["time_ms"] / 1_000).strftime("%Y%m%d")
            values = (row["user_id"], row["item_id"], day, row["time_ms"], row["click"], row["play_ms"], row["surface"])
            stream.write(",".join(map(str, values)) + "\n")
    (log / "video_features_basic.csv").write_text(
        "video_id,author_id,tag\n" + "".join(f"{i},{i % 9},{i % 4}\n" for i in range(80))
    )
    config = config_of(propose(log))
    assert (config.source.kind, config.source.item_id) == ("kuairand", "video_id")
    fields = places(config)
    assert (fields["author_id"], fields["tag"], fields["tab"]) == ("item id", "item category", "request category")
    assert fields["play_time_ms"] == "event number"


def test_a_key_that_is_not_found_is_asked_for(tmp_path: Path) -> None:
    def rows(day: str) -> pa.Table:
        table = short_video(day)
        return table.rename_columns(["xq" if name == "user_id" else name for name in table.column_names])

    log = write_folders(tmp_path / "log", rows)
    with pytest.raises(LongreelError, match=r"no column of the log names its users.*--user COLUMN.*xq"):
        propose(log)
    assert config_of(propose(log, user="xq")).source.user_id == "xq"
    with pytest.raises(LongreelError, match="--user nope: the log has no such column"):
        propose(log, user="nope")
    with pytest.raises(LongreelError, match="--time surface: no time that can be read"):
        propose(log, user="xq", time="surface")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("notes.txt", "x", "no data in"), ("part.parquet", "x", "parquet cannot be read")],
)
def test_a_folder_that_is_no_log(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LongreelError, match=message):
        propose(tmp_path)
    with pytest.raises(LongreelError, match="nothing is there"):
        propose(tmp_path / "missing")


def test_the_command_writes_a_home_and_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def purchases(day: str) -> pa.Table:
        table = shop(day)
        return table.drop_columns(["clicked_at"])

    log, home = write_folders(tmp_path / "log", purchases), Home(tmp_path / "home")
    words = ["init", "--home", str(home.path), "--from", str(log)]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "user uid (60), item sku (80)" in output
    assert f"longreel data ingest --home {home.path} --date 2026-03-01" in output
    assert home.config.tasks == ("purchase",)
    assert home.policy.task == "purchase"  # the gates name a task of the home
    assert home.log == log
    text = (home.path / "longreel.toml").read_text()
    assert main(words) == 0  # kept
    assert (home.path / "longreel.toml").read_text() == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "a", "--log", "b"], "expected --from LOG or --log LOG"),
        (["--user", "a"], "--user, --item and --time go with --from"),
    ],
)
def test_options_that_do_not_fit(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--home", str(tmp_path / "home"), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_summary_is_short(tmp_path: Path) -> None:
    lines = summary(propose(write_folders(tmp_path / "log", shop)))
    assert len(lines) <= 8
    assert any("purchase 3." in line and "(timed)" in line for line in lines)


def test_what_is_proposed_for_a_shop_is_ingested_without_an_edit(tmp_path: Path) -> None:
    log, home = write_folders(tmp_path / "log", shop), Home(tmp_path / "home")
    assert main(["init", "--home", str(home.path), "--from", str(log)]) == 0
    assert main(["data", "ingest", "--home", str(home.path), "--date", DAYS[0]]) == 0
    manifest = home.lake.manifest("events", date.fromisoformat(DAYS[0]))
    assert manifest is not None
    events = home.lake.read(manifest).to_pylist()
    raw = {(row["time_ms"], row["price"]) for row in events}
    shown = shop(DAYS[0])
    expected = zip(
        shown.column("shown_at").cast(pa.int64()).to_pylist(), shown.column("price").to_pylist(), strict=True
    )
    assert raw == set(expected)
    assert sum(row["click_ms"] is not None for row in events) == len(shown) - shown.column("clicked_at").null_count
    assert all(len(row["title_embedding"]) == 8 and -1 not in row["category_path"] for row in events)


def test_with_a_user_table_what_only_rows_have_of_a_user_is_of_the_request(tmp_path: Path) -> None:
    def rows(day: str) -> pa.Table:
        return with_columns(day, club=[f"c{user % 3}" for user in short_video(day).column("user_id").to_pylist()])

    log = write_folders(tmp_path / "log", rows)
    assert places(config_of(propose(log)))["club"] == "user category"
    pq.write_table(pa.table({"user_id": range(60), "age": range(20, 80)}), log / "users.parquet")
    fields = places(config_of(propose(log)))
    assert (fields["club"], fields["age"]) == ("request category", "user number")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (json.dumps, "from_json(vec, 'array<double>')"),
        (lambda v: ";".join(map(str, v)), "CAST(split(vec, ' *; *') AS array<double>)"),
    ],
)
def test_a_vector_written_as_text(tmp_path: Path, text, source: str) -> None:
    vectors = np.random.default_rng(3).normal(size=(80, 4)).round(4).tolist()

    def rows(day: str) -> pa.Table:
        return with_columns(day, vec=[text(vectors[item]) for item in short_video(day).column("item_id").to_pylist()])

    config = config_of(propose(write_folders(tmp_path / "log", rows)))
    field = next(field for field in config.log_schema.fields if field.name == "vec")
    assert (field.place, field.kind, field.size, field.source) == ("item", "vector", 4, source)
