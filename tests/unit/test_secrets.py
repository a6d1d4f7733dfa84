"""Environment variables that jobs do not get."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import pytest

from condorpool.engine import description, outcomes, secrets
from condorpool.engine.pickling import pickled
from condorpool.interface.options import resources
from condorpool.values import notes

SECRET = """JUPYTERHUB_API_TOKEN JUPYTERHUB_USER JUPYTER_SERVER_URL JPY_SESSION_NAME JPY_API_TOKEN
SSH_AUTH_SOCK SSH_CONNECTION DBUS_SESSION_BUS_ADDRESS KUBERNETES_SERVICE_HOST KUBECONFIG
AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AZURE_CLIENT_SECRET AZURE_STORAGE_KEY
GOOGLE_APPLICATION_CREDENTIALS GITHUB_TOKEN GH_TOKEN github_pat GITLAB_PRIVATE_TOKEN CI_JOB_TOKEN
OPENAI_API_KEY ANTHROPIC_API_KEY WANDB_API_KEY HF_TOKEN MyApiToken db_password PGPASSWORD MYSQL_PWD
DJANGO_SECRET_KEY S3_SECRET SERVICE_PASSPHRASE BEARER_TOKEN VAULT_TOKEN STRIPE_APIKEY
VSCODE_GIT_IPC_AUTH_TOKEN NPM_CONFIG__AUTHTOKEN DOCKER_AUTH_CONFIG DATABASE_URL SENTRY_DSN""".split()

SENT = """PATH HOME USER PWD OLDPWD LANG TZ OMP_NUM_THREADS PYTHONPATH CUDA_VISIBLE_DEVICES X509_USER_PROXY
KRB5CCNAME BEARER_TOKEN_FILE TOKENIZERS_PARALLELISM KEYBOARD MONKEY COMPASS http_proxy XDG_DATA_DIRS
CONDA_PREFIX LD_LIBRARY_PATH ROOTSYS SSHD AUTHOR EOS_MGM_URL""".split()

VALUE = "hunter2"


@pytest.fixture
def environ(monkeypatch):
    """Set all of these variables, and no others."""
    monkeypatch.setattr(os, "environ", dict.fromkeys([*SECRET, *SENT], VALUE))


def sent(*args):
    """Return the names of variables that are sent, without that of pytest."""
    return set(secrets.environment_to_send(*args)) - {"PYTEST_CURRENT_TEST"}


@pytest.mark.usefixtures("environ")
class TestWhatIsSent:
    """By the private file, and by the job ad."""

    def test_secrets_stay_here(self):
        """All others are sent."""
        assert sent([]) == set(SENT)

    def test_those_that_the_user_names(self):
        """By name or pattern, in capitals or not."""
        aws = {name for name in SECRET if name.startswith("AWS_")}
        assert sent(["HF_TOKEN", "aws_*"]) == {*SENT, "HF_TOKEN", *aws}

    def test_the_users_own_environment(self):
        """Replaces ours; what they name as secrets is sent nevertheless."""
        assert secrets.environment_to_send([], "") == {}
        assert secrets.environment_to_send(["HF_TOKEN"], "") == {"HF_TOKEN": VALUE}

    @pytest.mark.parametrize(
        ("getenv", "privately"),
        [
            ("True", set(SENT)),
            ("*", set(SENT)),
            ("False", set()),
            ("HF_TOKEN, OMP_*", {"HF_TOKEN", "OMP_NUM_THREADS"}),
            ("*TOKEN*; !TOKENIZERS*", {"BEARER_TOKEN_FILE"}),
        ],
    )
    def test_getenv(self, getenv, privately):
        """What it names in full is sent, but no secret is in the job ad."""
        assert sent([], getenv) == privately
        built = secrets.public(getenv)
        if getenv != "False":
            assert "!*TOKEN*" in built.split(", ")
            assert "!SSH_*" in built.split(", ")

    def test_the_kernels_own_variables_stay_here(self, monkeypatch):
        """A job, for one, does not use the kernel's backend of matplotlib."""
        monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        monkeypatch.setenv("_CONDOR_SCRATCH_DIR", "x")
        assert sent([]) == set(SENT)

    def test_no_value_is_in_an_error(self):
        """A secret that is given in place of its name is not shown."""
        for wrong in ({"HF_TOKEN": VALUE}, f"HF_TOKEN={VALUE}", [f"{VALUE}-x"]):
            with pytest.raises((TypeError, ValueError)) as raised:
                resources.check({"secrets": wrong}, {})
            assert VALUE not in str(raised.value)
        with pytest.raises(ValueError, match="secrets has 'HF_TOKNE'"):
            resources.check({"secrets": ["HF_TOKNE"]}, {})
        assert resources.check({"secrets": "HF_TOKEN"}, {}) == {"secrets": ("HF_TOKEN",)}


@pytest.mark.parametrize("name", ["environ", "environb"])
def test_a_function_that_uses_the_environment(monkeypatch, name):
    """It gets that of its job: ours, with its secrets, is not sent with it."""
    monkeypatch.setenv("HF_TOKEN", VALUE)
    names = {"environ": getattr(os, name)}
    exec("def read():\n    return environ", names)
    (data,) = pickled(names["read"]).frames
    assert VALUE.encode() not in data
    assert pickle.loads(data)() is getattr(os, name)


READ = 'File "{}", line 679, in __getitem__\n    raise KeyError(key) from None\nKeyError: {!r}\n'


@pytest.mark.parametrize(
    ("file", "name", "is_explained"),
    [
        ("<frozen os>", "HF_TOKEN", True),
        ("/usr/lib/python3.10/os.py", "HF_TOKEN", True),
        ("<frozen os>", "OTHER", False),
        ("/home/me/tokens.py", "HF_TOKEN", False),
    ],
)
def test_a_missing_variable_is_explained(monkeypatch, file, name, is_explained):
    """The note on the call's error stays when others are replaced."""
    monkeypatch.setenv("HF_TOKEN", VALUE)
    error = KeyError(name)
    error.__cause__ = outcomes.RemoteTraceback("")
    if why := secrets.explanation(error, READ.format(file, name)):
        notes.explain(error, why)
    notes.annotate(error, "another")
    notes.annotate(error)
    found = "".join(getattr(error, "__notes__", ()))
    assert ("Pool(secrets=['HF_TOKEN'])" in found) is is_explained
    assert VALUE not in found


def test_the_list_is_documented():
    """What users read is what is done."""
    text = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    (listed,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert tuple(listed.split()) == secrets.SECRET
    assert all(name in text for name in secrets.HARMLESS if "*" not in name)


def test_options_are_in_the_record():
    """Names only."""
    options = description.JobOptions(secrets=("A",), limit_directory_access=None)
    again = description.JobOptions.restored(json.loads(json.dumps(options.recorded())))
    assert (again.secrets, again.limit_directory_access) == (("A",), None)
