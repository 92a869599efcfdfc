"""Numbers from finished series, with NumPy, pandas and xarray only."""
