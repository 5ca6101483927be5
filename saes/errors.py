"""The one error that a user is meant to read."""


class InputError(Exception):
    """Bad input, said in one sentence: what was given, what is allowed, what to run next.

    The command line prints the sentence alone and exits with code 2; every other exception is a defect and keeps its traceback.
    """
