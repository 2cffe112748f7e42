"""The log schema of a short-video app, which most tests use, as an object and as TOML."""

from longreel.contracts import toml
from longreel.contracts.log_schema_toml import build_log_schema

SHORT_VIDEO_TOML = """
[fields.item]
item_id = {rows = 512}
author_id = {kind = "id", rows = 128, match = true, optional = true}
tag = {kind = "id", rows = 32, optional = true}
duration_ms = {kind = "number", optional = true}

[fields.request]
surface = {kind = "category", optional = true}

[fields.event]
play_ms = {kind = "number", optional = true}

[actions]
click = "click"
like = "like"
follow = "follow"
comment = "comment"
forward = "forward"
hate = "hate"
long_view = "long_view"
profile_enter = "profile_enter"

[history]
events = "click OR like OR follow OR comment OR forward OR long_view OR profile_enter"

[labels]
click = "click"
like = "like"
follow = "follow"
comment = "comment"
forward = "forward"
hate = "hate"
long_view = "long_view"
profile_enter = "profile_enter"
finish = "duration_ms > 0 AND play_ms >= duration_ms"
skip = '''
play_ms <= 3000 AND NOT (click OR like OR follow OR comment OR forward OR long_view OR profile_enter)
AND NOT coalesce(duration_ms > 0 AND play_ms >= duration_ms, false)'''
"""

SHORT_VIDEO = build_log_schema(toml.parse(SHORT_VIDEO_TOML, "short video"), "UTC", "short video")
