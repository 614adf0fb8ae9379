"""Figures of finished results and the self-contained HTML pages that hold them. Nothing is computed here."""

from probekit.report.blocks import Block, Page
from probekit.report.boards import Position, board_accuracy, game_beliefs, position_boards
from probekit.report.figures import plot_sweep, plot_transfer
from probekit.report.grids import GridStep, grid_walk
from probekit.report.matrices import plot_calibration, plot_confusion, plot_heatmap
from probekit.report.page import sweep_page, write_sweep_page

__all__ = [
    "Block",
    "GridStep",
    "Page",
    "Position",
    "board_accuracy",
    "game_beliefs",
    "grid_walk",
    "plot_calibration",
    "plot_confusion",
    "plot_heatmap",
    "plot_sweep",
    "plot_transfer",
    "position_boards",
    "sweep_page",
    "write_sweep_page",
]
