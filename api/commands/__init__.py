"""The verbs of the command line that talk to a running gateway. Importing this package imports no Ray.

Every verb is one HTTP request (docs/api.md names it), so that whoever may use the gateway may use the command, with the
same keys, the same checks and the same errors.
"""
