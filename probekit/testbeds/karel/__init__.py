"""Karel: programs that move a robot, exact states after every word, and the recipe of a model that writes such programs."""

from probekit.testbeds.karel.dataset import LABEL_SETS, problems_dataset, program_rows, sample_problems, sample_programs
from probekit.testbeds.karel.interpreter import OUTCOMES, RunError, Runs, run
from probekit.testbeds.karel.labels import OFFSETS, world_after
from probekit.testbeds.karel.language import (
    ACTIONS,
    CONDITIONS,
    WORDS,
    ProgramError,
    format_program,
    permute_actions,
    read_program,
)
from probekit.testbeds.karel.problems import Problems, make_problems, random_problems
from probekit.testbeds.karel.programs import PARTS, behaviours, parts_of, random_programs
from probekit.testbeds.karel.synthesis import Synthesis, generate, judge, synthesise
from probekit.testbeds.karel.tokens import (
    CONTEXT,
    END,
    PAD,
    PROGRAM,
    VOCABULARY,
    TokenError,
    decode,
    encode,
    token_names,
)
from probekit.testbeds.karel.world import WorldError, Worlds, make_world, random_worlds, read_worlds

__all__ = [
    "ACTIONS",
    "CONDITIONS",
    "CONTEXT",
    "END",
    "LABEL_SETS",
    "OFFSETS",
    "OUTCOMES",
    "PAD",
    "PARTS",
    "PROGRAM",
    "VOCABULARY",
    "WORDS",
    "Problems",
    "ProgramError",
    "RunError",
    "Runs",
    "Synthesis",
    "TokenError",
    "WorldError",
    "Worlds",
    "behaviours",
    "decode",
    "encode",
    "format_program",
    "generate",
    "judge",
    "make_problems",
    "make_world",
    "parts_of",
    "permute_actions",
    "problems_dataset",
    "program_rows",
    "random_problems",
    "random_programs",
    "random_worlds",
    "read_program",
    "read_worlds",
    "run",
    "sample_problems",
    "sample_programs",
    "synthesise",
    "token_names",
    "world_after",
]
