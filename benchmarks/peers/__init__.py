"""longreel beside LightGBM, CatBoost and FuxiCTR, on the same targets."""
