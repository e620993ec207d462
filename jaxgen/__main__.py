"""`python -m jaxgen`, and the program `jaxgen`: the same as `python launch.py` in a checkout."""

from jaxgen.cli import start


def main() -> None:
    """Runs the program `jaxgen`."""
    start.main("jaxgen")


if __name__ == "__main__":
    start.main()
