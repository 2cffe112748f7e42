"""Gates: a candidate and the champion compared under a policy."""
