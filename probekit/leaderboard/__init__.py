"""The board: many tasks, every layer, every family of probes, one model."""

from __future__ import annotations

from probekit.leaderboard.ranks import Ranks, rank_families
from probekit.leaderboard.result import Board
from probekit.leaderboard.settings import SETTINGS
from probekit.leaderboard.task_board import board  # a module called board would hide the function
from probekit.leaderboard.tasks import Task, read_task, read_tasks

__all__ = ["SETTINGS", "Board", "Ranks", "Task", "board", "rank_families", "read_task", "read_tasks"]
