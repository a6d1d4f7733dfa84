"""A machine without HTCondor: who is asked, and what the error says."""

from __future__ import annotations

import builtins
import threading
import types

import pytest

from condorpool.interface import locate
from condorpool.values.exceptions import HTCondorNotFoundError, InstallError


@pytest.fixture
def machine(monkeypatch):
    """Return a machine without HTCondor; it notes the questions, the installations and starts."""
    machine = types.SimpleNamespace(asked=[], installed=0, answer="", kernel=None, terminal=True)

    def start(folder, progress):
        if not machine.installed:
            raise HTCondorNotFoundError("none")
        return types.SimpleNamespace(access_point=lambda: "the access point")

    def install(progress):
        machine.installed += 1

    def answer(question):
        machine.asked.append(question)
        if isinstance(machine.answer, BaseException):
            raise machine.answer
        return machine.answer

    embedded = types.SimpleNamespace(
        PersonalHTCondor=types.SimpleNamespace,
        check=lambda: "http://mirror.test",
        install=install,
        place=lambda: "/home/me/.cache/condorpool/htcondor",
        start=start,
        surrounding=lambda: None,
    )
    monkeypatch.setattr(locate, "embedded", embedded)
    monkeypatch.setattr(locate, "is_configured", lambda: False)
    monkeypatch.setattr(locate, "running_kernel", lambda: machine.kernel)
    monkeypatch.setattr(builtins, "input", answer)
    monkeypatch.delenv(locate.INSTALL, raising=False)
    stream = types.SimpleNamespace(isatty=lambda: machine.terminal, write=len, flush=int)
    monkeypatch.setattr(locate, "sys", types.SimpleNamespace(stdin=stream, stdout=stream))
    machine.embedded = embedded
    return machine


@pytest.mark.parametrize("answer", ["y", "Yes", " y "])
def test_yes_installs_and_goes_on(machine, answer):
    """One question names size and place; after it the pool has its access point."""
    machine.answer = answer
    assert locate.find_access_point() == "the access point"
    (question,) = machine.asked
    assert "/home/me/.cache/condorpool/htcondor (60 MB, without root)" in question
    assert question.endswith("? [y/N] ")


@pytest.mark.parametrize("answer", ["n", "", "what?", EOFError(), NotImplementedError()])
def test_anything_else_installs_nothing(machine, answer):
    """The last line of the error is the command that installs it."""
    machine.answer = answer
    with pytest.raises(HTCondorNotFoundError) as raised:
        locate.find_access_point()
    assert str(raised.value).splitlines()[-1].strip() == "condorpool personal install"
    assert len(str(raised.value).splitlines()) == 2
    assert not machine.installed
    machine.kernel = object()
    with pytest.raises(HTCondorNotFoundError) as raised:
        locate.find_access_point()
    last = str(raised.value).splitlines()[-1].strip()
    assert last == "from condorpool import personal; personal.install()"


def test_nobody_is_asked_where_nobody_answers(machine):
    """Scripts without a terminal, and threads, get the error at once."""
    machine.terminal, machine.answer = False, "y"
    with pytest.raises(HTCondorNotFoundError):
        locate.find_access_point()
    machine.kernel = object()
    errors = []

    def find():
        try:
            locate.find_access_point()
        except HTCondorNotFoundError as error:
            errors.append(error)

    thread = threading.Thread(target=find)
    thread.start()
    thread.join()
    assert errors
    assert not machine.asked
    assert not machine.installed


@pytest.mark.parametrize(("value", "installed"), [("1", 1), ("yes", 1), ("0", 0), ("", 0)])
def test_the_environment_answers(machine, monkeypatch, value, installed):
    """A variable of the environment replaces the question, for CI."""
    monkeypatch.setenv(locate.INSTALL, value)
    machine.answer = "y"
    if installed:
        assert locate.find_access_point() == "the access point"
    else:
        with pytest.raises(HTCondorNotFoundError):
            locate.find_access_point()
    assert machine.installed == installed
    assert not machine.asked


def test_where_it_cannot_be_installed(machine):
    """Nobody is asked; the error says what else can be done."""

    def check():
        raise InstallError("only on Debian. Install HTCondor yourself.")

    machine.embedded.check = check
    with pytest.raises(HTCondorNotFoundError, match="Install HTCondor yourself"):
        locate.find_access_point()
    assert not machine.asked
