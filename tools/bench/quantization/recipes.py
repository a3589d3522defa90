"""The recipes that are compared: eight-bit weights as measured to be fastest, and weights stored in four bits."""

from pathlib import Path

__all__ = ["LIMITED", "RECIPES", "write_recipe"]

RECIPES = {"whet W8A8": "", "whet W4A8": "weight_bits = 4\n", "whet W3A8": "weight_bits = 3\n"}

LIMITED = {"whet W8A8, limit": 'ranges = "mse"\nlimit = 0.0085\n'}
"""What keeps the error of a picture below a hundredth of its norm."""


def write_recipe(name: str, folder: Path) -> Path:
    """Write the TOML file of a recipe: the exact passes, then static int8."""
    path = folder / f"{name.replace(' ', '-')}.toml"
    options = {**RECIPES, **LIMITED}[name]
    path.write_text(f'base = "exact"\n\n[[pass]]\nname = "quantize-static"\n{options}')
    return path
