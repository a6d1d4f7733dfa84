"""The submit description."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from condorpool.engine import description
from condorpool.values.exceptions import SubmitError


def build(*, batch=1, defaults=None, keep_claim=0, lease=0, **options):
    """Return the description of a crew's jobs."""
    return description.build(
        directory=Path("/work/condorpool-$(x)"), crew=1, batch=batch, limit=10, keep_claim=keep_claim, batch_name="f", shared=(),
        run="condorpool-1", lease=lease, options=description.JobOptions(**options), defaults=defaults or {},
    )  # fmt: skip


class TestBuild:
    """What HTCondor gets."""

    def test_lists_are_extended_and_others_replaced(self):
        """The user's files come after ours; the user's other commands win."""
        given = {"transfer_input_files": "data.h5", "Request_Cpus": "4"}
        built = build(submitkwargs=given)
        assert built["transfer_input_files"].endswith("1-$(chunk).chunk, data.h5")
        assert built["request_cpus"] == "4"
        assert "Request_Cpus" not in built

    def test_only_what_python_needs_is_in_the_ad(self, monkeypatch):
        """Secrets in the environment are not."""
        monkeypatch.setenv("API_TOKEN", "hunter2")
        monkeypatch.setenv("PYTHONPATH", "/it's/here")
        built = build()
        assert "hunter2" not in str(built)
        assert "PYTHONPATH='/it''s/here'" in built["environment"]
        assert "environment" not in build(submitkwargs={"getenv": "True"})

    def test_odd_names_are_quoted(self):
        """Spaces, quotes and dollar signs of paths reach the job."""
        built = build(python='/opt/a "b" $(c)/python')
        assert '\'/opt/a ""b"" $(DOLLAR)(c)/python\'' in built["arguments"]
        assert built["initialdir"] == "/work/condorpool-$(DOLLAR)(x)"

    @pytest.mark.parametrize(
        ("name", "written"),
        [
            ("$(ClusterId)", "$(DOLLAR)(ClusterId)"),
            ("$$(Memory)", "$(DOLLAR)(Memory)"),
            ("end\\\\", "end"),
            ("\\", "calls"),
            ('a "b"', 'a "b"'),
            ("two\nlines\r", "two lines"),
            ("\x1b[31mred\udcff", " [31mred"),
        ],
    )
    def test_names_are_for_people(self, name, written):
        """HTCondor expands no macros in them."""
        assert description.title(name) == written

    @pytest.mark.parametrize("value", ["/a:\n", "/a\r", "/a\udcff", "/a\0", "/$$b", "/$(Dollar)"])
    def test_variables_that_fit_on_no_line(self, monkeypatch, value):
        """They are left to the private file."""
        environment = {**os.environ, "LD_LIBRARY_PATH": value, "PYTHONPATH": "/b"}
        monkeypatch.setattr(os, "environ", environment)
        built = build()["environment"]
        assert "LD_LIBRARY_PATH" not in built
        assert "PYTHONPATH='/b'" in built

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"python": "/opt/a\nb/python"}, "python"),
            ({"python": "/opt/$$(Memory)/python"}, "python"),
            ({"python": "/opt/$(DOLLAR)/python"}, "python"),
            ({"submitkwargs": {"requirements": "true\nqueue 100"}}, "requirements"),
            ({"submitkwargs": {"My.Note": '"\udcff"'}}, "My.Note"),
        ],
    )
    def test_values_that_fit_on_no_line(self, options, named):
        """A description has one line for each command, and macros: the error names the value."""
        with pytest.raises(SubmitError, match=f"^{named}=.*Nothing was submitted"):
            build(**options)

    def test_lease(self):
        """Waiting jobs leave after a while; the user's own ``periodic_remove`` counts too."""
        assert "periodic_remove" not in build()
        built = build(lease=60, submitkwargs={"Periodic_Remove": "NumJobStarts > 3"})
        assert built["periodic_remove"].startswith("(NumJobStarts > 3) || ((JobStatus == 1")
        assert "+ 60)" in built["periodic_remove"]

    def test_linger(self):
        """A slot is only kept on request."""
        assert "keep_claim_idle" not in build()
        assert build(keep_claim=20.0)["keep_claim_idle"] == "20"

    def test_runners_and_plain_jobs(self):
        """A runner has chirp and no output files; a plain job has its own chunk."""
        runner, plain = build(batch=None), build()
        assert runner["want_io_proxy"] == "True"
        assert runner["transfer_output_files"] == '""'
        assert "$(chunk)" not in str(runner)
        assert plain["transfer_output_files"] == "1-$(first).outcome"
        files = {"transfer_output_files": "log.txt"}
        assert build(batch=None, submitkwargs=files)["transfer_output_files"] == "log.txt"
