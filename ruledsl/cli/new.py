"""`ruledsl new`: a rule to begin with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ruledsl import library
from ruledsl.analysis.names import RESERVED
from ruledsl.cli.files import near
from ruledsl.errors import UserError
from ruledsl.language.parser import parse
from ruledsl.source import Source
from ruledsl.writing import write_whole

# `NAME` stands for the name. The text is in the canonical form of `ruledsl fmt`, and checks without a warning.
TEMPLATE = """\
# Write here, in one line, what your synapses do.
#
#   ruledsl check NAME.rule                  does it fit together, and what would a synapse have to know?
#   ruledsl explain NAME.rule                its equations, and what they cost
#   ruledsl compile NAME.rule                the same as PyTorch source; --backend jax for JAX
#   ruledsl train NAME.rule --data digits    teach a network with it
#
# A weight layer computes u = W @ x + b from the activity x of the neurons that feed it (`pre`), and its own neurons
# (`post`) answer with y. A rule says how W and b learn and which error goes down to the neurons that feed the layer:
#
#   x, u, y       activities, as above
#   delta         the error at u, which came down from the layers above
#   e, target     the error at the output of the network, and the right answer there (`out`)
#   W.T, M @ v    a map turned round, a map applied to an activity
#   outer(v, w)   a map from w's neurons to v's: the product of the two activities at every synapse
#   total(v)      an activity summed up, one number for each neuron: `total(v, mean=all)` averages
rule NAME "A title of your own" {
  source "Who had the idea, and where it is written down"

  # A number that a user of the rule may set, where it may lie, and what it means.
  param decay = 0.0001 in [0, inf) "how fast weights decay"

  # A map of its own for the way back, drawn at random. `weight` learns, `fixed` stays, `fresh` is drawn in every step.
  # `post -> pre` says where the synapses are: they carry the activity of `post` neurons to `pre` neurons.
  weight B : post -> pre ~ normal(0, sqrt(1 / fan_out))

  # The error for the neurons below. Try W.T @ delta, which is backpropagation: `ruledsl check` will tell you that the
  # synapses of W would have to work backwards, and that your rule doesn't allow this.
  feedback send = B @ delta

  # How the weights change: the optimizer takes a step against these. W and b would follow the gradient without a word.
  grad W = outer(delta, x) + decay * W
  grad B = outer(x, delta) + decay * B

  # Whatever a synapse has to know beyond its own state and its own two neurons must be allowed here, for example
  #   allow sign(W) -> send        allow broadcast(e) -> send        allow pool(batch) -> W
  locality {}
}
"""


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the new rule.")],
    out: Annotated[Path | None, typer.Option("--out", help="The folder for the file, or the file itself.")] = None,
) -> None:
    """Write a rule to begin with, full of comments, to NAME.rule. A file that is there already stays."""
    _refuse_bad(name)
    folder = out or Path()
    path = folder if folder.suffix == library.SUFFIX else folder / f"{name}{library.SUFFIX}"
    if os.path.lexists(path):
        raise UserError(f"{path} is there already", "choose another name, or another place with --out")
    write_whole(path, TEMPLATE.replace("NAME", name))
    print(f"wrote {near(path)}; next: ruledsl check {near(path)}")
    if name in library.names():
        print(f"The library has a rule called {name} too: `ruledsl check {name}` means that one.")


def _refuse_bad(name: str) -> None:
    """Raises UserError for a name that a rule cannot have, or that would have two meanings in the rule."""
    if name in RESERVED:
        raise UserError(f"a rule cannot be called `{name}`: that has a meaning in the language", "try my_" + name)
    file, diagnostics = parse(Source(f"rule {name} {{}}"))
    if diagnostics or [definition.name.id for definition in file.definitions] != [name]:
        help = "a name is a letter, then letters, digits and _; words of the language and of Python are taken"
        raise UserError(f"a rule cannot be called `{name}`", help)
