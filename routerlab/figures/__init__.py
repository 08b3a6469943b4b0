"""House style, plots and their export."""
