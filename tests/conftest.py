"""Its folder is where helpers of several packages are found: `matrices`, `oracles`, `needs`. Fixtures lie beside users."""
