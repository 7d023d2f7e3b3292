"""`t5jax train`."""

from __future__ import annotations

import dataclasses
import textwrap

from t5jax.cli.arguments import Command, place
from t5jax.cli.heavy import import_heavy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train, or go on with a run.

    Starts the run that CONFIG describes, or goes on with the one in its run_dir. Any knob below can
    be given as --section.key=value. Exits 0 when the last step is done, 2 after a mistake
    (`error: …`), 130 after Ctrl-C and 143 after SIGTERM: either saves the step first, and the same
    command goes on from it; a second one ends it at once.
    """

    config: str = place("CONFIG.yaml")
    overrides: tuple[str, ...] = ()  # the words that are no argument

    @classmethod
    def epilog(cls) -> str:
        """Every knob of a configuration."""
        from t5jax.config_files import knobs

        lines = ["knobs and their defaults:"]
        for name, default, meaning in knobs():
            shown = f"{name} = {default}" if default else name
            lines += textwrap.wrap(shown, 96, initial_indent="  ", subsequent_indent="    ")
            lines.append(f"      {meaning}")
        return "\n".join(lines)

    def run(self) -> None:
        """Checks the configuration before anything that takes seconds is imported, and trains."""
        from t5jax.config_files import auto_lengths, build_config, read_config

        tree = read_config(self.config, self.overrides)
        build_config(auto_lengths(tree)[0])
        from t5jax.training.machine import keep_freed_memory
        from t5jax.training.signals import ending_at_once

        with ending_at_once():
            keep_freed_memory()
            import_heavy("t5jax.data")
            from t5jax.training.loop import train

            train(tree)
