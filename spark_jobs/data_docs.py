"""Data Docs pages that name the validated data.

Great Expectations 1.24 looks for the name in the batch's specification, where its current data sources do not put it,
and prints "Data asset: None"; its index page reads the right place. Great Expectations imports this class by name.
"""

from typing import Any

from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer


class NamedValidationPage(ValidationResultsPageRenderer):
    """The page of one validation, with the name of the validated data."""

    def render(self, validation_results: Any, suite_parameters: Any = None) -> Any:
        """Render the page."""
        specification = validation_results.meta.setdefault("batch_spec", {})
        specification.setdefault("data_asset_name", validation_results.asset_name)
        return super().render(validation_results, suite_parameters)
