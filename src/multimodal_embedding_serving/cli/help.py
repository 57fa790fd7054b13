"""What `--help` shows besides options: examples, and the groups of the commands."""

from __future__ import annotations

from typing import Any

from typer import BadParameter
from typer.core import TyperCommand, TyperGroup

VECTORS, SEARCH, MODELS, CHECK = "Make vectors", "Search", "Models", "Check and measure"

GROUPS = {
    "serve": VECTORS,
    "embed": VECTORS,
    "classify": SEARCH,
    "search": SEARCH,
    "duplicates": SEARCH,
    "indexes": SEARCH,
    "samples": SEARCH,
    "models": MODELS,
    "convert": MODELS,
    "bundle": MODELS,
    "compare": MODELS,
    "tune": CHECK,
    "bench": CHECK,
    "doctor": CHECK,
}
"""Command -> the heading that it is listed under."""

EXAMPLES = {
    "serve": ("mmes serve", "mmes serve --model CLIP/clip-vit-b-32 --host 0.0.0.0 --port 8000"),
    "embed": (
        "mmes embed 'a cat' photo.jpg",
        "mmes embed photos --out vectors.npy --kind image",
        "mmes embed photos --to lancedb --out store --table photos",
    ),
    "classify": (
        "mmes classify photos --label cat --label dog",
        "mmes classify --text 'The striker scored twice.' --label sports --label politics",
    ),
    "search": (
        "mmes search 'a cup of coffee' photos --top 5",
        "mmes search photo.jpg photos --min 0.3 --html result.html",
    ),
    "duplicates": ("mmes duplicates photos", "mmes duplicates vectors.npy --min 0.9"),
    "indexes": ("mmes indexes", "mmes indexes remove photos"),
    "samples": ("mmes samples photos",),
    "models": (
        "mmes models",
        "mmes models pull CLIP/clip-vit-b-32",
        "mmes models remove CLIP/clip-vit-b-32",
    ),
    "convert": (
        "mmes convert CLIP/clip-vit-b-32 --precision int8-weights",
        "mmes convert hf:openai/clip-vit-base-patch32",
    ),
    "bundle": (
        "mmes bundle export CLIP/clip-vit-b-32 --out clip.mmes",
        "mmes bundle import clip.mmes",
    ),
    "compare": ("mmes compare Builtin/mini http://127.0.0.1:9777",),
    "tune": ("mmes tune --model CLIP/clip-vit-b-32 --seconds 60",),
    "bench": ("mmes bench --seconds 5", "mmes bench --server http://127.0.0.1:9777"),
    "doctor": ("mmes doctor", "mmes doctor --model CLIP/clip-vit-b-32 --open"),
}
"""Command -> lines that work as they stand, given the files that they name."""

NOTES = {
    "models": "MB is the size of the converted model on disk, RAM the memory in MB while it is "
    "served; a model without pixels embeds text only.",
}


class Command(TyperCommand):
    """A command whose help shows no type for flags, which take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        return untyped_flags(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an option that is given twice: the first value would be ignored."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param in self.get_params(ctx):
            single = param.param_type_name == "option" and not param.multiple and not param.is_flag
            if single and order.count(param) > 1:
                raise BadParameter(f"{param.opts[0]} takes one value and was given twice", ctx)
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """The same for `mmes` itself."""

    def get_params(self, ctx: Any) -> list[Any]:
        return untyped_flags(super().get_params(ctx))


def untyped_flags(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def epilog(name: str) -> str:
    """The end of a command's help. Paragraphs, because lines of one are joined."""
    heading = "Example:" if len(EXAMPLES[name]) == 1 else "Examples:"
    lines = [heading, *(f"  {line}" for line in EXAMPLES[name])]
    return "\n\n".join(([NOTES[name]] if name in NOTES else []) + lines)
