"""Which modules are the user's own, and how the job imports them."""

from __future__ import annotations

import importlib
import importlib.resources
import os
import sys

import cloudpickle
import pytest

from condorpool.engine import modules
from condorpool.engine.modules import LocalModules
from condorpool.runner import container
from condorpool.runner.imports import Modules
from condorpool.values.exceptions import PayloadError


@pytest.fixture
def write(beside):
    """Write modules beside a notebook."""

    def write(**sources):
        for name, source in sources.items():
            file = beside / f"{name.replace('__in__', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(source)
        importlib.invalidate_caches()

    return write


def sent(func=None, local=None):
    """Return the modules that are sent with a function, except those that pytest imported."""
    found = (local or LocalModules()).used_by(container.dumps(func, cloudpickle)[0])
    return {n: m for n, m in found.items() if "/tests/" not in m[0]}


def by_value(source):
    """Return the function ``f`` of a notebook cell."""
    namespace = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace["f"]


class TestFound:
    """The modules that are sent."""

    def test_what_is_imported_and_own_is_sent(self, write):
        """Installed modules are not."""
        write(cp_one="x = 1\n", cp_two="y = 2\n")
        importlib.import_module("cp_one")
        found = sent()
        assert found["cp_one"][1:] == (False, b"x = 1\n")
        assert not found.keys() & {
            "cp_two",
            "json",
            "pytest",
            "cloudpickle",
            "_condorpool_program",
        }
        assert not any(name.startswith("condorpool") for name in found)

    @pytest.mark.parametrize(
        ("statement", "name"),
        [
            ("import cp_lazy", "cp_lazy"),
            ("import cp_pack.inner", "cp_pack.inner"),
            ("from cp_pack import inner", "cp_pack.inner"),
            ("from cp_pack.inner import deep", "cp_pack.inner"),
            ("g = lambda: __import__('os') or 0\n    def h():\n        import cp_lazy", "cp_lazy"),
        ],
    )
    def test_what_a_function_imports_in_its_body_is_sent(self, write, statement, name):
        """It need not be imported here."""
        write(cp_lazy="", cp_pack__in____init__="", cp_pack__in__inner="deep = 1", cp_unused="")
        found = sent(by_value(f"def f():\n    {statement}"))
        assert name in found
        assert "cp_unused" not in found
        assert name not in sys.modules

    def test_what_they_import_is_sent(self, write):
        """Imports inside functions count, and relative ones."""
        write(
            cp_top="def f():\n    import cp_pack.a\n    import numpy.linalg, no_such_module\n",
            cp_pack__in____init__="",
            cp_pack__in__a="from . import b\nfrom .c import x\n",
            cp_pack__in__b="",
            cp_pack__in__c="def f(): from .. import nothing; from .d import y\n",
            cp_pack__in__d="",
        )
        importlib.import_module("cp_top")
        names = {"cp_top", *(f"cp_pack{sub}" for sub in ("", ".a", ".b", ".c", ".d"))}
        assert {name for name in sent() if name.startswith("cp_")} == names

    def test_a_file_that_is_edited_is_sent_again(self, write):
        """If nothing was edited it is the same object, so that nothing is written twice."""
        write(cp_one="x = 1\n")
        importlib.import_module("cp_one")
        local = LocalModules()
        first = local.used_by(b"")
        assert local.used_by(b"") is first
        write(cp_one="x = 2\n")
        assert local.used_by(b"")["cp_one"][2] == b"x = 2\n"
        write(cp_one="x = ")  # half typed: the job will report it
        assert local.used_by(b"")["cp_one"][2] == b"x = "

    def test_a_lazy_one_is_sent_with_later_functions_too(self, write):
        """Otherwise runners would have to load it again."""
        write(cp_lazy="")
        local = LocalModules()
        found = sent(by_value("def f():\n    import cp_lazy"), local)
        assert sent(len, local) == found

    def test_a_folder_without_init_and_a_compiled_module(self, write, beside):
        """The first is a package; of the second only the name is sent."""
        write(cp_space__in__one="x = 1\n")
        importlib.import_module("cp_space.one")
        compiled = type(sys)("cp_compiled")
        compiled.__file__ = str(beside / "cp_compiled.so")
        sys.modules["cp_compiled"] = compiled
        found = sent()
        assert found["cp_space"][1:] == (True, None)
        assert found["cp_space.one"][1:] == (False, b"x = 1\n")
        assert found["cp_compiled"] == (compiled.__file__, False, None)

    def test_what_cannot_be_written_is_the_sites(self, write, beside, monkeypatch):
        """It is not sent unless it is beside the notebook."""
        write(cp_one="", cp_two="")
        importlib.import_module("cp_one")
        monkeypatch.setattr(os, "access", lambda *_: False)
        modules._is_own.cache_clear()
        assert "cp_one" not in sent()
        monkeypatch.chdir(beside)
        assert "cp_one" in sent()
        modules._is_own.cache_clear()

    def test_odd_things_among_the_modules(self, monkeypatch):
        """``sys.modules`` may contain anything."""
        monkeypatch.setitem(sys.modules, "cp_none", None)
        monkeypatch.setitem(sys.modules, "cp_object", object())
        monkeypatch.setitem(sys.modules, "cp_bare", type(sys)("cp_bare"))
        assert not sent().keys() & {"cp_none", "cp_object", "cp_bare"}

    def test_too_much_is_refused(self, write, monkeypatch):
        """The error names the largest."""
        monkeypatch.setattr(modules, "MAX_BYTES", 1_000_000)
        write(cp_big=f"x = '{'y' * 2_000_000}'\n", cp_small="")
        importlib.import_module("cp_big")
        with pytest.raises(PayloadError, match=r"cp_big \(2\.0 MB\)"):
            sent()


