"""Othello: games, exact labels for every square after every move, and a model that learned to play legal moves."""

from probekit.testbeds.othello.behaviour import LegalRate, legal_rate, legal_tokens, move_logits
from probekit.testbeds.othello.engine import flips, legal_moves, perft, random_games
from probekit.testbeds.othello.games import LABEL_SETS, games_dataset, read_pgn, sample_games
from probekit.testbeds.othello.interventions import Cases, cases_of, read_cases, sample_cases, set_errors
from probekit.testbeds.othello.pgn import PgnGame, format_pgn, parse_pgn
from probekit.testbeds.othello.replay import IllegalMove, Replay, replay
from probekit.testbeds.othello.stability import paper_stable, stable_discs
from probekit.testbeds.othello.tokens import (
    CONTEXT,
    PAD,
    SQUARE_NAMES,
    VOCABULARY,
    squares_to_tokens,
    tokens_to_squares,
)

__all__ = [
    "CONTEXT",
    "LABEL_SETS",
    "PAD",
    "SQUARE_NAMES",
    "VOCABULARY",
    "Cases",
    "IllegalMove",
    "LegalRate",
    "PgnGame",
    "Replay",
    "cases_of",
    "flips",
    "format_pgn",
    "games_dataset",
    "legal_moves",
    "legal_rate",
    "legal_tokens",
    "move_logits",
    "paper_stable",
    "parse_pgn",
    "perft",
    "random_games",
    "read_cases",
    "read_pgn",
    "replay",
    "sample_cases",
    "sample_games",
    "set_errors",
    "squares_to_tokens",
    "stable_discs",
    "tokens_to_squares",
]
