"""`python -m anyres`: the command `anyres` where it is not installed."""

from anyres.cli import app

app(prog_name="anyres")