class TestImporter:
    """How the job imports them."""

    @pytest.fixture
    def importer(self, monkeypatch):
        """Return an importer that comes before all others."""
        importer = Modules()
        monkeypatch.setattr(sys, "meta_path", [importer, *sys.meta_path])
        yield importer
        importer.install({})

    def test_modules_and_packages_are_imported_from_memory(self, importer):
        """Relative imports work, and ``__file__`` is the user's file."""
        importer.install(
            {
                "cp_pack": ("/no/cp_pack/__init__.py", True, b"from .sub import x"),
                "cp_pack.sub": ("/no/cp_pack/sub.py", False, "x = 'ü'".encode()),
                "cp_space": ("/no/cp_space/", True, None),
                "cp_space.one": ("/no/cp_space/one.py", False, b"y = 2"),
            }
        )
        assert importlib.import_module("cp_pack").x == "ü"
        assert sys.modules["cp_pack.sub"].__file__ == "/no/cp_pack/sub.py"
        assert importlib.import_module("cp_space.one").y == 2
        del sys.modules["cp_space"]

    def test_changed_ones_are_forgotten_and_new_ones_disturb_nothing(self, importer):
        """A module that was not loaded may change, too."""
        one = {"cp_one": ("/no/cp_one.py", False, b"x = 1")}
        other = {"cp_other": ("/no/cp_other.py", False, b"x = 1")}
        changed = {"cp_one": ("/no/cp_one.py", False, b"x = 2")}
        assert not importer.install(one)
        loaded = importlib.import_module("cp_one")
        assert not importer.install({**one, **other})
        assert importlib.import_module("cp_one") is loaded
        assert importer.install({**changed, **other})
        assert importlib.import_module("cp_one").x == 2

    def test_files_beside_a_package_are_found_where_they_can_be_seen(self, importer, tmp_path):
        """That is, on a shared file system."""
        (tmp_path / "data.txt").write_text("here")
        init = str(tmp_path / "__init__.py")
        importer.install({"cp_pack": (init, True, b"")})
        importlib.import_module("cp_pack")
        assert (importlib.resources.files("cp_pack") / "data.txt").read_text() == "here"
