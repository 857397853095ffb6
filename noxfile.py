"""nox sessions: `nox -s quick` and `nox -s full` run the scripts that CI runs; `nox -s docs` serves the site."""

import nox

nox.options.sessions = ["quick"]


@nox.session
def quick(session: nox.Session) -> None:
    """Check style, types, imports between modules, workflow files and the site; run ten seconds of tests."""
    session.run("bash", ".ci/quick", external=True)


@nox.session
def full(session: nox.Session) -> None:
    """Run all tests, those that need PyTorch and other frameworks included; half an hour on two cores."""
    session.run("bash", ".ci/full", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Serve the documentation on http://127.0.0.1:8000."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "serve")
