"""What every room agrees on: names, schemas, the lake, configuration, reports and decisions."""
