"""The simulated logs that `longreel simulate` can write, behind one interface."""

from abc import ABC, abstractmethod
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from longreel.contracts.config import SourceKind
from longreel.contracts.dates import parse_day
from longreel.spark_jobs import simulated_day, simulated_shop_day
from longreel.spark_jobs.simulated_day import Impressions
from longreel.spark_jobs.simulated_shop import ShopSettings, make_shop, user_table
from longreel.spark_jobs.simulated_world import WorldSettings, make_world, user_columns


class SimulatedLog(ABC):
    """A log that settings determine, day by day."""

    settings_class: type[WorldSettings]
    version: int  # raised by a change of what the same settings give

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings

    @abstractmethod
    def users(self) -> pa.Table:
        """The user table, users of later days included."""

    @abstractmethod
    def day(self, day: date) -> tuple[pa.Table, pa.Table]:
        """A log day's raw rows, and their truth."""

    @abstractmethod
    def history(self, day: date) -> pa.Table:
        """The impressions of a day before the log's first that enter the history, as raw rows."""


class VideoLog(SimulatedLog):
    """The log of a short-video app. A row that is delivered late lies in the next day's file."""

    settings_class = WorldSettings
    version = 3

    def __init__(self, settings: WorldSettings) -> None:
        super().__init__(settings)
        self._world = make_world(settings)
        self._last: Impressions | None = None

    def users(self) -> pa.Table:
        return pa.table(user_columns(self._world))

    def day(self, day: date) -> tuple[pa.Table, pa.Table]:
        yesterday, is_first = day - timedelta(days=1), day <= parse_day(self.settings.start)
        if not is_first and (self._last is None or self._last.day != yesterday):
            self._last = simulated_day.simulate_day(self._world, yesterday)
        today = simulated_day.simulate_day(self._world, day)
        tables = simulated_day.day_file(self._world, today, None if is_first else self._last)
        self._last = today
        return tables

    def history(self, day: date) -> pa.Table:
        impressions = simulated_day.simulate_day(self._world, day)
        return simulated_day.raw_rows(self._world, impressions, np.arange(len(impressions.item)))


class ShopLog(SimulatedLog):
    """The log of a shop. A day's file has its purchases of the 72 hours after an impression."""

    settings_class = ShopSettings
    version = 1

    def __init__(self, settings: WorldSettings) -> None:
        super().__init__(settings)
        self._shop = make_shop(settings)

    def users(self) -> pa.Table:
        return user_table(self._shop)

    def day(self, day: date) -> tuple[pa.Table, pa.Table]:
        return simulated_shop_day.shop_file(self._shop, simulated_shop_day.simulate_shop_day(self._shop, day))

    def history(self, day: date) -> pa.Table:
        shown = simulated_shop_day.simulate_shop_day(self._shop, day)
        return simulated_shop_day.raw_rows(self._shop, shown, np.flatnonzero(shown.clicked_ms >= 0))


SIMULATED_LOGS: dict[SourceKind, type[SimulatedLog]] = {"simulated": VideoLog, "shop": ShopLog}
