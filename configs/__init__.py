"""The config files; from Python: `from configs import unet_cells`, `unet_cells.get_config()`."""
