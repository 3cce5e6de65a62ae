"""`python -m flows COMMAND`. Kept empty: spawned workers import this module again."""

if __name__ == "__main__":
    from flows.start import start

    start()
