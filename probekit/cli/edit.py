"""`probekit edit find | apply | evaluate | search | export | undo`: a behaviour found, edited, measured and shipped."""

from __future__ import annotations

import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probekit.cli import options
from probekit.cli.edit_find import find
from probekit.cli.output import require_folder

if TYPE_CHECKING:
    from probekit.surgery.evaluating.behaviour import Behaviour

edit = typer.Typer(
    no_args_is_help=True,
    help="Edit a model along a direction, measure what that did and what it broke, and ship the result.\n\n"
    "First `probekit edit find FILE ...` for a direction, then `apply`, `evaluate` (or `search`), `export`. Find on one file and "
    "measure on another: what a direction was found on says nothing about it.",
)

Edit = Annotated[Path, typer.Argument(help="Folder of an edit, as `probekit edit apply` writes it.")]
Prompts = Annotated[
    Path,
    typer.Option("--prompts", help="Prompts, one a line: half of them choose a strength, the other half are reported."),
]
Words = Annotated[
    Path | None,
    typer.Option(
        "--words",
        help="Words, one a line: the behaviour is their share of the words a model goes on with, which is to fall (--more: rise).",
    ),
]
More = Annotated[
    bool,
    typer.Option("--more", help="The --words are wanted: an edit is the better, the larger their share becomes."),
]
Unwanted = Annotated[
    list[str] | None,
    typer.Option("--unwanted", help="Token that should not come next (write the space before it); repeat."),
]
Wanted = Annotated[list[str] | None, typer.Option("--wanted", help="Token that should come next instead; repeat.")]
Neutral = Annotated[
    Path, typer.Option("--neutral", help="Ordinary text, a paragraph a line, that the edit should not change.")
]
New = Annotated[int, typer.Option("--new", min=1, help="Tokens generated after each prompt.")]


class How(StrEnum):
    """Ways to edit along a direction."""

    steer = "steer"
    fix = "fix"
    reflect = "reflect"
    ablate = "ablate"
    orthogonalize = "orthogonalize"
    shift_rows = "shift_rows"


edit.command()(find)


@edit.command()
def apply(
    direction: Annotated[Path, typer.Argument(help="A saved direction (.safetensors).")],
    model: options.Model,
    how: Annotated[How, typer.Option("--how", help="What to do along it.")],
    out: options.Out,
    strength: Annotated[
        float | None,
        typer.Option(
            help="steer, fix: in standard deviations of the data; reflect: 1 is the mirror image; shift_rows: in row lengths."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="`all`, `writers`, or numbers and names with commas between. Default: the direction's own site; orthogonalize: all."
        ),
    ] = None,
    where: Annotated[
        str, typer.Option(help="Tokens: `all`, `prompt`, `generated`, or positions with commas between (-1: the last).")
    ] = "all",
    share: Annotated[float, typer.Option(help="shift_rows: share of all rows.")] = 0.0465,
    in_weights: Annotated[
        bool, typer.Option("--in-weights", help="Fold into the weights, where weights can do it.")
    ] = False,
) -> None:
    """Make an edit and write it as a folder of two files, which applies to this model elsewhere and to no other.

    **Examples**

    - `probekit edit apply toxic/direction.safetensors -m MODEL --how orthogonalize -o edit/`

    - `probekit edit apply toxic/direction.safetensors -m MODEL --how steer --strength -4 --in-weights -o edit/`
    """
    from probekit import surgery
    from probekit.cli.loading import load
    from probekit.surgery.edits.making import make_edit

    loaded = load(model)
    given: dict[str, Any] = {}
    if layers is not None:
        given["layers"] = _layers(layers)
    if how in (How.steer, How.fix, How.reflect, How.ablate):
        given["where"] = (
            where
            if where in ("all", "prompt", "generated")
            else [_number(part, "--where") for part in where.split(",")]
        )
        given["in_weights"] = in_weights
    elif where != "all":
        raise ValueError(f"--where {where}: {how.value} changes weights, which act at every token")
    if how is How.shift_rows:
        given["share"] = share
        if layers == "all":
            del given["layers"]
    elif share != 0.0465:
        raise ValueError(f"--share {share}: {how.value} takes all rows; --share is of shift_rows")
    if layers == "writers" and how is not How.ablate:
        raise ValueError(
            "--layers writers is of ablate; orthogonalize takes all that writes to the stream unless layers are named"
        )
    found = make_edit(how.value, _direction(direction), loaded, strength, **given)
    surgery.save_edit(found, out, loaded)
    touched = ""
    if isinstance(found, surgery.WeightEdit):
        total = sum(parameter.numel() for parameter in loaded.hf.parameters())
        touched = f"\ntouches {found.touched(loaded):,} of {total:,} parameters in {len(found.parameters)} tensors"
    typer.echo(f"{found.name}{touched}\nedit    {out.resolve()}")


