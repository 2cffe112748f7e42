"""Random configurations of small logs: how keys and times are read, and which fields and actions are declared."""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

from longreel.lake.home import Home

# A log day and its zone; on some the clock is turned, also at midnight.
DAYS = (
    (date(2026, 3, 2), "UTC"),
    (date(2026, 3, 29), "Europe/Berlin"),
    (date(2026, 10, 25), "Europe/Berlin"),
    (date(2026, 9, 6), "America/Santiago"),
    (date(2026, 11, 1), "America/New_York"),
    (date(2026, 6, 1), "Asia/Kathmandu"),
)
# How [source] time_ms reads the raw column of times, by what the log holds.
TIMES = {
    "ms": "{}",
    "s": "CAST({} AS DECIMAL(38, 0)) * 1000",  # 32 bits would overflow; also of text, as numbers beside fractions are
    "us": "CAST({} AS DECIMAL(38, 0)) DIV 1000",
    "ns": "CAST({} AS DECIMAL(38, 0)) DIV 1000000",
    "timestamp": "{}",
    "text": "try_to_timestamp({}, 'dd.MM.yyyy HH:mm:ss')",
}
LOGICAL = ("user", "item", "time", "request", "click", "stars", "surface", "price", "tags", "vector", "country")
OPTIONAL = ("request", "surface", "price", "tags", "vector", "country")
NAMES = {
    "user": ("user_id", "uid", "User", "user id", "größe"),
    "item": ("item_id", "sku", "Item", "2nd"),
    "time": ("time_ms", "shown_at", "date", "Time", "time (UTC)"),
    "click": ("click", "Clicked", "is click"),
}
TAGS, VECTOR = 3, 2  # sizes


@dataclass(frozen=True)
class Settings:
    """One configuration; raw columns are named by what they hold."""

    day: date
    zone: str
    time: str  # a key of TIMES
    lists: bool  # whether tags and vectors are lists; else they are text
    names: dict[str, str]  # raw names of the logical columns that the log has

    @staticmethod
    def draw(random: Random) -> "Settings":
        """A random configuration."""
        day, zone = random.choice(DAYS)
        logical = [name for name in LOGICAL if name not in OPTIONAL or random.random() < 0.6]
        names = {name: random.choice(NAMES.get(name, (name,))) for name in logical}
        return Settings(day, zone, random.choice(list(TIMES)), random.random() < 0.5, names)

    @property
    def clock(self) -> ZoneInfo:
        """The zone of the log's days."""
        return ZoneInfo(self.zone)

    def bounds_ms(self) -> tuple[int, int]:
        """The earliest time of an event, a day before the log day, and the first time after the log day."""
        midnight = datetime(self.day.year, self.day.month, self.day.day, tzinfo=self.clock)
        after = datetime.fromordinal(self.day.toordinal() + 1).replace(tzinfo=self.clock)
        return round(midnight.timestamp() * 1000) - 86_400_000, round(after.timestamp() * 1000)

    def toml(self) -> str:
        """The text of longreel.toml."""
        raw = {name: f"`{spelled}`" for name, spelled in self.names.items()}
        tags = raw.get("tags") if self.lists else f"split({raw.get('tags')}, ',')"
        vector = raw.get("vector") if self.lists else f"from_json({raw.get('vector')}, 'array<double>')"
        fields = {
            "item": [
                ("price", f'price = {{kind = "number", from = "{raw.get("price")}"}}'),
                ("tags", f'tags = {{kind = "multi", size = {TAGS}, from = "{tags}"}}'),
                ("vector", f'vec = {{kind = "vector", size = {VECTOR}, from = "{vector}"}}'),
            ],
            "request": [("surface", f'surface = {{kind = "category", from = "{raw.get("surface")}"}}')],
            "user": [("country", f'country = {{kind = "category", from = "{raw.get("country")}"}}')],
        }
        lines = ['name = "fuzz"', 'tasks = ["click"]', "[source]", 'kind = "generic"', 'log = "raw"']
        lines += [f'time_zone = "{self.zone}"', "max_quarantined_share = 1.0"]
        lines += [f'user_id = "{raw["user"]}"', f'item_id = "{raw["item"]}"']
        lines += [f'time_ms = "{TIMES[self.time].format(raw["time"])}"']
        lines += [f'request_id = "{raw["request"]}"'] if "request" in raw else []
        for place, declared in fields.items():
            lines += [f"[fields.{place}]", *(line for name, line in declared if name in raw)]
        lines += ["[actions]", f'click = "{raw["click"]}"', f'like = "{raw["stars"]} >= 4"']
        lines += ["[history]", 'events = "impressions"', "[labels]", 'click = "click"']
        return "\n".join(lines) + "\n"

    def home(self, folder: Path) -> Home:
        """A new home folder with this configuration, its day's folder empty."""
        self.day_folder(folder).mkdir(parents=True)
        (folder / "longreel.toml").write_text(self.toml(), encoding="utf-8")
        return Home(folder)

    def day_folder(self, folder: Path) -> Path:
        """The folder of the raw day in a home."""
        return folder / "raw" / f"date={self.day}"
