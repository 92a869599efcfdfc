"""Long checks of the numbers, and speed compared with other codes."""