@edit.command()
def evaluate(
    folder: Edit,
    model: options.Model,
    prompts: Prompts,
    neutral: Neutral,
    out: options.Out,
    words: Words = None,
    more: More = False,
    unwanted: Unwanted = None,
    wanted: Wanted = None,
    strengths: Annotated[
        str | None, typer.Option(help="Strengths to choose from, with commas between: -8,-4,-2,2.")
    ] = None,
    controls: Annotated[int, typer.Option(help="Random directions of the same length to compare with.")] = 20,
    spectrum: Annotated[
        bool,
        typer.Option(
            help="Whether to compare with as many drawn with the spectrum of the activations on --neutral, too."
        ),
    ] = True,
    prompt: Annotated[
        str | None, typer.Option(help="Text put before every prompt of the plain model, as a baseline.")
    ] = None,
    found_on: Annotated[
        Path | None,
        typer.Option(
            help="File of texts that the direction was found on: prompts and --neutral must have none of them."
        ),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="Its column of texts.")] = None,
    new: New = 40,
    seed: options.Seed = 0,
) -> None:
    """What does an edit change, and what does it break? Beside random directions and ones from the data, with intervals, on one page.

    Goes on from OUT when it was stopped. Damage: perplexity and next-token divergence on --neutral, and, where text is generated,
    its repetition, its likelihood under the plain model and its agreement with the plain text.

    **Examples**

    - `probekit edit evaluate edit/ -m MODEL --prompts prompts.txt --words slurs.txt --neutral wiki.txt --strengths=-8,-4,-2 -o out/`

    - `probekit edit evaluate edit/ -m MODEL --prompts prompts.txt --words thanks.txt --more --neutral wiki.txt --strengths=2,4,8 -o out/`
    """
    from probekit import surgery
    from probekit.cli.loading import load
    from probekit.data import read_csv
    from probekit.surgery.evaluating.evaluation import evaluate as run_evaluation

    require_folder(out)
    place = out / "edit"
    if place.resolve() == folder.resolve():
        raise ValueError(
            f"{place} is the edit that is evaluated, and the one that is chosen would be written there: give another -o"
        )
    _refuse_unknown(place, out / "report.json")
    loaded = load(model)
    behaviour, effects = _measures(prompts, neutral, words, more, unwanted, wanted, new, seed)
    asked = surgery.load_edit(folder, loaded)
    if (found_on is None) != (text is None):
        raise ValueError("--found-on FILE and --text COLUMN go together")
    known = None if found_on is None or text is None else read_csv(found_on, text=text, label=[])
    doses = None if strengths is None else options.grid_of(strengths)
    report = run_evaluation(
        loaded, asked, behaviour=behaviour, side_effects=effects, controls=controls, strengths=doses,
        spectrum=_lines(neutral) if spectrum else None, prompt=prompt, found_on=known, out=out / "conditions", seed=seed,
    )  # fmt: skip
    report.save(out)
    shipped = ""
    if report.verdict.chosen is not None:
        made = asked.remade(strength=report.verdict.chosen)
        made.searched = True  # on one half of these prompts: evaluated again on them, it is reported on the other
        _replace(place, {"": made}, loaded)
        shipped = f"\nedit    {place.resolve()} (at strength {report.verdict.chosen:g}: what `probekit edit export` should be given)"
    elif place.exists():  # of an earlier call, which chose a strength
        shutil.rmtree(place)
    page = report.save_page(out / "report.html")
    typer.echo(f"{report.summary()}\n\npage    {Path(page).resolve()}{shipped}")


