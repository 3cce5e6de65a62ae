"""Every measure of the micro-expression grand challenges, 2019 to 2026, from files to scores."""
