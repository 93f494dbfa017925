"""The trainer of the video networks here: its data, its losses, its loop."""