@edit.command()
def search(
    directions: Annotated[
        Path, typer.Argument(help="Folder of directions, one a layer: `layers` of `probekit edit find`.")
    ],
    model: options.Model,
    prompts: Prompts,
    neutral: Neutral,
    out: options.Out,
    words: Words = None,
    more: More = False,
    unwanted: Unwanted = None,
    wanted: Wanted = None,
    trials: Annotated[int, typer.Option(min=1, help="Edits to try in all.")] = 60,
    strongest: Annotated[float, typer.Option(help="Largest strength of steering, in standard deviations.")] = 8.0,
    new: New = 40,
    seed: options.Seed = 0,
) -> None:
    """Which layers, how strongly, in what way? Tries edits on half of the prompts and writes those on the frontier.

    Two objectives: the behaviour, and perplexity on --neutral. OUT/study.journal keeps every trial; the same command goes on from it.
    OUT/frontier/N is the edit of trial N, which knows that it was searched: `evaluate`, with the same prompts, reports it on the half
    that the search did not see.

    **Example**, and what comes after it

    - `probekit edit search found/layers -m MODEL --prompts prompts.txt --words slurs.txt --neutral wiki.txt -o out/`

    - `probekit edit evaluate out/frontier/17 -m MODEL --prompts prompts.txt --words slurs.txt --neutral wiki.txt -o judged/`
    """
    from probekit.cli.loading import load
    from probekit.surgery.evaluating.searching import search as run_search

    require_folder(out)
    _refuse_unknown(out / "frontier", out / "study.journal")
    loaded = load(model)
    files = sorted(directions.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{directions} holds no directions (*.safetensors)")
    behaviour, effects = _measures(prompts, neutral, words, more, unwanted, wanted, new, seed)
    found = run_search(
        loaded, [_direction(file) for file in files], behaviour=behaviour, side_effect=effects[0], trials=trials, strongest=strongest,
        out=out / "study.journal", seed=seed,
    )  # fmt: skip
    found.to_frame().to_csv(out / "trials.csv", index=False)
    menu = out / "frontier"
    _replace(menu, {str(trial["number"]): found.edit(trial["number"]) for trial in found.frontier}, loaded)
    for trial in found.frontier:
        place = menu / str(trial["number"])
        typer.echo(
            f"{place}  {found.behaviour} {trial['effect']:+.4g}, {found.damage} {trial['damage']:.4g}: {trial['kind']}"
        )


@edit.command()
def export(
    folder: Edit,
    model: options.Model,
    out: options.Out,
    texts: Annotated[
        Path | None, typer.Option("--texts", help="Texts, one a line, whose perplexity is measured on the folder.")
    ] = None,
    originals: Annotated[
        bool,
        typer.Option(
            "--originals/--no-originals", help="Keep the weights that are replaced, so that `undo` can bring them back."
        ),
    ] = True,
) -> None:
    """Write the edited model as an ordinary Hugging Face folder, checked by a process of its own.

    **Example**

    - `probekit edit export edit/ -m MODEL -o edited/`
    """
    from probekit import surgery
    from probekit.cli.loading import load

    loaded = load(model)
    lines = None if texts is None else _lines(texts)
    done = surgery.export(loaded, surgery.load_edit(folder, loaded), out, texts=lines, originals=originals)
    measured = "" if done.perplexity is None else f", perplexity {done.perplexity:.4g}"
    typer.echo(
        f"read back by a fresh process: logits within {done.logit_difference:.2g} of the edited model, {done.unedited_difference:.2g} from "
        f"the original{measured}\nmodel   {out.resolve()}"
    )


@edit.command()
def undo(
    folder: Annotated[Path, typer.Argument(help="Folder that `probekit edit export` wrote.")], out: options.Out
) -> None:
    """Make the original model's folder from an exported one, bit for bit."""
    from probekit import surgery

    typer.echo(f"the original, by its fingerprint\nmodel   {surgery.undo_export(folder, out).resolve()}")


def _measures(
    prompts: Path,
    neutral: Path,
    words: Path | None,
    more: bool,
    unwanted: list[str] | None,
    wanted: list[str] | None,
    new: int,
    seed: int,
) -> tuple[Behaviour, list[Behaviour]]:
    """The behaviour, and the side effects with perplexity first."""
    from probekit.surgery import behaviours, damage
    from probekit.surgery.evaluating.generations import generations, lexicon

    if (words is None) == (unwanted is None):
        raise ValueError(
            "say what the behaviour is: --words FILE (of what is generated), or --unwanted TOKEN (of what comes next)"
        )
    if more and unwanted is not None:
        raise ValueError("--more goes with --words; of the next token, --wanted names what should come more often")
    asked, ordinary = _lines(prompts), _lines(neutral)
    effects: list[Behaviour] = [damage.perplexity(ordinary, seed=seed), damage.next_token_kl(ordinary, seed=seed)]
    if unwanted is not None:
        return behaviours.next_token(
            asked, unwanted, wanted, name="log odds of the unwanted", less_is_wanted=True, seed=seed
        ), effects
    assert words is not None
    said = generations(
        asked,
        lexicon(_lines(words)),
        max_new_tokens=new,
        name="share of wanted words" if more else "share of unwanted words",
        less_is_wanted=not more,
        seed=seed,
    )
    return said, [*effects, damage.repetition(said), damage.coherence(said), damage.agreement(said)]


def _refuse_unknown(folder: Path, witness: Path) -> None:
    """Refuse to write over a folder that no earlier call of this command wrote, as its `witness` beside it shows."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    ours = witness.is_file() and all(file.name in ("edit.json", "edit.safetensors") for file in files)
    if folder.exists() and not ours:
        raise FileExistsError(
            f"{folder} exists and was not written by this command: give another -o, nothing was written"
        )


def _replace(place: Path, edits: dict[str, Any], model: Any) -> None:
    """Write edits, by the name of their folder in `place`, instead of what an earlier call wrote there: all of them are written
    before anything is taken away."""
    from probekit import surgery

    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".edits-", dir=place.parent) as fresh:
        new = Path(fresh) / place.name
        for name, made in edits.items():
            surgery.save_edit(made, new / name, model)
        shutil.rmtree(place, ignore_errors=True)
        new.rename(place)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} holds no line of text")
    return lines


def _direction(path: Path) -> Any:
    from probekit.probes.direction import Direction

    return Direction.load(path)


def _layers(given: str) -> Any:
    if given in ("all", "writers"):
        return given
    return [int(part) if part.strip().lstrip("-").isdigit() else part.strip() for part in given.split(",")]


def _number(part: str, option: str) -> int:
    try:
        return int(part)
    except ValueError:
        raise ValueError(f"{option}: {part!r} is no position; write whole numbers with commas between") from None
