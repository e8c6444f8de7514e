"""What the template of optimizers shows of a definition, in the words of JAX and optax. Imports neither."""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.emit.backend import Module
from ruledsl.emit.binding import Call
from ruledsl.emit.expressions import constant
from ruledsl.emit.layout import bracketed, with_comma
from ruledsl.emit.line_breaking import WIDTH, statement
from ruledsl.emit.naming import camel_case
from ruledsl.emit.optimizers import CLOCK, Equations, aliases
from ruledsl.emit.views import called
from ruledsl.program import Tensor


@dataclass(frozen=True)
class OptimizerView(Equations):
    """An optimizer as an optax transformation.

    name   of the function that makes it; `state`: of the class of its state
    """

    name: str
    state: str

    # --- what there is ---

    @property
    def told(self) -> list[str]:
        """What a training loop tells at every step."""
        return [name for name in CLOCK if name in self.read]

    @property
    def random_start(self) -> bool:
        """Whether first values are drawn."""
        return any("key" in call.arguments for _, call in self.starts)

    @property
    def random(self) -> bool:
        """Whether anything is drawn."""
        return bool(self.draws) or self.random_start

    @property
    def kind(self) -> str:
        """What is returned."""
        return "GradientTransformationExtraArgs" if self.told else "GradientTransformation"

    # --- signatures ---

    @property
    def signature(self) -> list[str]:
        """The lines that begin the function that makes it."""
        values = [(name, constant(value)) for name, value in self.module.binding.parameters.items()]
        defaults = [f"{name}={text}{'.0' if text.lstrip('-').isdigit() else ''}" for name, text in values]
        return bracketed(f"def {self.name}(", ["learning_rate", *defaults, *["*", "key=0"] * self.random], "):", 0)

    @property
    def update_signature(self) -> str:
        """The arguments of `update`."""
        told = [*("*", *(f"{name}=0.0" for name in self.told)), "**_"] if self.told else []
        return ", ".join(["updates", "state", "params=None", *told])

    @property
    def fields(self) -> list[tuple[str, str, str]]:
        """The fields of the state, with their types, and what they are."""
        fields = [("step", "jax.Array", "the number of steps so far")]
        fields += [("key", "jax.Array", "for the next draw")] if self.draws else []
        for tensor, _ in self.starts:
            if tensor.name in self.common:
                fields.append((tensor.name, "jax.Array", "one number for all parameters"))
            else:
                what = "like the parameters" if tensor.space else "a number for each parameter"
                fields.append((tensor.name, "optax.Params", what))
        return fields

    # --- init ---

    @property
    def init(self) -> list[str]:
        """The lines of `init`."""
        lines = []
        if self.random:
            lines.append(f"{'own, start' if self.random_start and self.draws else 'own' if self.draws else 'start'} = ")
            lines[-1] += "jax.random.split(key_of(key))" if self.random_start and self.draws else "key_of(key)"
        if any("lr" in call.arguments for _, call in self.starts):
            lines.append("lr = learning_rate(0) if callable(learning_rate) else learning_rate")
        for tensor, call in self.starts:
            given = {"step": "0", "epoch": "0.0", "progress": "0.0", "shape": "()"}
            keys = f'named(start, "{tensor.stream}")'
            lines += self._started(tensor, call, given, keys)
        values = ["jnp.zeros((), jnp.int32)", *(["own"] if self.draws else []), *(t.name for t, _ in self.starts)]
        return [*lines, *statement("return ", f"{self.state}({', '.join(values)})", 0)]

    def _started(self, tensor: Tensor, call: Call, given: dict[str, str], keys: str) -> list[str]:
        if tensor.name in self.common:
            arguments = [keys if name == "key" else given.get(name, name) for name in call.arguments]
            return statement(f"{tensor.name} = ", f"jnp.asarray({call.function}({', '.join(arguments)}), float)", 0)
        how = "{}" if tensor.space else "jnp.asarray({}, float)"
        if aliases(self.module.values[call.function]):
            how = "{}.copy()"
        return self._mapped(f"{tensor.name} = ", call, given, how, key=f"keys_like({keys}, params)", like="p")

    # --- update ---

    @property
    def needs_params(self) -> bool:
        """Whether an update reads the parameters."""
        others = (*self.terms, *(c for t, c in self.assigned.items() if t != "p"))
        drawn = (call for tensor, call in self.draws if tensor.name not in self.common)
        calls = (*others, *drawn, *([] if self.at_zero else [self.assigned["p"]]))
        return any("p" in call.arguments for call in calls) or any(t.name not in self.common for t, _ in self.draws)

    @property
    def update(self) -> list[str]:
        """The lines of `update`."""
        lines = [self._unpacked]
        if self.draws:
            lines.append("key, own = jax.random.split(key)")
        if "lr" in self.read:
            lines.append("lr = learning_rate(step) if callable(learning_rate) else learning_rate")
        for tensor, call in self.draws:
            key = f'named(own, "{tensor.stream}")'
            if tensor.name in self.common:
                given = [{"key": key, "shape": "()"}.get(name, name) for name in call.arguments]
                lines.append(f"{tensor.name} = {call.function}({', '.join(given)})")
            else:
                keys = f"keys_like({key}, params)"
                lines += self._mapped(f"{tensor.name} = ", call, {"shape": "()"}, key=keys, like="p")
        for call in self.terms:
            if call.result in self.common:
                lines += statement(f"{call.result} = ", called(call), 0)
            else:
                lines += self._mapped(f"{call.result} = ", call)
        lines += self._moved()
        return lines

    @property
    def _unpacked(self) -> str:
        """The fields of the state that anything reads."""
        fields = [name for name, _, _ in self.fields]
        kept = {name for name in fields if name not in self.assigned}
        typed = {t.name for t, _ in self.starts if t.space and t.name in self.assigned}
        read = [name for name in fields if name in {"step", "key"} | self.read | kept | typed]
        if read == fields and len(fields) > 1:
            return f"{', '.join(fields)} = state"
        return f"{', '.join(read)} = {', '.join(f'state.{name}' for name in read)}"

    def _moved(self) -> list[str]:
        call = self.assigned["p"]
        like = "p" if self.needs_params else "g"
        if self.at_zero:
            note = "# next_p adds to p, and reads it nowhere else: at p = 0 it is the update, free of the rounding of p"
            return [note, *self._mapped("change = ", call, {"p": "0.0"}, f"{{}}.astype({like}.dtype)", like=like)]
        return self._mapped("change = ", call, how="({} - p).astype(p.dtype)", like="p")

    @property
    def following(self) -> list[str]:
        """The lines of the next state, as arguments of its class."""
        lines = ["step=optax.safe_increment(step),", *(["key=key,"] if self.draws else [])]
        for tensor, _ in self.starts:
            call = self.assigned.get(tensor.name)
            if call is None:
                lines.append(f"{tensor.name}={tensor.name},")
            elif tensor.name in self.common:
                value = f"jnp.asarray({called(call)}, float)"
                lines += with_comma(statement(f"{tensor.name}=", value, 0))
            elif not tensor.space:
                lines += with_comma(self._mapped(f"{tensor.name}=", call, how="jnp.asarray({}, float)", like="g"))
            else:
                how = f"{{}}.astype({tensor.name}.dtype)"
                lines += with_comma(self._mapped(f"{tensor.name}=", call, how=how, like=tensor.name))
        return lines

    # --- trees ---

    def _tree(self, name: str) -> str:
        return {"p": "params", "g": "updates"}.get(name, name)

    def _mapped(
        self,
        prefix: str,
        call: Call,
        given: dict[str, str] | None = None,
        how: str = "{}",
        key: str = "",
        like: str | None = None,
    ) -> list[str]:
        """Lines that call a function at every leaf; `how` says what is made of its value, in the type of `like`."""
        given = given or {}
        over = [n for n in call.arguments if n == "key" or (n not in self.common and n not in given)]
        if like is not None and (f"{like}." in how or not over) and like not in over:
            over = [like, *over]
        arguments = [given.get(name, name) for name in call.arguments]
        value = how.format(f"{call.function}({', '.join(arguments)})")
        trees = [key if name == "key" else self._tree(name) for name in over]
        function = call.function if how == "{}" and over == arguments else f"lambda {', '.join(over)}: {value}"
        line = f"{prefix}jax.tree.map({', '.join([function, *trees])})"
        if len(line) <= WIDTH - 12:
            return [line]
        if function == call.function:
            return statement(prefix, f"jax.tree.map({', '.join([function, *trees])})", 0)
        if ".astype(" in how and len(f"lambda {', '.join(over)}: {value}") > WIDTH - 16:
            value = f"jnp.asarray({call.function}({', '.join(arguments)}), {like}.dtype)"
        lines = [f"{prefix}jax.tree.map("]
        lines += with_comma(statement(f"lambda {', '.join(over)}: ", value, 4))
        return [*lines, *(f"    {tree}," for tree in trees), ")"]


def shown(module: Module) -> dict[str, object]:
    """What the template of optimizers prints."""
    camel = camel_case(module.rule) or "Optimizer"
    name = module.names.give("function of the optimizer", module.rule)
    view = OptimizerView(module, name, module.names.give("class of the state", f"{camel}State"))
    return {"optimizer": view}
