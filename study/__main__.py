"""The command line, ``clreg-study`` or ``python -m study``, which says how to install what it lacks."""

import os
import signal
import sys

from study.errors import CANNOT_GO_ON, INTERRUPTED


def main() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="replace")  # a terminal without λ shows "?"
    try:
        from study.cli.app import app  # here, since an installation of the plugins alone lacks typer

        app()
    except SystemExit as ending:
        if ending.code == INTERRUPTED:  # a second Ctrl-C would change the code while the interpreter ends
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "study", "clreg_plugins"):
            raise
        print(f"error: clreg-study needs {missing}; in the folder of clreg: pip install -e '.[study]'", file=sys.stderr)
        sys.exit(CANNOT_GO_ON)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
