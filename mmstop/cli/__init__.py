"""The subcommands of ``mmstop``, one module each."""

__all__: list[str] = []
